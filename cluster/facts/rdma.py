"""Facts about RDMA: HCAs and their ports, GPUDirect, and how far GPUs and HCAs are apart."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from cluster.facts.hardware import Gid, Hca, HcaPort
from cluster.facts.types import Fact
from cluster.steps import Result

# One grep for all files; GIDs of zeros are free slots of a table of up to 256.
HCAS = """\
cd /sys/class/infiniband 2>/dev/null && for hca in *; do [ -d "$hca" ] && echo "$hca/hca:1"; done
grep -H . */device/numa_node */ports/*/state */ports/*/link_layer */ports/*/rate 2>/dev/null
grep -H . */ports/*/gids/* 2>/dev/null | grep -v ':0000:0000:0000:0000:0000:0000:0000:0000$'
grep -H . */ports/*/gid_attrs/types/* 2>/dev/null
:"""
# The files are those that NCCL looks for (src/transport/net_ib/gdr.cc).
GPUDIRECT = """\
for file in /sys/module/nvidia_peermem/version /sys/kernel/mm/memory_peers/nv_mem/version \
/sys/kernel/mm/memory_peers/nv_mem_nc/version; do [ -e "$file" ] && echo "peermem=$file"; done
cat /proc/driver/nvidia/version 2>/dev/null
read -r _ _ kernel _ </proc/version && echo "kernel=$kernel\""""
TOPOLOGY = "nvidia-smi topo -m"
# As root only; without ACS on a bridge in between, GPU and HCA talk to each other directly.
ACS = "lspci -vvv 2>/dev/null | grep -c 'ACSCtl:.*SrcValid+'"

FIRST_KERNEL_WITH_DMA_BUF = (5, 12)


def facts() -> tuple[Fact, ...]:
    """All of them."""
    return (
        Fact("hcas", HCAS, parse_hcas),
        Fact("gpudirect", GPUDIRECT, parse_gpudirect),
        Fact("topology", TOPOLOGY, parse_topology),
        Fact("acs", ACS, parse_acs),
    )


def parse_hcas(result: Result) -> dict[str, Any]:
    """`path:value` lines below /sys/class/infiniband."""
    files = dict(re.findall(r"^([A-Za-z0-9_.-]+/[\w/.-]+):(.*)$", result.stdout, re.MULTILINE))
    names = sorted({path.partition("/")[0] for path in files}, key=natural)
    return {"hcas": tuple(_hca(name, files) for name in names)}


def natural(name: str) -> tuple[str | int, ...]:
    """mlx5_2 before mlx5_10."""
    parts = re.split(r"([0-9]{1,9})", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts))


def _hca(name: str, files: dict[str, str]) -> Hca:
    ports: dict[int, dict[str, str]] = defaultdict(dict)
    for path, value in files.items():
        found = re.fullmatch(rf"{re.escape(name)}/ports/([0-9]{{1,3}})/(.+)", path)
        if found:
            ports[int(found[1])][found[2]] = value.strip()
    numa = files.get(f"{name}/device/numa_node", "").strip()
    return Hca(
        name=name,
        ports=tuple(_port(number, values) for number, values in sorted(ports.items())),
        numa_node=int(numa) if re.fullmatch(r"[0-9]{1,4}", numa) else None,
    )


def _port(number: int, values: dict[str, str]) -> HcaPort:
    rate = re.match(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) Gb/sec", values.get("rate", ""))
    gids = {
        int(path.rpartition("/")[2]): value
        for path, value in values.items()
        if re.fullmatch(r"gids/[0-9]{1,4}", path)
    }
    return HcaPort(
        number=number,
        state=values.get("state", "").partition(":")[2].strip(),
        link_layer=values.get("link_layer", ""),
        rate=float(rate[1]) if rate else 0.0,
        gids=tuple(
            Gid(index, address, values.get(f"gid_attrs/types/{index}", ""))
            for index, address in sorted(gids.items())
        ),
    )


def parse_gpudirect(result: Result) -> dict[str, Any]:
    """peermem where its module is loaded; dma-buf with the open kernel modules on Linux 5.12 or newer."""
    kernel = re.search(r"^kernel=([0-9]{1,4})\.([0-9]{1,4})", result.stdout, re.MULTILINE)
    recent = kernel is not None and (int(kernel[1]), int(kernel[2])) >= FIRST_KERNEL_WITH_DMA_BUF
    ways = (
        ("peermem", "peermem=" in result.stdout),
        ("dma-buf", recent and "Open Kernel Module" in result.stdout),
    )
    return {"gpudirect": tuple(way for way, there in ways if there)}


def parse_topology(result: Result) -> dict[str, Any]:
    """{GPU: {HCA: PIX, PXB, PHB, NODE or SYS}} from the table and the legend of `nvidia-smi topo -m`."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    lines = [line.split("\t") for line in text.splitlines() if "\t" in line]
    if not lines:
        return {}
    names = dict(re.findall(r"^\s*(NIC[0-9]+): (\S+)\s*$", text, re.MULTILINE))
    columns = [names.get(column.strip(), column.strip()) for column in lines[0][1:]]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[1:]}
    return {
        "distances": {
            gpu: {hca: cell for hca, cell in zip(columns, cells, strict=False) if _is_hca(hca) and cell}
            for gpu, cells in rows.items()
            if re.fullmatch(r"GPU[0-9]+", gpu)
        }
    }


def _is_hca(name: str) -> bool:
    return bool(re.search(r"[0-9]$", name)) and not name.startswith(("GPU", "NIC"))


def parse_acs(result: Result) -> dict[str, Any]:
    """How many bridges have it on."""
    found = re.fullmatch(r"\s*([0-9]{1,6})\s*", result.stdout)
    return {"acs_bridges": int(found[1])} if found else {}
