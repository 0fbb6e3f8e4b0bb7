"""Facts about GPUs, asked of nvidia-smi and of the kernel; only where the plan wants GPUs."""

from __future__ import annotations

import re
from typing import Any

from cluster.facts.hardware import Gpu, GpuProcess
from cluster.facts.types import Fact
from cluster.steps import Result

MEBIBYTE = 1024 * 1024
FIELDS = (
    "index,uuid,name,memory.total,memory.used,driver_version,mig.mode.current,"
    "ecc.errors.uncorrected.volatile.total"
)
CSV = "--format=csv,noheader,nounits"

# Whose it is cannot be asked of nvidia-smi: the user, the command and the container come from /proc.
PROCESSES = f"""\
nvidia-smi --query-compute-apps=pid,gpu_uuid,used_memory {CSV} | while IFS=', ' read -r pid gpu memory; do
  container=$(grep -o '[0-9a-f]\\{{64\\}}' "/proc/$pid/cgroup" 2>/dev/null | head -n 1)
  who=$(ps -o user=,comm= -p "$pid" 2>/dev/null)
  echo "$pid,$gpu,$memory,$container,$who"
done"""
# dmesg needs root on most systems; the journal is open to the group adm.
XIDS = "{ dmesg 2>/dev/null || journalctl --dmesg --no-pager --quiet; } | grep -F 'NVRM: Xid' | tail -n 20"
# The state is N/A on GPUs without NVSwitch; drivers before 525 do not know the field.
FABRIC = f"""\
nvidia-smi --query-gpu=fabric.state,fabric.status {CSV}
echo "nvidia-fabricmanager=$(systemctl is-active nvidia-fabricmanager 2>/dev/null)\""""
AMD = """\
[ -r /sys/module/amdgpu/version ] && echo "driver=$(cat /sys/module/amdgpu/version)"
grep -l 1002 /sys/class/kfd/kfd/topology/nodes/*/gpu_id /sys/class/drm/card[0-9]*/device/vendor 2>/dev/null
:"""


def memory() -> tuple[Fact, ...]:
    """The GPUs themselves."""
    return (Fact("gpus", f"nvidia-smi --query-gpu={FIELDS} {CSV}", parse_gpus),)


def facts() -> tuple[Fact, ...]:
    """All of them."""
    return (
        *memory(),
        Fact("gpu_processes", PROCESSES, parse_gpu_processes),
        Fact("cuda_version", "nvidia-smi", parse_cuda_version),
        Fact("xids", XIDS, parse_xids),
        Fact("fabric", FABRIC, parse_fabric),
        Fact("amd", AMD, parse_amd),
    )


def parse_gpus(result: Result) -> dict[str, Any]:
    """One line of CSV per GPU; or why nvidia-smi shows none."""
    found = tuple(gpu for line in result.stdout.splitlines() if (gpu := _gpu(line)) is not None)
    if result.exit_code == 0 and found:
        return {"gpus": found}
    return {"gpus": found, "gpu_error": _complaint(result)}


def _complaint(result: Result) -> str:
    """All that is no GPU: of `Driver/library version mismatch` the last line has but a version."""
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip() and _gpu(line) is None]
    return "; ".join(lines[:3]) if lines else "it said nothing"


def _gpu(line: str) -> Gpu | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(FIELDS.split(",")) or not fields[0].isdecimal() or len(fields[0]) > 4:
        return None
    index, uuid, name, total, used, driver, mig, ecc = fields
    return Gpu(
        index=int(index),
        uuid=uuid,
        name=name,
        memory_total=_mebibytes(total),
        memory_used=_mebibytes(used),
        driver=driver,
        mig=mig == "Enabled",
        ecc_errors=int(ecc) if re.fullmatch(r"[0-9]{1,12}", ecc) else None,
    )


def _mebibytes(text: str) -> int:
    return int(text) * MEBIBYTE if re.fullmatch(r"[0-9]{1,9}", text) else 0


def parse_gpu_processes(result: Result) -> dict[str, Any]:
    """pid, GPU, MiB, container, user and command; the rest is empty for one of another PID namespace."""
    lines = re.findall(r"^([0-9]{1,9}),(\S*?),(.*?),([0-9a-f]*),(\S*) *(.*)$", result.stdout, re.MULTILINE)
    return {
        "gpu_processes": tuple(
            GpuProcess(int(pid), gpu, _mebibytes(memory), user, command.strip(), container[:12])
            for pid, gpu, memory, container, user, command in lines
        )
    }


def parse_cuda_version(result: Result) -> dict[str, Any]:
    """`CUDA Version: 13.0` in the head of nvidia-smi's table: what the driver supports at most."""
    found = re.search(r"CUDA Version:\s*([0-9]{1,3}\.[0-9]{1,3})", result.stdout)
    return {"cuda_version": found[1]} if found else {}


def parse_xids(result: Result) -> dict[str, Any]:
    """The kernel's lines about GPU errors, each from `NVRM: Xid` on, the same one once."""
    lines = re.findall(r"NVRM: Xid.*", result.stdout)
    return {"xids": tuple(dict.fromkeys(line.strip() for line in lines))}


def parse_fabric(result: Result) -> dict[str, Any]:
    """The states of the GPUs in the NVLink fabric, and what systemd says of its manager."""
    states = re.findall(
        r"^(Completed|In Progress|Not Started|N/A|\[N/A\])\s*,\s*(.*)$", result.stdout, re.MULTILINE
    )
    manager = re.search(r"^nvidia-fabricmanager=([a-z-]+)$", result.stdout, re.MULTILINE)
    return {
        "fabric_states": tuple(_fabric_state(*words) for words in states if "N/A" not in words[0]),
        **({"fabric_manager": manager[1]} if manager else {}),
    }


def _fabric_state(state: str, status: str) -> str:
    """A fabric that was completed without success is not (nvml.h, nvmlGpuFabricInfo_t.status)."""
    fine = status.strip() in ("Success", "N/A", "[N/A]", "")
    return state if fine or state != "Completed" else f"{state}: {status.strip()}"


def parse_amd(result: Result) -> dict[str, Any]:
    """The amdgpu driver and how many of its GPUs the kernel lists."""
    driver = re.search(r"^driver=(\S+)$", result.stdout, re.MULTILINE)
    cards = re.findall(r"^/sys/class/drm/card[0-9]+/device/vendor$", result.stdout, re.MULTILINE)
    return {"amd_driver": driver[1], "amd_gpus": len(cards)} if driver else {}
