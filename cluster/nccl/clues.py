"""Sentences of NCCL that hint at why the network is worse than it could be, or that say that it failed.

Ids are those of cluster/signatures and cluster/checks where they mean the same. Sources: NCCL's
src/transport/net_ib.cc, src/misc/ibvwrap.cc, src/misc/socket.cc and src/init.cc, v2.18.1-1 to v2.30.7-1, and
https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clue:
    """`fatal`: this alone means that NCCL failed. `late`: only if it says so before all ranks are done."""

    id: str
    pattern: re.Pattern[str]
    remedy: str
    fatal: bool = False
    late: bool = False


def _clue(id_: str, pattern: str, remedy: str, fatal: bool = False, late: bool = False) -> Clue:
    return Clue(id_, re.compile(pattern, re.IGNORECASE), remedy, fatal, late)


CLUES = (
    _clue(
        "nccl-no-iface",
        r"no socket interface found|no usable listening interface|NET/IB : no IP interface found"
        r"|no interface found in the same subnet",
        "`ip -br addr` on that node; give each node its own interface (network.interface, nodes[].interface)",
        fatal=True,
    ),
    _clue(
        "nccl-version-mismatch",
        r"mismatched NCCL version detected|NCCL version mismatch|bootstrap root : mismatch in info",
        "`docker image inspect -f '{{.Id}}' IMAGE` on all nodes; remove VLLM_NCCL_SO_PATH and LD_PRELOAD",
        fatal=True,
    ),
    _clue(
        "duplicate-gpu",
        r"duplicate GPU detected",
        "`nvidia-smi -L` in each container: CUDA_VISIBLE_DEVICES must give each rank a GPU of its own",
        fatal=True,
    ),
    _clue(
        "ib-memlock",
        r"call to ibv_(?:reg_mr\w*|create_qp|create_cq|alloc_pd|reg_dmabuf_mr|create_srq) failed\s*$"
        r"|ibv_(?:reg_mr|create_|alloc_pd|reg_dmabuf)\w* failed.{0,80}cannot allocate memory|RLIMIT_MEMLOCK",
        "`ulimit -l` in the container must say unlimited: `--ulimit memlock=-1 --cap-add IPC_LOCK`",
        fatal=True,
    ),
    _clue(
        "ib-rail-isolated",
        r"NICs are not cross-rail connected|NIC on the same instance cannot talk to each other",
        '`NCCL_CROSS_NIC: "0"` in network.nccl_env: the fabric\'s rails are not connected',
    ),
    _clue(
        "roce-gid",
        r"call to ibv_modify_qp failed|incorrect GID index is forced|GID table changed",
        "`grep -H . /sys/class/infiniband/*/ports/*/gids/* | grep -i ffff` on all nodes; leave"
        " NCCL_IB_GID_INDEX unset from NCCL 2.21",
        fatal=True,
    ),
    _clue(
        "ib-port-down",
        r"async (?:fatal )?event.{0,20}: ?port error|port (?:is )?(?:down|not active)",
        "`grep . /sys/class/infiniband/*/ports/*/state` on that node must say ACTIVE",
        fatal=True,
    ),
    _clue(
        "acs-enabled",
        r"ACS is enabled|got completion.{0,80}(?:status=(?:\w+\()?|error )[45]\b|IBV_WC_LOC_PROT_ERR",
        "`sudo lspci -vvv | grep -c 'ACSCtl:.*SrcValid+'` must be 0; NCCL_NET_GDR_LEVEL=LOC confirms it",
        fatal=True,
    ),
    _clue(
        "ib-retry-exceeded",
        r"got completion.{0,80}(?:status=(?:\w+\()?|error )12\b|IBV_WC_RETRY_EXC_ERR",
        "`ib_write_bw -d HCA` between the two nodes; look at the port counters, the cable and PFC",
        fatal=True,
    ),
    _clue(
        "ib-mixed-links",
        r"attempted to (?:connect|merge) incompatible devices|device is incompatible with the local"
        r"|only one link type|different link_layer",
        "name HCAs of one link layer, in the same order on all nodes, in network.hcas",
        fatal=True,
    ),
    _clue(
        "nccl-transport-mismatch",
        r"accept: wrong (?:type|magic)|wrong type \d+ != \d+|no transport found for rank"
        r"|detected mixed local net device counts",
        "`grep 'Using network'` over all logs must say the same for all ranks; as many HCAs on each node",
    ),
    _clue(
        "shm-small",
        r"failed to extend /dev/shm|no space left on device|error while creating shared memory segment",
        "`df -h /dev/shm` in the container; start it with `--shm-size 16g` or `--ipc=host`",
        fatal=True,
    ),
    _clue(
        "firewall-ports",
        r"socketStartConnect: connect to .* failed|exceeded error retry count|returned 113|no route to host"
        r"|connection refused$",
        "`clusterctl check INVENTORY` shows which ports between the nodes are closed",
        fatal=True,
    ),
    _clue("nccl-cuda-error", r"cuda failure", "`dmesg -T | grep -i xid` on that node", fatal=True),
    _clue(
        "nccl-peer-closed",
        r"connection closed by remote peer|remote process exited",
        "look at the end of the peer's log: it died first",
        fatal=True,
        late=True,
    ),
    _clue(
        "ib-device-missing",
        r"NET/IB : unable to open device|NET/IB : no device found|failed to open libibverbs"
        r"|network IB not found|couldn't (?:open config directory|load driver)",
        "`ls /dev/infiniband` in the container; start it with `--device /dev/infiniband --cap-add IPC_LOCK"
        " --ulimit memlock=-1`; `ibv_devices` must name the HCAs",
    ),
    _clue(
        "nccl-no-network",
        r"error: network .* not found|failed to initialize any NET plugin",
        "NCCL_NET names a network that is not there: unset it, or mount what it needs",
        fatal=True,
    ),
    _clue(
        "gdr-distance",
        r"GPU Direct RDMA disabled for GPU.*\(distance \d+ > \d+\)",
        "`nvidia-smi topo -m`: the HCA hangs at another PCIe switch; choose the HCA near the GPU, or raise"
        " NCCL_NET_GDR_LEVEL (PHB, SYS) and measure",
    ),
    _clue(
        "gdr-off",
        r"NET/IB\w* : GPU Direct RDMA (?:\(\w+\) )?disabled for HCA|GPU Direct RDMA disabled for (?:GPU|HCA)",
        "`sudo modprobe nvidia_peermem` on that node, or the open kernel modules with DMA-BUF (kernel 5.12)",
    ),
    _clue(
        "net-plugin-missing",
        r"NET/Plugin ?: ?(?:could not find|failed to (?:find|load)).*|Plugin load \(.*\) returned",
        "on EFA: install aws-ofi-nccl in the image, and set NCCL_NET_PLUGIN if its name is its own",
    ),
)
BY_ID = {clue.id: clue for clue in CLUES}
WORDS = ("isable", "o device", "ailed", "nable to", "HINT", "ould not", "etected", "not found", "returned")


def found(message: str, level: str) -> tuple[str, ...]:
    """The ids of the clues in a message; a warning may hold any, the rest only where a telling word is."""
    if level != "WARN" and not any(word in message for word in WORDS):
        return ()
    return tuple(clue.id for clue in CLUES if clue.pattern.search(message))
