"""Why the network is worse than the hardware could give: likely reasons in order, each with its evidence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from cluster.errors import count
from cluster.nccl.clues import BY_ID, CLUES
from cluster.nccl.log import Log
from cluster.nccl.model import Cause, Process, Verdict
from cluster.nccl.state import Speech
from cluster.nccl.verdict import Evidence

BRIDGE = re.compile(
    r"lo|docker\d+|br-[0-9a-f]+|virbr\d+|veth\w+|cni\d+|cali\w+|flannel\.\d+|tailscale\d+|wg\d+|podman\d+"
)
SETTINGS = "NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,BOOTSTRAP,ENV,NET,GRAPH"
NO_RDMA = ("socket", "mixed")
NO_GDR = ("ib", "roce", "mixed")
# (verdicts, variable, which values are the reason, id, remedy)
ASKED: tuple[tuple[tuple[str, ...], str, Callable[[str], bool], str, str], ...] = (
    (
        *(NO_RDMA, "NCCL_IB_DISABLE", lambda value: value not in ("", "0")),
        *("nccl-ib-disabled", "unset NCCL_IB_DISABLE in network.nccl_env and in the image"),
    ),
    (
        *(NO_RDMA, "NCCL_NET", lambda value: value.lower() == "socket"),
        *("nccl-net-forced", "unset NCCL_NET in network.nccl_env and in the image"),
    ),
    (
        *(NO_GDR, "NCCL_NET_GDR_LEVEL", lambda value: value in ("LOC", "0")),
        *("gdr-disabled", "unset NCCL_NET_GDR_LEVEL: this value turns GPUDirect RDMA off"),
    ),
)
# (verdicts, variable, the clue that it was in vain, id, remedy)
NAMED = (
    (
        *(NO_RDMA, "NCCL_IB_HCA", "ib-device-missing", "hca-unknown"),
        "`ibv_devices` in the container must name an HCA that NCCL_IB_HCA matches; see network.hcas",
    ),
    (
        *((*NO_RDMA, "failed"), "NCCL_NET_PLUGIN", "net-plugin-missing", "net-plugin-missing"),
        BY_ID["net-plugin-missing"].remedy,
    ),
)

# Which clues tell of which verdict, the likeliest first.
OF_NO_RDMA = (
    "ib-device-missing",
    "nccl-no-network",
    "ib-port-down",
    "nccl-transport-mismatch",
    "ib-mixed-links",
)
OF_NO_GDR = ("gdr-distance", "gdr-off")
OF_WAITING = ("firewall-ports", "roce-gid", "ib-retry-exceeded", "ib-rail-isolated", "shm-small")


def causes(log: Log, verdict: Verdict, found: Evidence) -> tuple[Cause, ...]:
    """None for `gdrdma` and `intra-node`, which lack nothing."""
    if verdict in ("gdrdma", "intra-node"):
        return ()
    speeches = dict(sorted(log.speeches.items()))
    every = (
        *_wrong_gid(speeches, found),
        *_failures(log, speeches),
        *_environment(speeches, verdict),
        *_interface(speeches, verdict),
        *(
            _from_clues(speeches, OF_NO_RDMA)
            if verdict in ("socket", "mixed", "incomplete", "unknown")
            else ()
        ),
        *(_networks(speeches) if verdict != "unknown" else ()),
        *(_from_clues(speeches, OF_NO_GDR) if verdict in NO_GDR else ()),
        *(_from_clues(speeches, OF_WAITING) if verdict in ("incomplete", "failed") else ()),
        *_waiting(verdict, found),
        *_the_log(log, verdict, found),
    )
    first: dict[str, Cause] = {}
    for cause in every or _without_a_clue(verdict, found):
        first.setdefault(cause.id, cause)
    return tuple(first.values())


def _wrong_gid(speeches: Mapping[Process, Speech], found: Evidence) -> Iterator[Cause]:
    """On RoCE, retries that exceed are most often of a GID that the other side cannot reach
    (https://github.com/NVIDIA/nccl/issues/426)."""
    for process, speech in speeches.items():
        message = speech.failures.get("ib-retry-exceeded")
        if message and found.link_layer == "RoCE":
            yield Cause("roce-gid", f"{process[0]}: {message}", BY_ID["roce-gid"].remedy)
            return


def _failures(log: Log, speeches: Mapping[Process, Speech]) -> Iterator[Cause]:
    for clue in CLUES:
        for process, speech in speeches.items():
            if message := speech.failures.get(clue.id):
                yield Cause(clue.id, f"{process[0]}: {message}", clue.remedy)
                break
    if log.outside and not any(speech.failures for speech in speeches.values()):
        remedy = "`NCCL_DEBUG: INFO` in network.nccl_env, then look for the first `NCCL WARN` of any rank"
        line = min(log.outside)
        yield Cause("nccl-watchdog" if "Watchdog" in line else "nccl-system-error", line, remedy)


def _from_clues(speeches: Mapping[Process, Speech], ids: tuple[str, ...]) -> Iterator[Cause]:
    for id_ in ids:
        said = [(process, speech.clues[id_]) for process, speech in speeches.items() if id_ in speech.clues]
        if said:
            process, message = said[0]
            more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
            yield Cause(id_, f"{process[0]}: {message}{more}", BY_ID[id_].remedy)


def _environment(speeches: Mapping[Process, Speech], verdict: Verdict) -> Iterator[Cause]:
    """What the environment itself asks for, and what it names in vain."""
    for process, speech in speeches.items():
        for verdicts, name, asks, id_, remedy in ASKED:
            value = speech.environment.get(name)
            if verdict in verdicts and value is not None and asks(value):
                yield Cause(id_, f"{process[0]}: {name} set by environment to {value}", remedy)
        for verdicts, name, clue, id_, remedy in NAMED:
            value = speech.environment.get(name, "none")
            if verdict in verdicts and value != "none" and clue in speech.clues:
                yield Cause(id_, f"{process[0]}: {name} is {value}; {speech.clues[clue]}", remedy)


def _interface(speeches: Mapping[Process, Speech], verdict: Verdict) -> Iterator[Cause]:
    """An interface that other nodes cannot reach."""
    if verdict not in ("socket", "mixed", "incomplete", "failed"):
        return
    remedy = "`ip -br -4 addr` on that node; set network.interface, or NCCL_SOCKET_IFNAME to `=` and a name"
    for process, speech in speeches.items():
        sockets = [device.name for device in speech.devices.get("Socket", {}).values()]
        for name in (speech.interface, *sockets[:1]):
            if name and BRIDGE.fullmatch(name):
                yield Cause("nccl-wrong-iface", f"{process[0]}: NCCL uses {name}", remedy)


def _networks(speeches: Mapping[Process, Speech]) -> Iterator[Cause]:
    by_name: dict[str, str] = {}
    for process, speech in speeches.items():
        for name in sorted(speech.networks):
            by_name.setdefault(name, process[0])
    if len(by_name) > 1:
        text = ", ".join(f"{node} uses {name}" for name, node in sorted(by_name.items()))
        yield Cause("nccl-transport-mismatch", text, BY_ID["nccl-transport-mismatch"].remedy)


def _waiting(verdict: Verdict, found: Evidence) -> Iterator[Cause]:
    if verdict != "incomplete":
        return
    started = [rank for rank in found.unfinished if rank.started]
    if started:
        text = f"{count(len(started), 'rank')} said `Init START` and not `Init COMPLETE`"
        yield Cause(
            "nccl-init-hang",
            text,
            "look at the other ranks' logs; `clusterctl check INVENTORY` tests the ports",
        )
    else:
        text = f"{count(len(found.unfinished), 'rank')} of the communicators never spoke"
        yield Cause(
            "nccl-log-missing",
            text,
            "give the logs of all nodes, or `serve.nccl_debug` and `clusterctl logs`",
        )


def _the_log(log: Log, verdict: Verdict, found: Evidence) -> Iterator[Cause]:
    """Where the log is what is wrong."""
    if log.folded:
        text = f"{log.folded} lines with `[repeated ...]`"
        yield Cause("nccl-log-folded", text, "set RAY_DEDUP_LOGS=0, or NCCL_DEBUG_FILE=/path/nccl.%h.%p")
    elif verdict == "unknown" and found.doubts:
        remedy = f"{SETTINGS} NCCL_DEBUG_FILE=/path/nccl.%h.%p writes one file a process: read them all"
        yield Cause("nccl-log-cut", found.doubts[0], remedy)
    elif verdict == "unknown":
        remedy = f"run with {SETTINGS}, and a collective over all ranks"
        lacks = "channel between nodes" if not found.qualities else "line that names the link layer"
        yield Cause("nccl-log-missing", f"no {lacks} in the log", remedy)


def _without_a_clue(verdict: Verdict, found: Evidence) -> Iterator[Cause]:
    """Where no line says why: what it is most often."""
    if verdict in NO_GDR and "gdrdma" in found.qualities:
        evidence = "some channels between nodes have /GDRDMA, others lack it"
        yield Cause("gdr-distance", evidence, BY_ID["gdr-distance"].remedy)
    if verdict in NO_GDR:
        yield Cause("gdr-off", "channels between nodes lack /GDRDMA", BY_ID["gdr-off"].remedy)
    if verdict == "socket":
        yield Cause("ib-device-missing", "no line names an HCA", BY_ID["ib-device-missing"].remedy)
