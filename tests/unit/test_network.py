"""The network's matrix: what the probes say, whose fault it is, what a person sees."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import measure as measuring
from cluster.argv.network_probe import on_stdin, python_on_node
from cluster.connection import Connection, LocalConnection
from cluster.errors import Problem
from cluster.network import Link, Matrix, columns_and_rows, make_matrix, opponents, parse_said, problems
from cluster.network.matrix import bytes_per_transfer, seconds_per_transfer
from cluster.plan import Plan
from tests.samples import plan

GOOD = {"connected": True, "mtu": 1500, "mtu_passes": True, "rtt_seconds": 5e-5, "bits_per_second": 20e9}


def plan_of(nodes: int) -> Plan:
    listed = [{"name": f"n{i}", "address": f"10.0.0.{i}", "gpus": 1} for i in range(1, nodes + 1)]
    return plan({"nodes": listed})


def matrix(nodes: int, change: Callable[[Link], Link] = lambda link: link) -> Matrix:
    names = tuple(f"n{i}" for i in range(1, nodes + 1))
    links = (Link(src, dst, **GOOD) for src in names for dst in names if src != dst)
    return Matrix(names, tuple(change(link) for link in links))


def blocked(*pairs: str, why: str = "timed out") -> Callable[[Link], Link]:
    """`n1>n2`, `*>n2`, `n2>*`."""

    def change(link: Link) -> Link:
        ends = [pair.split(">") for pair in pairs]
        if any(src in ("*", link.src) and dst in ("*", link.dst) for src, dst in ends):
            return Link(link.src, link.dst, False, why)
        return link

    return change


def changed(src: str, dst: str, **values: object) -> Callable[[Link], Link]:
    def change(link: Link) -> Link:
        fits = src in ("*", link.src) and dst in ("*", link.dst)
        return replace(link, **values) if fits else link  # type: ignore[arg-type]

    return change


def found(nodes: int, change: Callable[[Link], Link]) -> list[Problem]:
    return list(problems(plan_of(nodes), matrix(nodes, change)))


# --- problems -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 2, 3, 16])
def test_a_healthy_network_has_no_problems(nodes: int) -> None:
    assert found(nodes, lambda link: link) == []


def test_a_node_that_accepts_nothing_is_named_once() -> None:
    (problem,) = found(4, blocked("*>n2"))
    assert (problem.id, problem.node, problem.severity) == ("firewall-ports", "n2", "error")
    assert problem.found == (
        "accepts no connection on random high ports from n1, n3, n4: timed out, "
        "as with a firewall rule that says DROP"
    )
    assert problem.remedy.startswith(
        "Run `iptables -I INPUT -s 10.0.0.1,10.0.0.3,10.0.0.4 -j ACCEPT` on n2; "
        "with ufw `ufw allow from 10.0.0.1`"
    )


@pytest.mark.parametrize(
    ("why", "rule"), [("connection refused", "REJECT"), ("no route to host", "REJECT"), ("timed out", "DROP")]
)
def test_the_kind_of_rule_is_told_from_the_reason(why: str, rule: str) -> None:
    (problem,) = found(3, blocked("*>n3", why=why))
    assert f"{why}, as with a firewall rule that says {rule}" in problem.found


def test_a_node_that_lets_nothing_out_is_named_once() -> None:
    (problem,) = found(4, blocked("n3>*"))
    assert problem.node == "n3"
    assert problem.found.startswith("cannot connect to random high ports of n1, n2, n4: timed out")
    assert "`iptables -I OUTPUT -d 10.0.0.1,10.0.0.2,10.0.0.4 -j ACCEPT` on n3" in problem.remedy


def test_a_rule_that_drops_answers_too_is_one_node_s_fault() -> None:
    (problem,) = found(3, blocked("*>n2", "n2>*"))
    assert problem.node == "n2"
    assert problem.found.startswith("no connection on random high ports to and from n1, n3")
    assert "iptables -I INPUT -s 10.0.0.1,10.0.0.3 -j ACCEPT && iptables -I OUTPUT -d" in problem.remedy


def test_one_direction_of_one_pair_names_the_one_that_does_not_accept() -> None:
    (problem,) = found(3, blocked("n1>n3"))
    assert problem.node == "n3"
    assert problem.found.startswith("accepts no connection on random high ports from n1:")


def test_two_nodes_that_do_not_reach_each_other_are_both_named() -> None:
    assert {problem.node for problem in found(2, blocked("*>*"))} == {"n1", "n2"}


def test_where_all_are_closed_every_node_is_named_once() -> None:
    assert sorted(problem.node for problem in found(5, blocked("*>*"))) == ["n1", "n2", "n3", "n4", "n5"]


def test_two_closed_nodes_among_five() -> None:
    assert sorted(problem.node for problem in found(5, blocked("*>n2", "*>n4"))) == ["n2", "n4"]


def test_what_was_not_measured_is_no_problem() -> None:
    assert found(3, lambda link: Link(link.src, link.dst, why="not measured: n1: no python3")) == []


def test_a_larger_mtu_on_one_node() -> None:
    (problem,) = found(3, changed("n2", "*", mtu=9000, mtu_passes=False))
    assert (problem.id, problem.node, problem.severity) == ("mtu-mismatch", "n2", "error")
    assert problem.found == (
        "packets of 9000 bytes do not pass from n2 to n1, n2 to n3; MTU: n2 9000, n1 1500, n3 1500"
    )
    assert problem.remedy == (
        "Run `ip link set dev $(ip -o -4 addr show to 10.0.0.2 | awk '{print $2}') mtu 1500` on n2"
    )


def test_a_small_mtu_in_the_middle() -> None:
    def change(link: Link) -> Link:
        return replace(link, mtu=9000, mtu_passes="n3" not in (link.src, link.dst))

    (problem,) = found(3, change)
    assert problem.node == "n3"
    assert problem.remedy.startswith(
        "`tracepath -n 10.0.0.1` on n3 shows what passes: raise the MTU of the switch"
    )


def test_the_interface_of_the_inventory_is_the_one_to_mend() -> None:
    wide = changed("n2", "*", mtu=9000, mtu_passes=False)
    listed = [
        {"name": f"n{i}", "address": f"10.0.0.{i}", "gpus": 1, "interface": "bond0"} for i in range(1, 4)
    ]
    (problem,) = problems(plan({"nodes": listed}), matrix(3, wide))
    assert problem.remedy == "Run `ip link set dev bond0 mtu 1500` on n2"


def test_a_transfer_that_stalls_tells_of_the_mtu_where_udp_is_blocked() -> None:
    stalls = {"mtu_passes": None, "bits_per_second": None, "why": "it connects, and a transfer does not end"}
    assert [p.id for p in found(3, changed("n1", "n2", **stalls))] == ["mtu-mismatch"]
    assert found(3, changed("*", "*", mtu_passes=None)) == []


def test_a_slow_interface_is_one_node_s() -> None:
    (problem,) = found(
        3, lambda link: replace(link, bits_per_second=1e9) if "n2" in (link.src, link.dst) else link
    )
    assert (problem.id, problem.node, problem.severity) == ("network-slow", "n2", "warning")
    assert "1.0 Gb/s from n2 to n1" in problem.found and "1.0 Gb/s from n3 to n2" in problem.found
    assert problem.expected == "about 20.0 Gb/s, the median between the other nodes"


def test_one_direction_of_a_node_is_slow() -> None:
    (problem,) = found(4, changed("n4", "*", bits_per_second=5e9))
    assert problem.node == "n4"
    assert problem.found == "5.0 Gb/s from n4 to n1, 5.0 Gb/s from n4 to n2, 5.0 Gb/s from n4 to n3"


def test_one_slow_link_counts_only_when_it_is_very_slow() -> None:
    assert found(4, changed("n1", "n2", bits_per_second=5e9)) == []
    (problem,) = found(4, changed("n1", "n2", bits_per_second=1e9))
    assert (problem.node, problem.found) == ("n2", "1.0 Gb/s from n1 to n2")


def test_what_the_mtu_slows_down_is_told_once() -> None:
    crawls = changed("n3", "n1", mtu_passes=False, bits_per_second=1e5)
    assert [problem.id for problem in found(3, crawls)] == ["mtu-mismatch"]


def test_two_nodes_have_nothing_to_be_compared_with() -> None:
    assert found(2, changed("n1", "n2", bits_per_second=1e6)) == []


def test_nodes_that_are_far_apart() -> None:
    (problem,) = found(
        3, lambda link: replace(link, rtt_seconds=0.0123) if "n3" in (link.src, link.dst) else link
    )
    assert (problem.id, problem.node, problem.severity) == ("network-slow", "n3", "warning")
    assert problem.found == "a round trip takes up to 12.3 ms with n1, n2"


# --- the matrix -----------------------------------------------------------------------------------


def test_reports_become_links_and_json() -> None:
    reports = {"a": {"b": GOOD}, "b": {"a": {"connected": False, "why": "timed out"}}}
    made = make_matrix(("a", "b"), reports, {})
    assert made.links == (Link("a", "b", **GOOD), Link("b", "a", False, "timed out"))
    assert json.loads(json.dumps(asdict(made)))["links"][1]["why"] == "timed out"


def test_a_node_that_is_gone_accuses_nobody_and_is_not_accused() -> None:
    reports = {"a": {"b": {"connected": False, "why": "timed out"}}}
    made = make_matrix(("a", "b"), reports, {"b": "the line broke"})
    assert {(link.connected, link.why) for link in made.links} == {(None, "not measured: b: the line broke")}


def test_what_was_measured_before_a_node_was_gone_stays() -> None:
    made = make_matrix(("a", "b"), {"a": {"b": GOOD}}, {"b": "the line broke"})
    assert [link.connected for link in made.links] == [True, None]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "why", "a", "b"]), inner),
    max_leaves=6,
)


@settings(max_examples=40)
@given(json_values)
def test_no_report_is_too_odd(content: object) -> None:
    said = parse_said(f"\n{json.dumps(content)}\n")
    made = make_matrix(("a", "b"), {"a": said, "b": {"a": content}}, {})  # type: ignore[dict-item]
    columns_and_rows(made)
    assert len(made.links) == 2


@pytest.mark.parametrize("nodes", [2, 3, 8, 15, 16, 64])
def test_the_tournament_has_every_pair_once_and_rounds_of_disjoint_pairs(nodes: int) -> None:
    names = tuple(map(str, range(nodes)))
    order = opponents(names)
    assert all(sorted(others) == sorted(set(names) - {node}) for node, others in order.items())
    if nodes % 2 == 0:
        for turn in range(nodes - 1):
            assert all(order[order[node][turn]][turn] == node for node in names)


def test_the_more_nodes_the_shorter_a_transfer() -> None:
    seconds = [seconds_per_transfer(nodes) for nodes in (2, 4, 16, 64)]
    assert (seconds[0], seconds[-1]) == (0.2, 0.02) and all(a >= b for a, b in pairwise(seconds))
    assert bytes_per_transfer(2) == 64 << 20 and bytes_per_transfer(64) == 1 << 20


# --- the table ------------------------------------------------------------------------------------


def test_a_few_nodes_are_shown_link_by_link() -> None:
    columns, rows = columns_and_rows(matrix(3, blocked("n1>n3")))
    assert columns == ("from \\ to", "n1", "n2", "n3")
    assert rows[0] == ("n1", "", "0.05 ms 20.0 Gb/s", "timed out")
    small = columns_and_rows(matrix(2, changed("n1", "n2", mtu=9000, mtu_passes=False, bits_per_second=94e7)))
    assert small[1][0] == ("n1", "", "0.05 ms 940 Mb/s no 9000-byte packets")


def test_of_many_nodes_the_worst_links_are_shown_and_a_summary() -> None:
    columns, rows = columns_and_rows(matrix(16, blocked("n1>n3")))
    assert columns == ("from", "to", "network") and len(rows) == 11
    assert rows[0] == ("n1", "n3", "timed out")
    assert rows[-1] == ("all", "", "239 of 240 links connect, median 0.05 ms, median 20.0 Gb/s")


def test_one_node_has_no_table() -> None:
    assert columns_and_rows(matrix(1)) == ((), ())


# --- the programs and their command lines ---------------------------------------------------------


def test_the_program_is_one_text_that_python_understands() -> None:
    two = plan_of(2)
    text = measuring._source(two, two.head, "t" * 32)
    assert text.isascii(), "its length is the same for every locale"
    tree = ast.parse(text, feature_version=(3, 9))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "collections.abc", "typing"}
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(names) == len(set(names)) > 20


def test_the_probe_of_a_higher_rank_asks_for_the_lower_one_s_turn_first() -> None:
    two = plan_of(2)
    said = {member.name: {"port": 30000 + member.node_rank, "udp_port": 40000} for member in two.members}
    assert json.loads(measuring._peers(two, "n2", said)) == [["n1", "10.0.0.1", 30000, 40000, True]]
    assert json.loads(measuring._peers(two, "n1", said)) == [["n2", "10.0.0.2", 30001, 40000, False]]


def run_sh(argv: tuple[str, ...], **env: str) -> subprocess.CompletedProcess[str]:
    program = on_stdin("print('hello', sys.stdin.readline())") + "world"
    return subprocess.run(argv, input=program, capture_output=True, text=True, env=env, timeout=20)


def test_the_node_s_own_python_is_taken() -> None:
    argv = python_on_node(plan(), plan().head, "name")
    path = f"{sys.exec_prefix}/bin:/usr/bin:/bin"
    assert run_sh(argv, PATH=path).stdout == "hello world\n"


def test_without_python_it_is_a_container_of_the_image(tmp_path: object) -> None:
    docker = f"{tmp_path}/docker"
    with open(docker, "w") as file:
        file.write('#!/bin/sh\nprintf "%s " "$@"\n')
    subprocess.run(["chmod", "+x", docker], check=True)
    old = f"{tmp_path}/python3"
    with open(old, "w") as file:
        file.write('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.6.15" && exit\necho too old\n')
    subprocess.run(["chmod", "+x", old], check=True)
    argv = (
        f"/bin/{python_on_node(plan(), plan().head, 'name')[0]}",
        *python_on_node(plan(), plan().head, "name")[1:],
    )
    words = run_sh(argv, PATH=str(tmp_path)).stdout
    assert words.startswith("run --rm --interactive --pull never --network host --name name ")
    assert " --entrypoint python3 registry.local/vllm-ray:v0.33.0 -IS -c import sys; exec(" in words


def test_where_there_is_neither_it_says_so() -> None:
    argv = python_on_node(plan(), plan().head, "name")
    done = run_sh(("/bin/sh", *argv[1:]), PATH="/nowhere")
    assert done.returncode == 127
    assert done.stderr.endswith("there is neither a python3 of 3.9 or newer nor docker\n")


# --- measured, on the addresses of this machine's loopback ----------------------------------------


def on_loopback(nodes: int) -> Plan:
    base = plan_of(nodes)
    members = tuple(replace(m, address=f"127.0.0.{m.node_rank + 1}") for m in base.members)
    return replace(base, members=members, runtime=base.runtime.model_copy(update={"engine": "process"}))


def run_program(
    more: Iterable[str], on_links: Callable[[], object] = lambda: None
) -> tuple[int, list[dict[str, object]]]:
    """Its exit code, and what it said."""
    two = on_loopback(2)
    program, said = on_stdin(measuring._source(two, two.head, "t" * 32)), []
    argv = python_on_node(two, two.head, "")

    def hear(line: str) -> None:
        said.append(json.loads(line))
        if "links" in said[-1]:
            on_links()

    done = LocalConnection().run(argv, chain([program], more), 10, hear)
    return done.exit_code, said


def test_the_program_ends_with_its_stdin() -> None:
    code, said = run_program([])
    assert (code, [sorted(one) for one in said]) == (0, [["port", "udp_port"]])


def test_the_program_ends_when_its_stdin_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LIFETIME", 0.5)
    event = threading.Event()
    endless = (str(event.wait(20)) for _ in range(1))
    assert run_program(endless)[0] == 1
    event.set()


def test_a_program_that_has_nobody_to_measure_goes_on_listening() -> None:
    event = threading.Event()

    def peers_and_then_nothing() -> Iterator[str]:
        yield "[]\n"
        event.wait(5)

    code, said = run_program(peers_and_then_nothing(), event.set)
    assert (code, said[1:]) == (0, [{"links": {}}])


def test_what_can_be_measured_is_measured_and_the_rest_says_why() -> None:
    four = on_loopback(4)
    members = (*four.members[:3], replace(four.members[3], address="203.0.113.7"))
    lines: dict[str, Connection] = {name: LocalConnection() for name in ("n1", "n2", "n4")}
    measured = measuring.measure(replace(four, members=members), lines)
    known = [link for link in measured.links if {link.src, link.dst} == {"n1", "n2"}]
    assert [(link.connected, link.why, link.mtu_passes) for link in known] == [(True, "", True)] * 2
    assert all(link.rtt_seconds and link.bits_per_second for link in known)
    assert {link.why for link in measured.links if link not in known} == {
        "not measured: n3: there is no line to it",
        "not measured: n4: cannot listen on 203.0.113.7: cannot assign requested address",
    }


def test_a_single_node_is_not_asked_anything() -> None:
    assert measuring.measure(plan_of(1), {}) == Matrix(("n1",), ())
