"""GPUs: the driver, how many, and whether they are free, healthy and within CUDA's reach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from findings import GIBIBYTE, found, found_inside, is_mended, told
from samples import PROCESS, container, fresh, gpu, plan

from cluster.checks import preflight
from cluster.checks.gpu import BUSY
from cluster.facts.hardware import GpuProcess
from cluster.facts.types import Inside

CPU = plan({"runtime.device": "cpu"})
NO_GPUS: dict[str, Any] = {"gpus": (), "inside": None}

# --- the driver -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "id_", "remedy"),
    [
        (
            "Failed to initialize NVML: Driver/library version mismatch; NVML library version: 535.154",
            "driver-lib-mismatch",
            "Reboot gpu-02",
        ),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
            "the latest NVIDIA driver is installed and running.",
            "driver-not-loaded",
            "`sudo modprobe nvidia` on gpu-02",
        ),
        (
            "Failed to initialize NVML: Driver Not Loaded",
            "driver-not-loaded",
            "`sudo modprobe nvidia` on gpu-02",
        ),
        ("sh: 1: nvidia-smi: not found", "gpu-count", "`nvidia-smi -L` on gpu-02"),
        ("No devices were found", "gpu-count", "nodes[].gpus"),
    ],
)
def test_a_driver_that_shows_no_gpu(said: str, id_: str, remedy: str) -> None:
    (problem,) = found(plan(), gpu_error=said, **NO_GPUS)
    assert told([problem]) == [(id_, "gpu-02", "error")]
    assert remedy in problem.remedy and is_mended(problem)


@pytest.mark.parametrize(("there", "fires"), [(0, True), (1, True), (2, False), (3, False)])
def test_the_number_of_gpus(there: int, fires: bool) -> None:
    problems = found(plan(), gpus=tuple(gpu(index) for index in range(there)))
    assert told(problems) == ([("gpu-count", "gpu-02", "error")] if fires else [])
    for problem in problems:
        assert problem.found == f"nvidia-smi shows {there} GPUs"
        assert problem.expected == "2, as the inventory says"


def test_amd_gpus_are_named_where_nvidia_ones_are_missing() -> None:
    (problem,) = found(plan(), amd_gpus=8, amd_driver="6.8.5", **NO_GPUS)
    assert "8 AMD GPUs are there, which clusterctl does not run" in problem.found


def test_on_a_cpu_no_gpu_is_looked_for() -> None:
    broken: dict[str, Any] = {
        "gpu_error": "Failed to initialize NVML: Driver/library version mismatch",
        "xids": ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",),
        "fabric_states": ("In Progress",),
        "cuda_version": "11.4",
        "image_env": {"CUDA_VERSION": "12.9.1"},
    }
    assert found(CPU, **broken) == []


# --- slices and tenants -----------------------------------------------------------------------------


def test_mig() -> None:
    (problem,) = found(plan(), gpus=(gpu(0, mig=True), gpu(1)))
    assert told([problem]) == [("mig-enabled", "gpu-02", "error")]
    assert problem.found == "MIG is on for GPU 0"
    assert problem.remedy == "Run `sudo nvidia-smi -i 0 -mig 0` on gpu-02"
    (both,) = found(plan(), gpus=(gpu(0, mig=True), gpu(1, mig=True)))
    assert "`sudo nvidia-smi -i 0,1 -mig 0`" in both.remedy


def holding(memory: int, **changes: Any) -> dict[str, Any]:
    """Facts with a process that holds memory of GPU 1."""
    process = replace(GpuProcess(4711, "GPU-1", memory, "alice", "python3"), **changes)
    return {"gpus": (gpu(0), gpu(1, memory_used=max(memory, 0))), "gpu_processes": (process,)}


@pytest.mark.parametrize(("memory", "fires"), [(BUSY, False), (11 * GIBIBYTE, False), (12 * GIBIBYTE, True)])
def test_somebody_elses_process(memory: int, fires: bool) -> None:
    problems = found(plan(), **holding(memory))
    assert told(problems) == ([("gpu-busy", "gpu-02", "error")] if fires else [])
    for problem in problems:
        assert problem.found.startswith("GPU 1 has ")
        assert problem.found.endswith("by python3 (pid 4711, user alice)")
        assert "serve.args.gpu_memory_utilization" in problem.remedy


def test_several_small_tenants_of_one_gpu_add_up() -> None:
    half = GpuProcess(1, "GPU-0", 6 * GIBIBYTE)
    two = (half, replace(half, pid=2))
    assert told(found(plan(), gpu_processes=two)) == [("gpu-busy", "gpu-02", "error")]
    on_two_gpus = (half, replace(half, pid=2, gpu="GPU-1"))
    assert found(plan(), gpu_processes=on_two_gpus) == []


def test_a_server_that_takes_less_leaves_room_for_others() -> None:
    modest = plan({"serve.args": {"gpu-memory-utilization": 0.5}})
    assert found(modest, **holding(60 * GIBIBYTE)) == []
    (problem,) = found(modest, **holding(80 * GIBIBYTE))
    assert problem.expected == "50% free, as serve.args.gpu_memory_utilization says"


def test_only_the_gpus_that_ray_hands_out_count() -> None:
    more = (gpu(0), gpu(1), gpu(2, memory_used=60 * GIBIBYTE, mig=True))
    held = {"gpus": more, "gpu_processes": (GpuProcess(1, "GPU-2", 60 * GIBIBYTE),)}
    assert found(plan(), **held) == []
    visible = plan({"nodes.1.env": {"CUDA_VISIBLE_DEVICES": "0,GPU-2"}})
    assert {problem.id for problem in found(visible, **held)} == {"gpu-busy", "mig-enabled"}


def test_gpu_errors_after_which_cuda_works_stop_nothing() -> None:
    line = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
    assert told(found(plan(), xids=(line,))) == [("xid-error", "gpu-02", "warning")]


@pytest.mark.parametrize(("supported", "fires"), [(12080, True), (13000, False), (13020, False)])
def test_what_libcuda_supports_in_the_container_counts_more(supported: int, fires: bool) -> None:
    """An image with forward compatibility runs on a driver that nvidia-smi calls older."""
    facts = {"gpu-02": fresh(plan())["gpu-02"]}
    inside = Inside(cuda=(0, 2), cuda_version=supported)
    facts["gpu-02"] = replace(
        facts["gpu-02"], inside=inside, cuda_version="12.8", image_env={"CUDA_VERSION": "13.0.1"}
    )
    problems = [problem for problem in preflight(plan(), facts) if problem.id == "driver-too-old"]
    assert told(problems) == ([("driver-too-old", "gpu-02", "error")] if fires else [])


def test_our_own_container_may_hold_a_gpu() -> None:
    ours = replace(container(plan(), plan().members[1], "ray"), id="0123456789ab")
    held = holding(60 * GIBIBYTE, container=ours.id)
    assert found(plan(), containers=(ours,), **held) == []
    of_another = holding(60 * GIBIBYTE, container="ba9876543210")
    (problem,) = found(plan(), containers=(ours,), **of_another)
    assert told([problem]) == [("gpu-busy", "gpu-02", "error")]
    assert "container ba9876543210" in problem.found


def test_our_own_container_that_has_exited_holds_nothing_and_an_orphan_of_it_is_named() -> None:
    dead = replace(container(plan(), plan().members[1], "ray", running=False), id="0123456789ab")
    assert told(found(plan(), containers=(dead,), **holding(60 * GIBIBYTE))) == [
        ("gpu-busy", "gpu-02", "error")
    ]


def test_memory_that_nobody_seems_to_hold() -> None:
    """A process of another PID namespace, or one that nvidia-smi does not list."""
    used = (gpu(0, memory_used=60 * GIBIBYTE), gpu(1))
    (problem,) = found(plan(), gpus=used)
    assert told([problem]) == [("gpu-busy", "gpu-02", "error")]
    assert problem.found.endswith("by a process that is not seen from here")
    ours = container(plan(), plan().members[1], "ray")
    assert found(plan(), gpus=used, containers=(ours,)) == []


def test_a_process_whose_memory_is_not_known_is_named() -> None:
    unknown = holding(0) | {"gpus": (gpu(0), gpu(1, memory_used=60 * GIBIBYTE))}
    (problem,) = found(plan(), **unknown)
    assert problem.found.endswith("by python3 (pid 4711, user alice)")


def test_processes_of_ours_cannot_be_told_from_others_once_they_run() -> None:
    local = plan({"runtime.device": "cuda"}, PROCESS)
    serve = container(local, local.head, "serve")
    busy: dict[str, Any] = {
        "gpus": (gpu(0, memory_used=60 * GIBIBYTE),),
        "gpu_processes": (GpuProcess(1, "GPU-0", 60 * GIBIBYTE),),
    }
    assert found(local, node=0, containers=(serve,), **busy) == []
    assert told(found(local, node=0, **busy)) == [("gpu-busy", "local", "error")]


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xid", "severity"),
    [
        *((number, None) for number in (13, 31, 43, 45)),
        *((number, "error") for number in (48, 79, 95, 119, 120)),
        *((number, "warning") for number in (63, 74, 94, 149)),
    ],
)
def test_xids(xid: int, severity: str | None) -> None:
    line = f"NVRM: Xid (PCI:0000:3b:00): {xid}, pid='<unknown>', name=<unknown>, what happened"
    problems = found(plan(), xids=(line,), inside=None)
    assert told(problems) == ([("xid-error", "gpu-02", severity)] if severity else [])
    for problem in problems:
        assert problem.found == line and "`nvidia-smi --gpu-reset`" in problem.remedy


def test_the_xid_that_others_follow_is_the_one_that_is_told() -> None:
    lines = (
        "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
        "NVRM: Xid (PCI:0000:3b:00): 45, ",
    )
    assert [problem.found for problem in found(plan(), xids=lines)] == [lines[0]]


@pytest.mark.parametrize(("errors", "fires"), [(0, False), (None, False), (1, True)])
def test_uncorrected_memory_errors(errors: int | None, fires: bool) -> None:
    problems = found(plan(), gpus=(gpu(0), gpu(1, ecc_errors=errors)))
    assert told(problems) == ([("gpu-ecc", "gpu-02", "warning")] if fires else [])
    for problem in problems:
        assert "`nvidia-smi -q -d ECC -i 1` on gpu-02" in problem.remedy


# --- NVSwitch and CUDA ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "fires"),
    [
        ((), False),
        (("Completed", "Completed"), False),
        (("In Progress", "In Progress"), True),
        (("Completed", "Not Started"), True),
        (("Completed: Insufficient Resources",), True),
    ],
)
def test_the_fabric(states: tuple[str, ...], fires: bool) -> None:
    problems = found(plan(), fabric_states=states, fabric_manager="inactive", inside=None)
    assert told(problems) == ([("fabricmanager-down", "gpu-02", "error")] if fires else [])
    for problem in problems:
        assert problem.found.endswith("nvidia-fabricmanager is inactive")
        assert "`sudo systemctl enable --now nvidia-fabricmanager`" in problem.remedy


def test_a_fabric_that_cuda_was_seen_to_do_without_is_a_warning() -> None:
    """H100s can report a fabric that was completed with an error, and work (meta-pytorch/torchcomms#936)."""
    assert told(found(plan(), fabric_states=("In Progress",))) == [
        ("fabricmanager-down", "gpu-02", "warning")
    ]


@pytest.mark.parametrize(
    ("driver", "image", "fires"),
    [
        ("12.4", "13.0.1", True),
        ("12.4", "12.9.1", False),  # minor version compatibility
        ("13.0", "12.9.1", False),
        ("13.0", "13.1.0", False),
        ("12.4", "", False),
        ("12.4", "latest", False),
        (None, "13.0.1", False),
    ],
)
def test_the_cuda_of_the_driver_and_of_the_image(driver: str | None, image: str, fires: bool) -> None:
    problems = found(plan(), cuda_version=driver, image_env={"CUDA_VERSION": image})
    assert told(problems) == ([("driver-too-old", "gpu-02", "warning")] if fires else [])
    for problem in problems:
        assert problem.found == "driver 580.159.04 supports CUDA 12.4"
        assert problem.expected == "CUDA 13.0.1, as in the image"


@pytest.mark.parametrize(
    ("code", "id_"),
    [
        (802, "fabricmanager-down"),
        (803, "driver-too-old"),
        (804, "driver-too-old"),
        (100, "container-lost-gpu"),
        (999, "container-lost-gpu"),
    ],
)
def test_what_cuda_itself_says(code: int, id_: str) -> None:
    (problem,) = found_inside(plan(), cuda=(code, 0))
    assert told([problem]) == [(id_, "gpu-02", "error")]
    assert problem.found.startswith(f"cuInit answers {code}: ") and is_mended(problem)


@pytest.mark.parametrize(("seen", "fires"), [(0, True), (1, True), (2, False), (8, False)])
def test_gpus_that_a_container_does_not_see(seen: int, fires: bool) -> None:
    problems = found_inside(plan(), cuda=(0, seen))
    assert told(problems) == ([("container-lost-gpu", "gpu-02", "error")] if fires else [])
    for problem in problems:
        assert problem.expected == "2" and "`systemctl daemon-reload`" in problem.remedy


def test_an_image_without_libcuda_and_a_node_without_gpus_are_not_said_twice() -> None:
    assert found_inside(plan(), cuda=None) == []
    assert told(found(plan(), gpus=(gpu(0),))) == [("gpu-count", "gpu-02", "error")]
