"""The container engine, the image, and what a container finds in it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from findings import WITHOUT_ENGINE, complete, found, found_inside, is_mended, told
from samples import PROCESS, plan

from cluster.checks import judge, preflight
from cluster.checks.engine import SHM_BROADCAST, SHM_PER_WORKER
from cluster.errors import Problem
from cluster.facts import Facts, Versions, inside, read_facts, script_of, what_is_ours
from cluster.facts.hardware import System
from cluster.facts.types import EngineSetup
from cluster.plan import Plan
from cluster.steps import Result

MEBIBYTE = 1024**2
PLANS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"runtime.engine": "podman"}, None),
    ({"serve.executor_backend": "mp"}, None),
    ({"network.hcas": "none"}, None),
    ({"nodes.0.hcas": ["mlx5_0"], "nodes.1.hcas": ["mlx5_1:1"]}, None),
    ({"runtime.device": "cpu"}, None),
    ({"model.source": "/models/llama", "runtime.mounts": ["/models:/models:ro"]}, None),
    ({}, PROCESS),
]


def planned(changes: dict[str, Any], base: str | None) -> Plan:
    return plan(changes) if base is None else plan(changes, base)


@pytest.mark.parametrize(("changes", "base"), PLANS, ids=str)
def test_nodes_of_which_everything_is_known_and_good_have_no_problems(
    changes: dict[str, Any], base: str | None
) -> None:
    one = planned(changes, base)
    assert preflight(one, complete(one)) == ()


@pytest.mark.parametrize(("changes", "base"), PLANS, ids=str)
def test_a_node_that_did_not_answer_is_left_out(changes: dict[str, Any], base: str | None) -> None:
    one = planned(changes, base)
    assert preflight(one, {}) == ()
    assert preflight(one, dict(list(complete(one).items())[:1])) == ()


# --- the engine answers -----------------------------------------------------------------------------

DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
DENIED = (
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: "
    'Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.47/version": dial unix /var/run/docker.sock: connect: '
    "permission denied"
)


@pytest.mark.parametrize(
    ("engine", "said", "id_", "remedy"),
    [
        ("docker", DOWN, "docker-daemon-down", "Run `systemctl start docker` on gpu-02"),
        ("docker", DENIED, "docker-permission", "`sudo usermod -aG docker $USER`"),
        ("docker", "Got permission denied while trying to connect", "docker-permission", "usermod"),
        ("docker", "sh: 1: docker: not found", "engine-missing", "Install docker on gpu-02"),
        ("docker", "sh: line 1: docker: command not found", "engine-missing", "Install docker"),
        ("docker", "sh: docker: not found", "engine-missing", "Install docker"),
        ("podman", "sh: 1: podman: not found", "engine-missing", "Install podman"),
        (
            "podman",
            "timeout: failed to run command ‘podman’: No such file or directory",
            "engine-missing",
            "Install podman",
        ),
        ("docker", 'context "rootless": context not found', "docker-daemon-down", "systemctl"),
        ("docker", "no answer", "docker-daemon-down", "systemctl"),
    ],
)
def test_an_engine_that_does_not_answer(engine: str, said: str, id_: str, remedy: str) -> None:
    (problem,) = found(
        plan({"runtime.engine": engine}),
        engine_version=None,
        engine_error=said,
        image_id=None,
        versions=None,
        inside=None,
        engine_setup=None,
    )
    assert told([problem]) == [(id_, "gpu-02", "error")]
    assert remedy in problem.remedy and is_mended(problem)
    assert problem.found.startswith(engine)


def test_an_engine_that_has_a_version_and_will_not_list_containers_does_not_answer() -> None:
    assert told(found(plan(), engine_error=DOWN)) == [("docker-daemon-down", "gpu-02", "error")]


# --- the image --------------------------------------------------------------------------------------

WITHOUT_IMAGE: dict[str, Any] = {"image_id": None, "image_env": {}, "versions": None, "inside": None}


def test_an_image_that_is_still_to_be_pulled_is_no_problem() -> None:
    assert found(plan(), **WITHOUT_IMAGE) == []


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_an_image_that_may_not_be_pulled(engine: str) -> None:
    (problem,) = found(plan({"runtime.pull": "never", "runtime.engine": engine}), **WITHOUT_IMAGE)
    assert told([problem]) == [("image-missing", "gpu-02", "error")]
    assert f"`{engine} pull registry.local/vllm-ray:v0.33.0` on gpu-02" in problem.remedy


RUN = "docker: Error response from daemon: "


@pytest.mark.parametrize(
    ("said", "id_", "remedy"),
    [
        (
            f'{RUN}could not select device driver "" with capabilities: [[gpu]].',
            "nvidia-runtime-missing",
            "`sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker`",
        ),
        (
            "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: "
            "cannot open shared object file: no such file or directory: unknown",
            "nvidia-runtime-missing",
            "nvidia-container-toolkit",
        ),
        (
            "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
            "nvidia-runtime-missing",
            "nvidia-ctk",
        ),
        (
            f'{RUN}invalid mount config for type "bind": bind source path does not exist: /data/models.',
            "mount-missing",
            "runtime.mounts",
        ),
        (
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please update your "
            "driver to a newer version, or use an earlier cuda container: unknown.",
            "driver-too-old",
            "Upgrade the NVIDIA driver on gpu-02",
        ),
        (
            "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch",
            "driver-lib-mismatch",
            "Reboot gpu-02",
        ),
        (
            "nvidia-container-cli: initialization error: nvml error: driver not loaded",
            "driver-not-loaded",
            "`sudo modprobe nvidia` on gpu-02",
        ),
        (
            'exec: "python3": executable file not found in $PATH: unknown',
            "image-no-python",
            "Use an image with Python, vLLM and Ray",
        ),
    ],
)
def test_a_container_that_does_not_start(said: str, id_: str, remedy: str) -> None:
    (problem,) = found(plan(), versions=None, inside=None, versions_error=said)
    assert told([problem]) == [(id_, "gpu-02", "error")]
    assert remedy in problem.remedy and said.rstrip(".") in problem.found


def test_an_image_without_ray_or_vllm() -> None:
    (ray,) = found(plan(), versions=Versions("3.12.3", None, "0.33.0"))
    assert told([ray]) == [("image-no-ray", "gpu-02", "error")]
    assert "docker build -t vllm-ray" in ray.remedy and "serve.executor_backend: mp" in ray.remedy
    (vllm,) = found(plan(), versions=Versions("3.12.3", "2.60.0", None))
    assert told([vllm]) == [("image-no-vllm", "gpu-02", "error")]
    with_mp = plan({"serve.executor_backend": "mp"})
    without_ray = Versions("3.12.3", None, "0.33.0")
    assert preflight(with_mp, complete(with_mp, versions=without_ray)) == ()


def test_names_that_somebody_else_has() -> None:
    (problem,) = found(plan(), name_conflicts=("clusterctl-demo-ray",))
    assert told([problem]) == [("container-name-conflict", "gpu-02", "error")]
    assert "`docker inspect clusterctl-demo-ray`" in problem.remedy


# --- how the engine is set up -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtimes", "image", "ids"),
    [
        (("runc",), None, ["nvidia-runtime-missing"]),
        ((), None, ["nvidia-runtime-missing"]),
        (("nvidia", "runc"), None, []),
        # A container with GPUs has been started: the toolkit's hook does without a runtime of its own.
        (("runc",), "sha256:" + "a" * 64, []),
    ],
)
def test_a_docker_without_the_toolkit_is_guessed_where_no_container_could_be_tried(
    runtimes: tuple[str, ...], image: str | None, ids: list[str]
) -> None:
    without = WITHOUT_IMAGE if image is None else {}
    problems = found(plan(), engine_setup=EngineSetup("overlay2", "/", runtimes), **without)
    assert told(problems) == [(id_, "gpu-02", "warning") for id_ in ids]
    assert all(map(is_mended, problems))


@pytest.mark.parametrize("changes", [{"runtime.engine": "podman"}, {"runtime.device": "cpu"}])
def test_podman_and_cpus_need_no_runtime_of_nvidia(changes: dict[str, Any]) -> None:
    assert found(plan(changes), engine_setup=EngineSetup("overlay", "/", ("crun",)), **WITHOUT_IMAGE) == []


@pytest.mark.parametrize(
    ("driver", "ids"),
    [("vfs", ["storage-driver"]), ("overlay2", []), ("overlayfs", []), ("btrfs", []), ("", [])],
)
def test_a_storage_driver_that_copies(driver: str, ids: list[str]) -> None:
    problems = found(plan(), engine_setup=EngineSetup(driver, "/", ("nvidia",)))
    assert told(problems) == [(id_, "gpu-02", "warning") for id_ in ids]


WITH_MOUNT = {"runtime.mounts": ["/models:/models:ro"]}


@pytest.mark.parametrize(
    ("changes", "selinux", "security", "fires"),
    [
        (WITH_MOUNT, "Enforcing", ("name=seccomp", "name=selinux"), True),
        (WITH_MOUNT, "Permissive", ("name=selinux",), False),
        (WITH_MOUNT, "Enforcing", ("name=seccomp",), False),
        ({}, "Enforcing", ("name=selinux",), False),
        (WITH_MOUNT | {"runtime.privileged": True}, "Enforcing", ("name=selinux",), False),
        (
            WITH_MOUNT | {"runtime.extra_args": ["--security-opt", "label=disable"]},
            "Enforcing",
            ("name=selinux",),
            False,
        ),
        ({}, "", ("name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"), True),
        ({}, "", ("name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"), False),
    ],
)
def test_selinux_and_rootless(
    changes: dict[str, Any], selinux: str, security: tuple[str, ...], fires: bool
) -> None:
    problems = found(
        plan(changes),
        engine_setup=EngineSetup("overlay2", "/", ("nvidia",), security),
        system=System(hostname="gpu-02", selinux=selinux),
    )
    assert told(problems) == ([("selinux-rootless", "gpu-02", "warning")] if fires else [])


# --- limits in the container ------------------------------------------------------------------------

# Two workers a node, see vllm/distributed/device_communicators/shm_broadcast.py.
ENOUGH_SHM = SHM_BROADCAST + 2 * SHM_PER_WORKER


@pytest.mark.parametrize(
    ("shm", "fires"), [(64 * MEBIBYTE, True), (ENOUGH_SHM - 1, True), (ENOUGH_SHM, False), (None, False)]
)
def test_shared_memory(shm: int | None, fires: bool) -> None:
    problems = found_inside(plan(), shm_bytes=shm)
    assert told(problems) == ([("shm-small", "gpu-02", "error")] if fires else [])
    for problem in problems:
        assert problem.expected == "at least 640 MiB for 2 workers"
        assert problem.remedy == "Set runtime.shm_size: 16g"


def test_a_small_dev_shm_of_the_node_is_named_as_such_for_processes() -> None:
    local = plan(base=PROCESS)
    (problem,) = found_inside(local, node=0, shm_bytes=64 * MEBIBYTE)
    assert problem.found == "/dev/shm of the node has 64 MiB"


@pytest.mark.parametrize(
    ("device", "limit", "fires"),
    [
        ("cuda", 1024, True),
        ("cuda", 65535, True),
        ("cuda", 65536, False),
        ("cuda", None, False),
        ("cpu", 8191, True),
        ("cpu", 8192, False),
    ],
)
def test_open_files(device: str, limit: int | None, fires: bool) -> None:
    problems = found_inside(plan({"runtime.device": device}), nofile=limit)
    assert told(problems) == ([("nofile-low", "gpu-02", "warning")] if fires else [])


# --- what follows -----------------------------------------------------------------------------------


def test_errors_stop_up_warnings_do_not_and_what_is_ignored_is_kept_apart() -> None:
    problems = (
        Problem("gpu-busy", "gpu-01", "", "", ""),
        Problem("nofile-low", "gpu-01", "", "", "", "warning"),
        Problem("clock-skew", "gpu-02", "", "", "", "warning"),
    )
    verdict = judge(problems, ["gpu-busy", "clock-skew"])
    assert (verdict.errors, verdict.warnings) == ((), (problems[1],))
    assert verdict.ignored == (problems[0], problems[2])
    assert judge(problems).errors == (problems[0],)


def test_all_problems_of_all_nodes_come_at_once_each_with_what_mends_it() -> None:
    one = plan()
    broken = Facts(
        engine_error=DOWN,
        name_conflicts=("clusterctl-demo-ray",),
        gpu_error="Failed to initialize NVML: Driver/library version mismatch",
    )
    problems = preflight(one, {"gpu-01": broken, "gpu-02": broken})
    assert [(p.id, p.node) for p in problems] == [
        (id_, node)
        for node in ("gpu-01", "gpu-02")
        for id_ in ("docker-daemon-down", "container-name-conflict", "driver-lib-mismatch")
    ]
    assert all(map(is_mended, problems))


# --- a container that does not start ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said", "id_"),
    [
        (
            125,
            "docker: Error response from daemon: error setting rlimit type 8: not permitted",
            "container-refused",
        ),
        (125, "Error: statfs /data/models: no such file or directory", "mount-missing"),
        (125, "failed to discover GPU vendor from CDI: no known GPU vendor found", "nvidia-runtime-missing"),
        (125, "write /var/lib/docker/tmp: no space left on device", "disk-full"),
        (127, 'exec: "python3": executable file not found in $PATH', "image-no-python"),
        (1, "ImportError: libz.so.1", "image-no-python"),
        (124, "no answer within 30 s", "container-hangs"),
        (137, "no answer within 30 s", "container-hangs"),
    ],
)
def test_who_is_to_blame_for_a_container_that_does_not_start(code: int, said: str, id_: str) -> None:
    (problem,) = found(plan(), versions=None, inside=None, versions_error=said, inside_code=code)
    assert told([problem]) == [(id_, "gpu-02", "error")] and is_mended(problem)


@pytest.mark.parametrize("code", [124, 137])
def test_an_answer_that_never_came_is_not_taken_for_nothing(code: int) -> None:
    assert inside.parse_inside(Result(code, "", "")) == {
        "versions_error": "no answer within 30 s",
        "inside_code": code,
    }


def test_a_mount_that_is_missing_is_told_once_and_before_the_image_is_there() -> None:
    mounted = plan({"runtime.mounts": ["/data/models:/models:ro"]})
    (problem,) = found(mounted, image_id=None, versions=None, inside=None, missing_mounts=("/data/models",))
    assert told([problem]) == [("mount-missing", "gpu-02", "error")]
    said = "invalid mount config for type: bind source path does not exist: /data/models"
    refused = {"versions": None, "inside": None, "versions_error": said, "inside_code": 125}
    assert found(mounted, missing_mounts=("/data/models",), **refused) == [problem]


def test_of_an_image_that_is_pulled_anyway_nothing_stops_the_pull() -> None:
    always = plan({"runtime.pull": "always"})
    assert {p.severity for p in found(always, versions=Versions("3.12.4", None, "0.32.0"))} == {"warning"}
    assert {p.severity for p in found(always, image_id="sha256:other")} == {"warning"}


def test_podman_has_no_daemon_to_start() -> None:
    podman = plan({"runtime.engine": "podman"})
    (problem,) = found(podman, **WITHOUT_ENGINE, engine_error="Error: default OCI runtime not found")
    assert problem.id == "docker-daemon-down" and "`podman info`" in problem.remedy


@pytest.mark.parametrize("warning", ["WARNING: Error loading config file", 'level=warning msg="no systemd"'])
def test_what_an_engine_warns_of_is_no_failure(tmp_path: Path, warning: str) -> None:
    """As `docker ps` and `docker inspect` print it, on stderr and beside their answer."""
    client = tmp_path / "docker"
    client.write_text(
        f"#!/bin/sh\necho '{warning}' >&2\ncase $1 in\n  version) echo 20.10.24 ;;\n"
        "  ps) [ $# -gt 5 ] || echo 0123456789ab ;;\n  inspect) echo '[]' ;;\nesac\n"
    )
    client.chmod(0o755)
    facts = tuple(fact for fact in what_is_ours(plan(), plan().head) if fact.name != "files")
    done = subprocess.run(
        ["sh", "-s"],
        input=script_of(facts),
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    answer = read_facts(facts, done.stdout)
    assert (answer.engine_version, answer.engine_error, answer.containers) == ("20.10.24", "", ())
