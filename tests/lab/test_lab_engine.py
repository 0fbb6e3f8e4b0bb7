"""Real hosts with a real container engine each.

CLUSTERCTL_LAB_PYTHON names the Python environment that the containers get; default: the one of the tests.
"""

import importlib.util
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import LabError
from cluster.lab import environment, faults, files, host, image, lifecycle
from cluster.lab.spec import BASE, IMAGE, Host, Lab, LabSpec

NAME = f"e-{os.getpid()}"
PYTHON = os.environ.get("CLUSTERCTL_LAB_PYTHON")
SPEC = LabSpec(NAME, nodes=2, python=Path(PYTHON) if PYTHON else None)


def reason_to_skip() -> str:
    try:
        environment.check_machine(SPEC)
    except LabError as error:
        return str(error)
    return ""


SKIP = reason_to_skip()
pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield lifecycle.up(SPEC)
    lifecycle.down(NAME)


def docker_run(
    lab: Lab, target: Host, *command: str, tag: str = IMAGE, detach: bool = False
) -> subprocess.CompletedProcess[str]:
    mounts = (word for mount in lab.mounts for word in ("--volume", mount))
    how = ("--detach",) if detach else ("--rm",)
    return host.run(target, "docker", "run", *how, "--network", "host", *mounts, tag, *command, timeout=120)


def test_a_container_has_its_hosts_name_and_network_and_the_labs_python(lab: Lab) -> None:
    for target in lab.hosts:
        said = docker_run(
            lab, target, "sh", "-c", "hostname; hostname -I; python3 -c 'import sys; print(sys.prefix)'"
        )
        assert said.stdout.split() == [target.name, target.address, lab.venv], said.stderr


def test_engines_do_not_share_containers(lab: Lab) -> None:
    first = lab.hosts[0]
    started = docker_run(lab, first, "sleep", "600", detach=True)
    assert started.returncode == 0, started.stderr
    assert [one.containers for one in lifecycle.status(NAME)] == [1, 0]
    host.run(first, "docker", "rm", "--force", started.stdout.strip())
    assert [one.containers for one in lifecycle.status(NAME)] == [0, 0]


def test_ray_and_vllm_work_inside(lab: Lab) -> None:
    packages = Path(lab.venv, "lib").glob("python3*/site-packages/vllm")
    if not any(packages) and importlib.util.find_spec("vllm") is None:
        pytest.skip(f"{lab.venv} has no vllm: set CLUSTERCTL_LAB_PYTHON")
    said = docker_run(lab, lab.hosts[0], "python3", "-c", "import ray, torch, vllm; print('imported')")
    assert said.stdout.strip().endswith("imported"), said.stderr


def test_an_image_without_ray_is_one_call_away(lab: Lab) -> None:
    image.import_image(lab.hosts[0], "clusterctl-lab:no-ray")
    said = docker_run(lab, lab.hosts[0], "python3", "-c", "import ray", tag="clusterctl-lab:no-ray")
    assert "No module named 'ray'" in said.stderr


def test_an_engine_that_is_down_and_up_again(lab: Lab) -> None:
    target = lab.hosts[1]
    host.stop_engine(target)
    assert [one.engine for one in lifecycle.status(NAME)] == [True, False]
    assert "Cannot connect to the Docker daemon" in host.run(target, "docker", "ps").stderr
    host.start_engine(target)
    assert [one.engine for one in lifecycle.status(NAME)] == [True, True]


def sleeping(lab: Lab, target: Host) -> str:
    """The id of a container with two processes."""
    started = docker_run(lab, target, "sh", "-c", "sleep 600 & wait", detach=True)
    assert started.returncode == 0, started.stderr
    return started.stdout.strip()


def test_a_container_is_frozen_whole_and_killed(lab: Lab) -> None:
    target = lab.hosts[0]
    container, other = sleeping(lab, target), sleeping(lab, target)
    in_container = ("docker", "exec", container, "sh", "-c", "grep -h State /proc/[0-9]*/status")
    faults.inject(lab, target.name, "freeze", container)
    states = host.run(target, *in_container).stdout
    assert states.count("T (stopped)") == 2, "what enters it later runs"
    assert "stopped" not in host.run(target, "docker", "exec", other, *in_container[3:]).stdout
    faults.clear(lab, target.name, "freeze")
    assert "stopped" not in host.run(target, *in_container).stdout
    faults.inject(lab, target.name, "kill", container)
    ended = host.run(target, "docker", "wait", container, timeout=20)
    assert ended.stdout.strip() == "137"
    with pytest.raises(LabError, match=f"no container 'ray'.*\n.*There are: {NAME}|no container 'ray'"):
        faults.inject(lab, target.name, "kill", "ray")
    host.run(target, "docker", "rm", "--force", container, other)


def test_a_frozen_engine_is_silent_and_a_killed_one_comes_back(lab: Lab) -> None:
    target = lab.hosts[0]
    faults.inject(lab, target.name, "freeze", "engine")
    with pytest.raises(subprocess.TimeoutExpired):
        host.run(target, "docker", "ps", timeout=1)
    faults.clear(lab, target.name, "freeze")
    assert host.run(target, "docker", "ps").returncode == 0
    faults.inject(lab, target.name, "kill", "engine")
    assert "Cannot connect to the Docker daemon" in host.run(target, "docker", "ps").stderr
    faults.clear(lab, target.name, "kill")
    assert host.run(target, "docker", "ps").returncode == 0


def test_after_a_reboot_containers_are_there_and_do_not_run(lab: Lab) -> None:
    target = lab.hosts[0]
    container = sleeping(lab, target)
    faults.inject(lab, target.name, "reboot")
    state = ("docker", "inspect", "--format", "{{.State.Running}}", container)
    assert host.run(target, *state).stdout.strip() == "false"
    assert docker_run(lab, target, "hostname").stdout.strip() == target.name
    host.run(target, "docker", "rm", container)


@pytest.fixture
def name() -> Iterator[str]:
    """For a lab of the test's own, which is gone afterwards whatever happens."""
    name = f"f-{os.getpid()}"
    yield name
    lifecycle.down(name)


def test_down_leaves_nothing_of_running_containers(name: str) -> None:
    lab = lifecycle.up(LabSpec(name, nodes=1))
    marker = f"6{os.getpid()}"
    for network in ("host", "none"):
        argv = (
            "docker",
            "run",
            "--detach",
            "--network",
            network,
            "--volume",
            "/usr:/usr:ro",
            IMAGE,
            "sleep",
            marker,
        )
        assert host.run(lab.hosts[0], *argv).returncode == 0
    assert sleepers(marker) == 2
    assert list(Path("/sys/fs/cgroup").glob(f"**/{lab.cgroup}"))
    assert lifecycle.down(name)
    assert sleepers(marker) == 0
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{lab.cgroup}"))
    assert not (BASE / name).exists()


def sleepers(marker: str) -> int:
    """Containers' processes are seen from here: their process namespace is below ours."""
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
    return sum(command == f"sleep\0{marker}\0".encode() for command in commands)


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_an_engine_that_dies_at_its_start_says_why(name: str) -> None:
    real = files.dockerd_argv
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "dockerd_argv", lambda *words: (*real(*words), "--storage-driver=nonsense"))
        with pytest.raises(
            LabError, match=r"(?s)dockerd on .*last lines of dockerd\.log.*driver not supported"
        ):
            lifecycle.up(LabSpec(name, nodes=1))
    assert not (BASE / name).exists()
