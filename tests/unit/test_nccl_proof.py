"""What makes a log no proof, one line changed in one that is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.nccl import Report, read, report_json
from tests.nccllog import Run, processes

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
