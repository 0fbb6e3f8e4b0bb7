"""GPUs: the driver, how many, and whether they are free, healthy and within CUDA's reach."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.errors import Problem, Severity
from cluster.facts import Facts
from cluster.facts.hardware import Gpu, GpuProcess
from cluster.fit.settings import DEFAULT_UTILISATION
from cluster.plan import Member, Plan

GIBIBYTE = 1024**3
# What a display or a monitoring program holds is no tenant.
BUSY = GIBIBYTE
# GPU lost, double-bit errors, uncontained errors: nothing runs on it before a reset (NVIDIA's Xid catalogue).
FATAL_XIDS = {48, 79, 95, 119, 120}
# 45 follows another one; 13, 31 and 43 are the application's own doing.
HARMLESS_XIDS = {13, 31, 43, 45}
# cuda.h: CUDA_ERROR_SYSTEM_NOT_READY and what stands around it.
CUDA_SAYS = {
    802: ("fabricmanager-down", "system not ready: the fabric manager has not set the NVSwitches up"),
    803: ("driver-too-old", "the driver's kernel and user parts do not fit each other"),
    804: ("driver-too-old", "forward compatibility is not possible on this GPU"),
}


def driver(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if plan.runtime.device != "cuda" or not facts.gpu_error or facts.gpus:
        return
    node, said = member.name, facts.gpu_error
    if "library version mismatch" in said:
        remedy = f"Reboot {node}: its driver was upgraded and the old module is still loaded"
        yield Problem("driver-lib-mismatch", node, said, "one version of the driver", remedy)
    elif "communicate with the NVIDIA driver" in said or "not loaded" in said.lower():
        remedy = f"Run `sudo modprobe nvidia` on {node}; a new kernel needs the driver rebuilt (dkms)"
        yield Problem("driver-not-loaded", node, said, "a loaded driver", remedy)


def number(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if (
        plan.runtime.device != "cuda"
        or len(facts.gpus) >= member.node.gpus
        or any(driver(plan, member, facts))
    ):
        return
    amd = f" and {facts.amd_gpus} AMD GPUs are there, which clusterctl does not run" if facts.amd_gpus else ""
    said = f": {facts.gpu_error}" if facts.gpu_error else ""
    yield Problem(
        "gpu-count",
        member.name,
        f"nvidia-smi shows {len(facts.gpus)} GPUs{said}{amd}",
        f"{member.node.gpus}, as the inventory says",
        f"Run `nvidia-smi -L` on {member.name}, or correct nodes[].gpus (runtime.device: cpu needs none)",
    )


def used(member: Member, facts: Facts) -> tuple[Gpu, ...]:
    """The GPUs that Ray hands out: those of CUDA_VISIBLE_DEVICES, or as many as the inventory says."""
    visible = dict(member.env).get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if names:
        return tuple(gpu for gpu in facts.gpus if {str(gpu.index), gpu.uuid} & set(names))
    return facts.gpus[: member.node.gpus]


def sliced(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    found = [str(gpu.index) for gpu in used(member, facts) if gpu.mig]
    if found and plan.runtime.device == "cuda":
        yield Problem(
            "mig-enabled",
            member.name,
            f"MIG is on for GPU {', '.join(found)}",
            "whole GPUs",
            f"Run `sudo nvidia-smi -i {','.join(found)} -mig 0` on {member.name}",
        )


def busy(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """vLLM refuses to start where less is free than its share (vllm/v1/worker/utils.py)."""
    running = any(container.running for container in facts.containers)
    if plan.runtime.engine == "process" and running:
        return  # without containers, ours cannot be told from others
    share = _utilisation(plan)
    for gpu in used(member, facts):
        others = _others(gpu, facts, running)
        held = sum(process.memory_used for process in others)
        if not running and not any(process.memory_used for process in others):
            held = gpu.memory_used  # by what nvidia-smi does not name
        if held > BUSY and gpu.memory_total - held < share * gpu.memory_total:
            yield Problem(
                "gpu-busy",
                member.name,
                f"GPU {gpu.index} has {held / GIBIBYTE:.1f} of {gpu.memory_total / GIBIBYTE:.1f} GiB in use, "
                f"by {_who(others)}",
                f"{share:.0%} free, as serve.args.gpu_memory_utilization says",
                f"Run `nvidia-smi` on {member.name}; stop it, or lower serve.args.gpu_memory_utilization",
            )


def _others(gpu: Gpu, facts: Facts, running: bool) -> list[GpuProcess]:
    """Of processes without a container, none is known to be a stranger while ours run."""
    ours = {container.id for container in facts.containers}
    there = (process for process in facts.gpu_processes if process.gpu == gpu.uuid)
    return [one for one in there if one.container not in ours and (one.container or not running)]


def _utilisation(plan: Plan) -> float:
    asked = plan.serve_arg("gpu_memory_utilization")
    return float(asked) if isinstance(asked, int | float) and 0 < asked <= 1 else DEFAULT_UTILISATION


def _who(processes: list[GpuProcess]) -> str:
    if not processes:
        return "a process that is not seen from here"
    return ", ".join(
        f"{process.command or 'a process'} (pid {process.pid}"
        + (f", user {process.user}" if process.user else "")
        + (f", container {process.container}" if process.container else "")
        + ")"
        for process in processes
    )


def errors(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if plan.runtime.device != "cuda":
        return
    for line in facts.xids:
        found = re.search(r"Xid \([^)]*\): ([0-9]{1,4})", line)
        xid = int(found[1]) if found else 0
        if xid not in HARMLESS_XIDS:
            severity: Severity = (
                "error" if xid in FATAL_XIDS and not _cuda_works(member, facts) else "warning"
            )
            remedy = (
                f"Reset the GPU (`nvidia-smi --gpu-reset`) or reboot {member.name}; replace it if it returns"
            )
            yield Problem("xid-error", member.name, line, "no GPU errors since boot", remedy, severity)
    for gpu in used(member, facts):
        if gpu.ecc_errors:
            found_errors = f"GPU {gpu.index} has {gpu.ecc_errors} uncorrected memory errors since boot"
            remedy = (
                f"Run `nvidia-smi -q -d ECC -i {gpu.index}` on {member.name}, and reset or replace the GPU"
            )
            yield Problem("gpu-ecc", member.name, found_errors, "none", remedy, "warning")


def _cuda_works(member: Member, facts: Facts) -> bool:
    """Whether CUDA was seen to find all GPUs where vLLM will run."""
    if facts.inside is None or facts.inside.cuda is None:
        return False
    code, devices = facts.inside.cuda
    return code == 0 and devices >= member.node.gpus


def fabric(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """nvidia-smi shows all GPUs, and CUDA can use none (error 802), unless it was seen to work."""
    bad = [state for state in facts.fabric_states if state != "Completed"]
    if plan.runtime.device == "cuda" and bad:
        systemd = f"; nvidia-fabricmanager is {facts.fabric_manager}" if facts.fabric_manager else ""
        yield Problem(
            "fabricmanager-down",
            member.name,
            f"the NVLink fabric of {len(bad)} GPUs is {bad[0]}{systemd}",
            "Completed",
            f"Install nvidia-fabricmanager of the driver's own version on {member.name}, "
            "`sudo systemctl enable --now nvidia-fabricmanager`",
            "warning" if _cuda_works(member, facts) else "error",
        )


def cuda(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """Within one major version a driver also runs a newer CUDA (NVIDIA: minor version compatibility).

    What libcuda said in the container counts more than nvidia-smi: an image may bring forward compatibility.
    """
    wanted = facts.image_env.get("CUDA_VERSION", "")
    inside = facts.inside.cuda_version if facts.inside is not None else None
    supported = f"{inside // 1000}.{inside % 1000 // 10}" if inside else facts.cuda_version
    if plan.runtime.device != "cuda" or supported is None or not re.match(r"[0-9]{1,3}\.", wanted):
        return
    if int(supported.partition(".")[0]) < int(wanted.partition(".")[0]):
        yield Problem(
            "driver-too-old",
            member.name,
            f"driver {facts.gpus[0].driver if facts.gpus else ''} supports CUDA {supported}",
            f"CUDA {wanted}, as in the image",
            f"Upgrade the NVIDIA driver on {member.name}, or use an image with an older CUDA",
            "error" if inside else "warning",
        )


def in_container(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """What CUDA itself says where vLLM will run."""
    if plan.runtime.device != "cuda" or facts.inside is None or facts.inside.cuda is None:
        return
    code, devices = facts.inside.cuda
    if code:
        id_, meaning = CUDA_SAYS.get(code, ("container-lost-gpu", "see CUresult in NVIDIA's documentation"))
        yield Problem(
            id_,
            member.name,
            f"cuInit answers {code}: {meaning}",
            "0",
            f"Run `nvidia-smi` and `systemctl status nvidia-fabricmanager` on {member.name}",
        )
    elif devices < min(member.node.gpus, len(facts.gpus)):
        yield Problem(
            "container-lost-gpu",
            member.name,
            f"CUDA sees {devices} GPUs where vLLM runs, the node has {len(facts.gpus)}",
            f"{member.node.gpus}",
            f"Restart {plan.runtime.engine} on {member.name}; look for CUDA_VISIBLE_DEVICES, and for a "
            "`systemctl daemon-reload` (NVIDIA/nvidia-container-toolkit#48)",
        )
