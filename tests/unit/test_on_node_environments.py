"""environments.py, run as it is run on nodes, beside processes that look like Ray's and vLLM's."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import on_node
from cluster.on_node import environments
from cluster.on_node.environments import MOST_LOG_BYTES, is_server, log_file

PROGRAM = Path(on_node.__file__).with_name("environments.py")
HOST = socket.gethostname()
WAIT = "import sys\nprint(flush=True)\nsys.stdin.read()"
Processes = dict[int, dict[str, Any]]


@contextmanager
def living(env: Mapping[str, str], *argv: str, title: str = "") -> Iterator[int]:
    """A process with this environment, whose first word is `title`; its pid."""
    process = subprocess.Popen(
        (title or sys.executable, "-S", "-c", WAIT, *argv),
        executable=sys.executable,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.communicate()


def run(folder: Path, *names: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        (sys.executable, "-S", str(PROGRAM), str(folder), *names),
        env=dict(env or {}),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def by_pid(answer: Mapping[str, Any]) -> Processes:
    return {one["pid"]: one for one in answer["processes"]}


@pytest.mark.parametrize(
    ("title", "kind", "what"),
    [
        ("/opt/ray/raylet", "ray", "raylet"),
        ("ray::IDLE", "ray", "ray::IDLE"),
        ("ray::RayWorkerProc.run", "rank", "ray::RayWorkerProc.run"),
        ("ray::RayWorkerWrapper.execute_method", "rank", "ray::RayWorkerWrapper.execute_method"),
        ("VLLM::EngineCore", "engine", "EngineCore"),
        ("VLLM::Worker_TP0_PP1", "rank", "Worker_TP0_PP1"),
        ("VLLM::APIServer_0", "server", "APIServer_0"),
        ("mine::Worker_TP3", "rank", "Worker_TP3"),
    ],
)
def test_processes_are_known_by_their_titles(title: str, kind: str, what: str, tmp_path: Path) -> None:
    with living({"NCCL_IB_HCA": "=mlx5_0:1"}, title=title) as pid:
        found = by_pid(run(tmp_path))[pid]
    assert found == {"pid": pid, "kind": kind, "what": what, "environment": {"NCCL_IB_HCA": "=mlx5_0:1"}}


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        (("python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "x"), True),
        (("/usr/bin/python3", "/usr/local/bin/vllm", "serve", "x"), True),
        (("/usr/local/bin/vllm", "serve", "x"), True),
        (("python3", "/usr/local/bin/vllm", "bench", "serve"), False),
        (("grep", "vllm.entrypoints.openai.api_server"), False),
        (("vi", "/usr/local/bin/vllm"), False),
        (("python3",), False),
    ],
)
def test_the_server_is_known_by_its_command(line: tuple[str, ...], is_one: bool) -> None:
    assert is_server(list(line)) is is_one


def test_only_planned_variables_and_those_of_the_network_are_told_and_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("HF_HUB_OFFLINE=1\nHF_TOKEN=hf_a\nWITH_EQUALS=a=b\n\n")
    (tmp_path / "network.env").write_text("NCCL_IB_HCA==mlx5_0:1\n")
    environment = {
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_verysecret",
        "AWS_SECRET_ACCESS_KEY": "verysecret",
        "NCCL_IB_HCA": "=mlx5_9",
        "NCCL_MYSTERY": "1",
        "NCCL_TOKEN": "verysecret",
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_HOST_IP": "10.0.0.1",
        "RAY_ADDRESS": "10.0.0.1:6379",
        "SOMETHING_ELSE": "verysecret",
    }
    with living(environment, title="raylet") as pid:
        answer = run(tmp_path, "TP_SOCKET_IFNAME", "SOME_KEY")
    assert answer["host"] == HOST
    assert answer["names"] == ["HF_HUB_OFFLINE", "NCCL_IB_HCA", "TP_SOCKET_IFNAME", "WITH_EQUALS"]
    assert answer["network_env"] == {"NCCL_IB_HCA": "=mlx5_0:1"}
    assert "verysecret" not in json.dumps(answer)
    assert by_pid(answer)[pid]["environment"] == {
        name: environment[name]
        for name in (
            *("GLOO_SOCKET_IFNAME", "HF_HUB_OFFLINE", "NCCL_IB_HCA", "NCCL_MYSTERY"),
            *("RAY_ADDRESS", "VLLM_HOST_IP"),
        )
    }


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "hf_token", "api_key", "AWS_SECRET_ACCESS_KEY", "PGPASS", "PGPASSFILE", "MYSQL_PWD"),
        *("DB_PWD", "Password", "GOOGLE_APPLICATION_CREDENTIALS", "REGISTRY_AUTH", "NCCL_x_pass"),
    ],
)
def test_names_that_speak_of_a_secret(name: str, tmp_path: Path) -> None:
    """Also where the plan has them; and what is not told is not compared."""
    (tmp_path / "env").write_text(f"{name}=verysecret\n")
    (tmp_path / "network.env").write_text(f"{name}=verysecret\nNCCL_X=1\n")
    with living({name: "verysecret"}, title="raylet") as pid:
        answer = run(tmp_path, name)
    assert "verysecret" not in json.dumps(answer)
    assert (answer["names"], answer["network_env"]) == (["NCCL_X"], {"NCCL_X": "1"})
    assert by_pid(answer)[pid]["environment"] == {}


def test_a_partition_key_is_no_secret(tmp_path: Path) -> None:
    with living({"NCCL_IB_PKEY": "1"}, title="raylet") as pid:
        assert by_pid(run(tmp_path))[pid]["environment"] == {"NCCL_IB_PKEY": "1"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("http://user:pa@ss@proxy:3128", "http://[redacted]@proxy:3128"),
        ("http://a:b@one, https://c:d@two/x", "http://[redacted]@one, https://[redacted]@two/x"),
        ("http://proxy/a@b", "http://proxy/a@b"),
        ("http://proxy?a=b@c", "http://proxy?a=b@c"),
    ],
)
def test_a_password_in_a_url_stays_on_the_node(value: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("HTTPS_PROXY=http://proxy\n")
    with living({"HTTPS_PROXY": value}, title="raylet") as pid:
        answer = run(tmp_path)
    assert by_pid(answer)[pid]["environment"] == {"HTTPS_PROXY": told}
    assert answer["names"] == ["HTTPS_PROXY"]


def test_what_is_planned_with_a_password_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("HTTPS_PROXY=http://user:verysecret@proxy\nNCCL_X=1\n")
    (tmp_path / "network.env").write_text("NCCL_NET=http://user:verysecret@x\n")
    answer = run(tmp_path)
    assert answer["names"] == ["NCCL_X"]
    assert answer["network_env"] == {"NCCL_NET": "http://[redacted]@x"}


def test_without_files_there_is_nothing_planned(tmp_path: Path) -> None:
    answer = run(tmp_path)
    assert (answer["names"], answer["network_env"]) == ([], None)


def test_it_waits_for_the_first_process(tmp_path: Path) -> None:
    mark = {"CLUSTERCTL_PROCESS": f"{tmp_path}/processes/ray"}  # beside these there are none
    waiting = subprocess.Popen(
        (sys.executable, "-S", str(PROGRAM), str(tmp_path), "--wait", "30"), env=mark, stdout=subprocess.PIPE
    )
    with living(mark, title="raylet") as pid:
        answer = json.loads(waiting.communicate(timeout=30)[0])
    assert list(by_pid(answer)) == [pid]
    assert run(tmp_path, env=mark)["processes"] == []


def test_a_value_that_is_no_text_does_no_harm(tmp_path: Path) -> None:
    command = 'NCCL_X=$(printf "\\377") exec -a raylet sleep 60'
    process = subprocess.Popen(("bash", "-c", command))
    try:
        while "raylet" not in (line := Path(f"/proc/{process.pid}/cmdline").read_text()):
            assert process.poll() is None, line
        assert by_pid(run(tmp_path))[process.pid]["environment"]["NCCL_X"] == "\ufffd"
    finally:
        process.kill()
        process.wait()


def test_a_process_that_has_overwritten_its_environment_has_none(tmp_path: Path) -> None:
    """As setproctitle leaves it: zeros."""
    with living({}, title="raylet") as pid:
        assert by_pid(run(tmp_path))[pid]["environment"] is None


def test_with_the_engine_process_only_those_of_the_same_cluster_count(tmp_path: Path) -> None:
    def marked(name: str) -> dict[str, str]:
        return {"CLUSTERCTL_PROCESS": f"/home/a/.clusterctl/{name}", "NCCL_X": "1"}

    with ExitStack() as stack:
        ours = {
            stack.enter_context(
                living(marked(f"demo/gpu-01/processes/clusterctl-demo-{role}"), title="raylet")
            )
            for role in ("ray", "serve")
        }
        others = {
            stack.enter_context(
                living(marked("other/gpu-01/processes/clusterctl-other-ray"), title="raylet")
            ),
            stack.enter_context(living({"NCCL_X": "1"}, title="raylet")),
        }
        pids = set(by_pid(run(tmp_path, env=marked("demo/gpu-01/processes/clusterctl-demo-ray"))))
        in_a_container = set(by_pid(run(tmp_path)))
    assert pids & (ours | others) == ours
    assert in_a_container >= ours | others


# --- NCCL's logs ------------------------------------------------------------------------------------


def logs(answer: Mapping[str, Any]) -> dict[int, tuple[bytes, bool]]:
    return {
        one["pid"]: (gzip.decompress(base64.b64decode(one["gzip"])), one["cut"]) for one in answer["logs"]
    }


def test_the_log_of_a_living_process_is_told_and_no_other(tmp_path: Path) -> None:
    pattern = f"{tmp_path}/%h.%p"
    short = HOST.partition(".")[0]
    (tmp_path / f"{short}.1").write_text("of a process that is gone")
    with living({"NCCL_DEBUG_FILE": pattern}, title="ray::RayWorkerProc") as pid:
        (tmp_path / f"{short}.{pid}").write_bytes(b"NCCL INFO one\n")
        answer = run(tmp_path)
    assert logs(answer) == {pid: (b"NCCL INFO one\n", False)}


def test_a_long_log_keeps_its_head(tmp_path: Path) -> None:
    with living({"NCCL_DEBUG_FILE": f"{tmp_path}/log"}, title="raylet") as pid:
        (tmp_path / "log").write_bytes(b"head" + bytes(MOST_LOG_BYTES))
        ((content, cut),) = [logs(run(tmp_path))[pid]]
    assert (content[:4], len(content), cut) == (b"head", MOST_LOG_BYTES, True)


def test_the_size_is_that_of_the_whole_log(tmp_path: Path) -> None:
    with living({"NCCL_DEBUG_FILE": f"{tmp_path}/log"}, title="raylet"):
        (tmp_path / "log").write_bytes(bytes(MOST_LOG_BYTES + 7))
        (log,) = run(tmp_path)["logs"]
    assert (log["size"], log["cut"]) == (MOST_LOG_BYTES + 7, True)


def test_logs_for_which_there_is_no_more_room_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "MOST_BYTES", 10)
    monkeypatch.setattr(environments, "MOST_LOG_BYTES", 8)
    names = [str(tmp_path / name) for name in "abc"]
    for name in names:
        Path(name).write_bytes(bytes(9))
    told = environments.logs({pid: {"NCCL_DEBUG_FILE": name} for pid, name in enumerate(names, 1)})
    read = [len(gzip.decompress(base64.b64decode(log["gzip"]))) for log in told]
    assert [(log["size"], log["cut"]) for log in told] == [(9, True)] * 3
    assert read == [8, 2, 0]


def test_it_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """No __pycache__: the folder is what was rendered."""
    copy = tmp_path / "on_node"
    copy.mkdir()
    for name in ("environments.py", "packed_log.py"):
        (copy / name).write_text(on_node.program(name))
    subprocess.run((sys.executable, str(copy / "environments.py"), str(tmp_path)), check=True, env={})
    assert sorted(file.name for file in copy.iterdir()) == ["environments.py", "packed_log.py"]


@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        ("/log/nccl.%p", "/log/nccl.7"),
        ("/log/%h-%%-%x", f"/log/{HOST.partition('.')[0]}-%-%x"),
        ("/log/nccl", "/log/nccl"),
    ],
)
def test_the_name_of_a_log_is_made_as_nccl_makes_it(pattern: str, file: str) -> None:
    assert log_file(pattern, 7) == file
