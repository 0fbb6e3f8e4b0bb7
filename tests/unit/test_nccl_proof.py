"""What makes a log no proof, one line changed in one that is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.nccl import Report, holds, read, report_json
from tests.nccllog import VERSIONS, Line, Run, processes

RUN = Run(version="2.28.9", groups=("world",))
Change = Callable[[str], str | None]


def text_of(run: Run = RUN) -> list[str]:
    return [line.text for process in processes(run) for line in process.lines]


def report(lines: list[str]) -> Report:
    return read([("x", ["".join(f"{line}\n" for line in lines).encode()])])


def changed(where: str, change: Change, run: Run = RUN) -> Report:
    """Of the log in which the first line with `where` in it is changed, or left out where that gives None."""
    lines = text_of(run)
    number = next(n for n, line in enumerate(lines) if where in line)
    new = change(lines[number])
    return report([*lines[:number], *([] if new is None else [new]), *lines[number + 1 :]])


def gone(_line: str) -> None:
    return None


def test_the_whole_log_is_proof() -> None:
    assert report(text_of()).verdict == "gdrdma"


@pytest.mark.parametrize(
    ("where", "change", "verdict", "reason"),
    [
        ("[send] via NET", gone, "unknown", "only one end"),
        ("[receive] via NET", gone, "unknown", "only one end"),
        ("[send] via NET", lambda line: line[:-3], "unknown", "cut"),
        ("[send] via NET", lambda line: line + " vm:1", "unknown", "cut"),
        ("[send] via NET", lambda line: line[:5] + "\n" + line[5:], "unknown", "not in the log"),
        ("[send] via NET", lambda line: line + " [repeated 3x across cluster]", "unknown", "folded"),
        ("Using network", lambda line: line + " [repeated 3x across cluster]", "unknown", "folded"),
        ("[send] via NET", lambda line: line.removesuffix("/GDRDMA"), "mixed", "without GPUDirect"),
        ("[send] via NET", lambda line: line.replace("IB/0/GDRDMA", "Socket/0"), "mixed", "TCP"),
        ("Connected all rings", gone, "unknown", "lacks `Connected all"),
        ("Connected all trees", gone, "unknown", "lacks `Connected all"),
        ("Channel 00/02 :", gone, "unknown", "list its rings"),
        ("Trees [0]", gone, "unknown", "the line `Trees ...` of rank 0"),
        (
            "Channel 00/02 :",
            lambda line: line.replace("0 1 2 3", "0 2 1 3"),
            "unknown",
            "no line for channel 0",
        ),
        ("Init COMPLETE", gone, "incomplete", "did not finish"),
    ],
)
def test_one_line_makes_the_difference(where: str, change: Change, verdict: str, reason: str) -> None:
    found = changed(where, change)
    assert (found.verdict, reason in found.reason) == (verdict, True), found.reason


def test_a_log_of_one_node_only() -> None:
    first = [line.text for process in processes(RUN)[:2] for line in process.lines]
    found = report(first)
    assert found.verdict == "incomplete" and "never spoke" in found.reason
    assert [(rank.rank, rank.started) for rank in found.unfinished] == [(2, False), (3, False)]


def test_one_socket_is_certain_whatever_else_is_missing() -> None:
    first = [line.text for process in processes(Run(network="Socket"))[:2] for line in process.lines]
    assert report(first).verdict == "socket"


def test_a_rank_without_any_connection_is_no_proof() -> None:
    """All have said Init COMPLETE; the log of the last ends there."""
    run = Run(groups=("messages",))
    *others, last = processes(run)
    silent = [line.text for line in last.lines if "Channel 0" not in line.text]
    found = report([*(line.text for process in others for line in process.lines), *silent])
    assert found.verdict == "unknown" and "only one end" in found.reason


def test_fewer_channels_of_send_and_receive_than_there_are() -> None:
    lines = [line for line in text_of(Run(groups=("messages",))) if "Channel 01/1" not in line]
    found = report(lines)
    assert found.verdict == "unknown" and "1 of 2 channels" in found.reason


def test_a_log_without_the_beginning_of_its_communicators() -> None:
    lines = [line for line in text_of() if "Init " not in line and "nRanks" not in line]
    found = report(lines)
    assert found.verdict == "unknown" and "Init COMPLETE" in found.reason
    assert {(edge.src, edge.dst) for edge in found.edges} >= {(1, 2), (3, 0)}


def test_two_processes_of_one_name_are_no_proof() -> None:
    """Containers with one hostname, process id 1 in each."""
    lines = text_of(Run(nodes=2, gpus=1))
    same = [line.replace("gpu-02:", "gpu-01:") for line in lines]
    assert report(lines).verdict == "gdrdma"
    found = report(same)
    assert found.verdict == "unknown" and "cannot be told apart" in found.reason


@pytest.mark.parametrize("run", [RUN, Run(gdr=False), Run(network="RoCE", gdr=False)], ids=str)
def test_a_source_that_is_not_whole_is_no_proof(run: Run) -> None:
    logs = [
        (f"{p.host}, pid {p.pid}", ["".join(f"{line.text}\n" for line in p.lines).encode()])
        for p in processes(run)
    ]
    assert read(logs).verdict in ("gdrdma", "ib", "roce")
    found = read(logs, cut=("gpu-01, pid 1000",))
    assert found.verdict == "unknown" and "the log of gpu-01, pid 1000 is not whole" in found.reason
    assert found.problems[0].id == "nccl-log-cut"


def test_socket_stays_socket_where_a_source_is_not_whole() -> None:
    text = "".join(f"{line}\n" for line in text_of(Run(network="Socket"))).encode()
    assert read([("x", [text])], cut=("x",)).verdict == "socket"


@pytest.mark.parametrize("run", [RUN, Run(gdr=False)], ids=str)
def test_a_link_layer_that_no_line_names(run: Run) -> None:
    """`--require ib` needs to know that it is InfiniBand; GPUDirect shows in the channels alone."""
    lines = text_of(run)
    listed = next(line for line in lines if "NET/IB : Using" in line)
    for kept in ([line for line in lines if "NET/IB : Using" not in line], [x for x in lines if x != listed]):
        found = report(kept)
        assert found.verdict == ("gdrdma" if run.gdr else "unknown")
        assert found.link_layer is None and "NET/IB : Using" in found.reason
        assert not holds(found, "ib") and not holds(found, "roce")
        assert run.gdr or "link layer" in found.problems[0].evidence


def test_the_line_of_a_device_and_its_rate_names_the_link_layer_too() -> None:
    lines = [line for line in text_of(Run(gdr=False)) if "NET/IB : Using" not in line]
    rate = "NCCL INFO NET/IB: [0] {}:uverbs0:1/IB provider=mlx5 speed=400000 context=0x5 pciPath=/sys ar=1"
    whos = dict.fromkeys(line.split(" NCCL INFO")[0] for line in lines if " NCCL INFO" in line)
    rates = [f"{who} {rate.format(name)}" for who in whos for name in ("mlx5_0", "mlx5_1")]
    found = report([*rates, *lines])
    assert (found.verdict, found.link_layer) == ("ib", "InfiniBand")


def test_hostnames_that_were_taken_out() -> None:
    """People do that before they show a log: NCCL's own count of nodes still tells."""
    lines = [re.sub(r"^(\S*?)gpu-(\d+):1(\d+):\d+", r":\g<2>\g<3>:1", line) for line in text_of()]
    found = report(lines)
    assert (found.verdict, found.nodes) == ("gdrdma", ()), found.reason
    missing = [line for line in lines if "[send] via NET" not in line]
    assert report(missing).verdict == "unknown"


SAME = Run("2.28.9", gpus=1, groups=("world", "pipeline"))


def of_both(run: Run, drop: Callable[[Line], bool]) -> Report:
    """The log without some lines of the second communicator of the same ranks."""
    return report(
        [
            line.text
            for process in processes(run)
            for line in process.lines
            if not (line.within and line.within.name == "pipeline0" and drop(line))
        ]
    )


@pytest.mark.parametrize("late", [False, True], ids=["one after the other", "connected late"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_communicator_does_not_stand_in_for_another(version: str, late: bool) -> None:
    """Two of the same ranks say the same lines: each must have its own."""
    run = replace(SAME, version=version, connects_late=late)
    assert of_both(run, lambda _: False).verdict == "gdrdma"
    gone = of_both(run, lambda line: line.hop is not None and line.hop.channel == 1)
    assert gone.verdict == "unknown", gone.reason
    gone = of_both(run, lambda line: line.hop is not None)
    assert gone.verdict == "unknown", gone.reason
    one = of_both(run, lambda line: line.hop is not None and line.hop.channel == 1 and "[send]" in line.text)
    assert one.verdict == "unknown", one.reason


@pytest.mark.parametrize("late", [False, True], ids=["one after the other", "connected late"])
@pytest.mark.parametrize("end", [" via N", "", " via NET/IB/"])
def test_a_line_that_is_cut_is_not_said_by_another_communicator(end: str, late: bool) -> None:
    run = replace(SAME, connects_late=late)
    lines = [
        re.sub(r" via .*", end, line.text)
        if line.hop and line.hop.channel == 1 and line.within and line.within.name == "pipeline0"
        else line.text
        for process in processes(run)
        for line in process.lines
    ]
    assert report(lines).verdict == "unknown"


def test_only_one_communicator_lacks_gpudirect() -> None:
    run = replace(SAME, without_gdr=frozenset({(0, 1, 0)}), only_in="pipeline")
    assert of_both(run, lambda _: False).verdict == "mixed"
    rest = of_both(run, lambda line: line.hop is not None and not line.hop.gdrdma)
    assert rest.verdict == "unknown", rest.reason


def test_a_log_that_is_written_twice_is_still_proof() -> None:
    """Ray shows a worker's lines twice; the end of one copy may be cut, not the same line in both."""
    run = replace(SAME, connects_late=True)
    lines = [line for line in text_of(run) for _ in range(2)]
    assert report(lines).verdict == "gdrdma"
    first = next(n for n, line in enumerate(lines) if "Channel 01/0 :" in line)
    cut = lines[first][: lines[first].index(" via ")]
    assert report([*lines[:first], cut, *lines[first + 1 :]]).verdict == "gdrdma"
    assert report([*lines[:first], cut, cut, *lines[first + 2 :]]).verdict == "unknown"


LONG = Run(nodes=4, gpus=8, groups=("world",))


@pytest.mark.parametrize("version", ["2.18.5", "2.21.5", "2.23.4", "2.30.7"])
def test_hops_that_nccl_does_not_list(version: str) -> None:
    """It lists 20 ranks, or 127 characters: what is beyond must be there all the same."""
    run = replace(LONG, version=version)
    log = [line for process in processes(run) for line in process.lines]
    assert report([line.text for line in log]).verdict == "gdrdma"
    for src, dst in sorted({(hop.src, hop.dst) for hop in run.between_nodes}):
        left = [line for line in log if not (line.hop and (line.hop.src, line.hop.dst) == (src, dst))]
        assert report([line.text for line in left]).verdict == "unknown", (src, dst)
    for rank in run.ranks:
        ends = {rank}
        left = [
            line
            for line in log
            if not (line.hop and line.hop.crosses and ends & {line.hop.src, line.hop.dst})
        ]
        assert len(left) == len(log) or report([line.text for line in left]).verdict == "unknown", rank


def test_the_json_has_the_keys_of_its_promise() -> None:
    found = report_json(report(text_of()))
    assert set(found) == {
        *("verdict", "link_layer", "nccl_version", "ranks", "nodes", "edges", "node_pairs", "problems"),
        *("network", "reason", "unfinished"),
    }
    assert (found["verdict"], found["nccl_version"], found["nodes"]) == (
        "gdrdma",
        "2.28.9",
        ["gpu-01", "gpu-02"],
    )
    edge = next(edge for edge in found["edges"] if (edge["src"], edge["dst"]) == (1, 2))
    assert edge["transport"] == "NET/IB" and edge["gdrdma"] and edge["device"].startswith("mlx5_")
    assert list(edge) == ["src", "dst", "transport", "device", "gdrdma", "channels"]
