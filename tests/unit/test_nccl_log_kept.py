"""serve.nccl_debug: NCCL finds its variables, and the folder of its file, where Ray and vLLM start."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from samples import PROCESS, plan

from cluster.plan import Plan
from cluster.render import digests, node_files

SAYS = '#!/bin/sh\necho "${NCCL_DEBUG_FILE-unset}"\n[ -d "${NCCL_DEBUG_FILE%/*}" ] && echo folder\nexit 0\n'


def started(plan: Plan, script: str, tmp_path: Path) -> list[str]:
    """What a program that a script starts finds: the file's name, and whether its folder is there."""
    for file in node_files(plan, plan.head):
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_text(file.content)
    (tmp_path / "bin").mkdir()
    for program in ("ray", "vllm", "python3"):
        (tmp_path / "bin" / program).write_text(SAYS)
        (tmp_path / "bin" / program).chmod(0o755)
    environment = {
        **dict(plan.head.env),
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "CLUSTERCTL_TMP": f"{tmp_path}/t",
    }
    done = subprocess.run(
        ("sh", tmp_path / script), env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", ["ray.sh", "serve.sh"])
@pytest.mark.parametrize("base", [None, PROCESS], ids=["docker", "process"])
def test_each_process_has_a_file_of_its_own_in_a_folder_that_is_there(
    script: str, base: str | None, tmp_path: Path
) -> None:
    kept = plan({"serve.nccl_debug": True}, *([base] if base else []))
    assert started(kept, script, tmp_path) == [f"{tmp_path}/t/nccl/%h.%p", "folder"]


def test_without_the_key_there_is_none(tmp_path: Path) -> None:
    assert started(plan(), "ray.sh", tmp_path)[0] == "unset"
    assert "NCCL_DEBUG" not in dict(plan().head.env)


def test_what_the_user_wrote_wins(tmp_path: Path) -> None:
    own = {"NCCL_DEBUG": "TRACE", "NCCL_DEBUG_FILE": "/nowhere/nccl.%p"}
    kept = plan({"serve.nccl_debug": True, "network.nccl_env": own})
    environment = dict(kept.head.env)
    assert started(kept, "serve.sh", tmp_path) == ["/nowhere/nccl.%p"]
    assert (environment["NCCL_DEBUG"], environment["NCCL_DEBUG_SUBSYS"]) == (
        "TRACE",
        "INIT,BOOTSTRAP,ENV,NET,GRAPH",
    )
    assert not kept.keeps_nccl_logs(kept.head)


def test_what_runs_without_it_is_started_again_with_it() -> None:
    kept = plan({"serve.nccl_debug": True})
    assert digests(kept, kept.head).ray != digests(plan(), plan().head).ray
