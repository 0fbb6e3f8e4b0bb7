"""Whatever HCAs and interfaces nodes have, what is chosen holds together, and the user's word stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import plan

from cluster.choice import choose, expected_environment, explanation, explanation_json, lacking
from cluster.choice.user import is_named
from cluster.facts import Facts, Versions
from cluster.facts.hardware import Gid, Hca, HcaPort, Interface
from cluster.plan import Plan

NODES = [{"name": f"gpu-0{n}", "address": f"10.0.0.1{n}", "gpus": 2} for n in (1, 2, 3)]
AUTO = [plan({"nodes": NODES, "network.require": require}) for require in ("any", "ib", "roce")]
SET = [
    plan({"nodes": NODES, **changes})
    for changes in (
        {"network.hcas": ["mlx5_1", "mlx5_10:1"]},
        {"network.hcas": "none"},
        {"nodes": [{**NODES[0], "hcas": ["mlx5_1:2"]}, *NODES[1:]]},
        {"nodes": [{**NODES[0], "env": {"NCCL_IB_HCA": "^mlx5_1"}}, *NODES[1:]]},
        {"env": {"NCCL_IB_DISABLE": "1", "NCCL_IB_GID_INDEX": "3"}},
        {"env": {"NCCL_NET": "AWS Libfabric", "NCCL_SOCKET_IFNAME": "^docker"}},
        {"network.interface": "eth1"},
        {"runtime.device": "cpu"},
    )
]
HCA_NAMES = ("mlx5_0", "mlx5_1", "mlx5_2", "mlx5_10", "mlx5_bond_0", "rocep1s0", "²", "")
ADDRESSES = ("10.0.0.11", "10.0.0.12", "10.1.0.11", "127.0.0.1", "fe80::1", "")
MAPPED = tuple(
    f"0000:0000:0000:0000:0000:ffff:{last}"
    for last in ("0a00:000b", "0a00:000c", "0a01:000b", "zzzz:zzzz", "")
)


def few(inner: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=most).map(tuple)


GIDS = st.builds(
    Gid,
    st.sampled_from([0, 3, 5]),
    st.sampled_from([*MAPPED, "fe80:0000:0000:0000:0ac0:ebff:fe1f:0b2c"]),
    st.sampled_from(["RoCE v2", "IB/RoCE v1", ""]),
)
PORTS = st.builds(
    HcaPort,
    number=st.integers(1, 2),
    state=st.sampled_from(["ACTIVE", "ACTIVE", "ACTIVE", "DOWN", ""]),
    link_layer=st.sampled_from(["InfiniBand", "InfiniBand", "Ethernet", "Ethernet", "Unspecified", ""]),
    rate=st.sampled_from([0.0, 100.0, 400.0]),
    gids=few(GIDS),
)
HCAS = st.lists(
    st.builds(
        Hca, st.sampled_from(HCA_NAMES), st.lists(PORTS, max_size=2, unique_by=lambda p: p.number).map(tuple)
    ),
    max_size=4,
    unique_by=lambda hca: hca.name,
).map(tuple)
FACTS = st.builds(
    Facts,
    hcas=HCAS,
    versions=st.none() | st.builds(Versions, nccl=st.sampled_from([None, "2.20.5", "2.27.3", "9" * 9, "²"])),
    distances=st.dictionaries(
        st.sampled_from(["GPU0", "GPU1"]),
        st.dictionaries(st.sampled_from(HCA_NAMES), st.sampled_from(["PIX", "PXB", "SYS", ""])),
    ),
    interfaces=st.dictionaries(
        st.sampled_from(["eth0", "eth1", "lo", "docker0"]),
        st.builds(
            Interface,
            few(st.sampled_from(ADDRESSES)),
            up=st.booleans(),
            networks=few(st.sampled_from(["10.0.0.0/24", "10.1.0.0/16"]), 2),
        ),
        max_size=3,
    ),
)
SOME = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def by_node(one: Plan, found: list[Facts]) -> dict[str, Facts]:
    return {member.name: facts for member, facts in zip(one.members, found, strict=False)}


@SOME
@given(st.lists(FACTS, max_size=3), st.sampled_from(AUTO))
def test_what_is_chosen_holds_together(found: list[Facts], one: Plan) -> None:
    facts = by_node(one, found)
    choices = choose(one, facts)
    ports = [port for choice in choices.values() for port in choice.hcas]
    assert len({port.link_layer for port in ports}) <= 1
    assert all(port.active and port.link_layer in ("InfiniBand", "Ethernet") for port in ports)
    assert all(port.gid_indices for port in ports if port.link_layer == "Ethernet")
    assert len({bool(choice.hcas) for choice in choices.values()}) <= 1  # on all nodes, or on none
    assert bool(lacking(one, facts)) == (bool(facts) and not ports)


@SOME
@given(st.lists(FACTS, min_size=1, max_size=3), st.sampled_from([*AUTO, *SET]))
def test_the_users_word_stands_and_all_is_explained(found: list[Facts], one: Plan) -> None:
    facts = by_node(one, found)
    choices = choose(one, facts)
    assert list(choices) == list(facts)
    for name, choice in choices.items():
        member = one.member(name)
        assert not set(choice.env) & set(dict(member.env))
        assert expected_environment(member, choice).items() >= dict(member.env).items()
        assert choice.interface == member.interface or member.interface is None
        every_port = {f"{hca.name}:{port.number}" for hca in facts[name].hcas for port in hca.ports}
        reasons = choice.reasons.ports
        assert {reason.port.name for reason in reasons} == every_port and len(reasons) == len(every_port)
        assert {reason.port for reason in reasons if reason.taken} == set(choice.hcas)
        assert all(reason.why for reason in (*reasons, *choice.reasons.interfaces)) and choice.reasons.hcas
        assert {r.name for r in choice.reasons.interfaces} >= set(facts[name].interfaces)
        assert [port.rail for port in choice.hcas] == list(range(len(choice.hcas)))
    assert explanation(one, choices) and explanation_json(one, choices)


@SOME
@given(st.lists(FACTS, min_size=2, max_size=3), st.sampled_from(AUTO))
def test_nccl_takes_the_very_ports_that_were_chosen(found: list[Facts], one: Plan) -> None:
    """By the rules of NCCL_IB_HCA; a name that is empty is of no HCA, and NCCL would take it for all."""
    for choice in choose(one, by_node(one, found)).values():
        spec = choice.env.get("NCCL_IB_HCA")
        ports = [reason.port for reason in choice.reasons.ports if reason.port.hca]
        if spec is not None:
            assert {p.name for p in ports if is_named(p, spec)} == {p.name for p in choice.hcas if p.hca}


@SOME
@given(st.lists(FACTS, max_size=3), st.sampled_from(AUTO))
def test_the_order_in_which_the_kernel_lists_hcas_does_not_matter(found: list[Facts], one: Plan) -> None:
    turned = [replace(facts, hcas=facts.hcas[::-1]) for facts in found]
    assert choose(one, by_node(one, found)) == choose(one, by_node(one, turned))
