"""What differs between nodes, and must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from findings import complete, hca, model, port, told
from samples import PROCESS, gpu, plan

from cluster.checks import preflight
from cluster.errors import Problem
from cluster.facts import Facts, Versions
from cluster.facts.hardware import Interface
from cluster.facts.model_files import ModelFile, ModelFiles
from cluster.plan import Plan

TWO = plan()
THREE = plan(
    {"nodes": [{"name": f"gpu-0{n}", "address": f"10.0.0.1{n}", "gpus": 2} for n in (1, 2, 3)]},
)
FOUR = plan(
    {"nodes": [{"name": f"gpu-0{n}", "address": f"10.0.0.1{n}", "gpus": 2} for n in (1, 2, 3, 4)]},
)
Change = Callable[[Facts], Facts]


def differing(one: Plan, **changes: Change) -> list[Problem]:
    """Of complete nodes, some changed: differing(TWO, gpu_02=lambda facts: ...)."""
    facts = complete(one)
    for name, change in changes.items():
        node = name.replace("_", "-")
        facts[node] = change(facts[node])
    return list(preflight(one, facts))


def given(**changes: Any) -> Change:
    return lambda facts: replace(facts, **changes)


def with_model(one: ModelFiles) -> Change:
    def change(facts: Facts) -> Facts:
        assert facts.inside is not None
        return replace(facts, inside=replace(facts.inside, model=one))

    return change


OTHER_IMAGE = "sha256:" + "b" * 64
DIFFERENCES: list[tuple[str, str, dict[str, Any], str]] = [
    ("ray-version-mismatch", "error", {"versions": Versions("3.12.3", "2.50.0", "0.33.0")}, "ray is 2.50.0"),
    (
        "ray-version-mismatch",
        "error",
        {"versions": Versions("3.12.4", "2.60.0", "0.33.0")},
        "python is 3.12.4",
    ),
    (
        "vllm-version-mismatch",
        "error",
        {"versions": Versions("3.12.3", "2.60.0", "0.32.0")},
        "vllm is 0.32.0",
    ),
    (
        "image-drift",
        "error",
        {"image_id": OTHER_IMAGE},
        "registry.local/vllm-ray:v0.33.0 is sha256:bbbbbbbbbbbb",
    ),
    (
        "gpu-model-differs",
        "warning",
        {"gpus": tuple(gpu(i, name="NVIDIA H100 80GB HBM3") for i in (0, 1))},
        "GPUs are NVIDIA H100 80GB HBM3",
    ),
    (
        "gpu-model-differs",
        "warning",
        {"gpus": (gpu(0), gpu(1, name="NVIDIA L40S"))},
        "GPUs are NVIDIA H200 and NVIDIA L40S",
    ),
    (
        "driver-differs",
        "warning",
        {"gpus": tuple(gpu(i, driver="570.86.15") for i in (0, 1))},
        "the NVIDIA driver is 570.86.15",
    ),
    ("hca-differs", "warning", {"hcas": (hca(0),)}, "HCA ports for NCCL: 1 (400 Gb/s)"),
    (
        "hca-differs",
        "warning",
        {"hcas": (hca(0), hca(1, port(rate=200.0)))},
        "HCA ports for NCCL: 1 (400 Gb/s)",
    ),
    (
        "hca-differs",
        "warning",
        {"hcas": (hca(0, port(rate=200.0)), hca(1, port(rate=200.0)))},
        "HCA ports for NCCL: 2 (200 Gb/s)",
    ),
]


@pytest.mark.parametrize(("id_", "severity", "changes", "says"), DIFFERENCES)
def test_of_three_nodes_the_one_that_differs_is_named(
    id_: str, severity: str, changes: dict[str, Any], says: str
) -> None:
    for node in ("gpu_01", "gpu_02", "gpu_03"):
        (problem,) = differing(THREE, **{node: given(**changes)})
        assert told([problem]) == [(id_, node.replace("_", "-"), severity)]
        assert problem.found == says and problem.expected.endswith(", as on the other nodes")


@pytest.mark.parametrize(("id_", "severity", "changes", "says"), DIFFERENCES)
def test_of_two_nodes_the_second_is_named(
    id_: str, severity: str, changes: dict[str, Any], says: str
) -> None:
    assert told(differing(TWO, gpu_02=given(**changes))) == [(id_, "gpu-02", severity)]
    (problem,) = differing(TWO, gpu_01=given(**changes))
    assert told([problem]) == [(id_, "gpu-02", severity)]
    assert problem.found != says


@pytest.mark.parametrize(("id_", "severity", "changes", "says"), DIFFERENCES)
def test_what_is_the_same_everywhere_is_no_difference(
    id_: str, severity: str, changes: dict[str, Any], says: str
) -> None:
    problems = preflight(TWO, complete(TWO, **changes))
    assert id_ not in {problem.id for problem in problems}, (severity, says)


def test_what_is_not_known_of_a_node_is_no_difference() -> None:
    unknown = given(
        versions=None,
        image_id=None,
        image_env={},
        hcas=(),
        interfaces={},
        inside=None,
        system=None,
        clock_offset=None,
        distances={},
        gpus=(),
    )
    assert {problem.id for problem in differing(TWO, gpu_02=unknown)} == {"gpu-count"}


def test_environments_are_told_apart_from_images() -> None:
    local = plan(
        {
            "nodes": [
                {"name": "a", "address": "10.0.0.1", "gpus": 1},
                {"name": "b", "address": "10.0.0.2", "gpus": 1},
            ]
        },
        PROCESS,
    )
    (problem,) = differing(local, b=given(versions=Versions("3.12.3", "2.50.0", "0.33.0")))
    assert problem.remedy == "Install the same versions in every environment"


def test_one_image_that_was_built_on_each_node_is_no_drift() -> None:
    def built(content: str, letter: str) -> Change:
        return given(image_content=content, image_id=f"sha256:{letter * 64}")

    assert differing(TWO, gpu_01=built("same", "a"), gpu_02=built("same", "b")) == []
    (problem,) = differing(TWO, gpu_01=built("one", "a"), gpu_02=built("other", "b"))
    assert told([problem]) == [("image-drift", "gpu-02", "error")]
    assert problem.expected == "sha256:aaaaaaaaaaaa, as on the other nodes"


# --- names ------------------------------------------------------------------------------------------


def named(hostname: str) -> Change:
    def change(facts: Facts) -> Facts:
        assert facts.system is not None
        return replace(facts, system=replace(facts.system, hostname=hostname))

    return change


def test_two_nodes_of_one_name() -> None:
    (problem,) = differing(THREE, gpu_01=named("localhost"), gpu_03=named("localhost"))
    assert told([problem]) == [("duplicate-hostname", "gpu-03", "error")]
    assert problem.found == "its hostname is localhost, as that of gpu-01"
    assert "`sudo hostnamectl set-hostname gpu-03` on gpu-03" in problem.remedy
    assert differing(THREE, gpu_01=named(""), gpu_03=named("")) == []


# --- clocks -----------------------------------------------------------------------------------------


def clocks(one: Plan, *offsets: float | None, uncertainty: float = 0.0) -> list[tuple[str, str, str]]:
    facts = {
        name: replace(fact, clock_offset=offset, clock_uncertainty=uncertainty)
        for (name, fact), offset in zip(complete(one).items(), offsets, strict=True)
    }
    return told(list(preflight(one, facts)))


def skewed(*numbers: int, severity: str = "warning") -> list[tuple[str, str, str]]:
    return [("clock-skew", f"gpu-0{number}", severity) for number in numbers]


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ((0.0, 2.0), []),
        ((0.0, 2.1), skewed(2)),
        ((2.1, 0.0), skewed(1)),
        ((0.0, -2.1), skewed(2)),
        ((-1.2, 1.2), skewed(2)),
        ((0.0, 60.0), skewed(2)),
        ((0.0, 63.0), skewed(2, severity="error")),
        ((-3600.0, 0.1), skewed(1, severity="error")),
        # The operator's own clock is nobody's fault.
        ((3600.0, 3600.5), []),
        ((None, 3600.0), []),
        ((None, None), []),
    ],
    ids=str,
)
def test_of_two_clocks_the_one_farther_from_the_operators_is_named(
    offsets: tuple[float | None, ...], expected: list[tuple[str, str, str]]
) -> None:
    assert clocks(TWO, *offsets) == expected


@pytest.mark.parametrize(
    ("plan", "offsets", "expected"),
    [
        (THREE, (0.0, 0.1, 5.0), skewed(3)),
        (THREE, (500.0, 500.1, 505.0), skewed(3)),
        (THREE, (0.0, 500.0, 500.1), skewed(1, severity="error")),
        (FOUR, (0.0, 0.1, 100.0, 100.1), skewed(3, 4, severity="error")),
        (FOUR, (-100.0, -100.1, 0.0, 0.1), skewed(1, 2, severity="error")),
        (FOUR, (0.0, None, 0.1, 5.0), skewed(4)),
    ],
    ids=str,
)
def test_of_more_clocks_the_one_in_the_middle_is_right(
    plan: Plan, offsets: tuple[float | None, ...], expected: list[tuple[str, str, str]]
) -> None:
    assert clocks(plan, *offsets) == expected


def test_a_slow_connection_excuses_what_it_cannot_tell() -> None:
    assert clocks(TWO, 0.0, 5.0, uncertainty=3.1) == []
    assert clocks(TWO, 0.0, 5.0, uncertainty=2.9) == skewed(2)


def test_a_clock_says_which_way_it_is_off() -> None:
    (problem,) = differing(TWO, gpu_02=given(clock_offset=-5.0, clock_uncertainty=0.0))
    assert (
        problem.found == "its clock is 5.0 s behind" and "`sudo timedatectl set-ntp true`" in problem.remedy
    )


# --- the network ------------------------------------------------------------------------------------


def test_mtus_of_the_interfaces_that_carry_the_addresses() -> None:
    jumbo = {"eth0": Interface(("10.0.0.12",), 9000), "docker0": Interface(("172.17.0.1",), 1500)}
    (problem,) = differing(TWO, gpu_02=given(interfaces=jumbo))
    assert told([problem]) == [("mtu-mismatch", "gpu-02", "warning")]
    assert problem.found == "the MTU of its interface is 9000"
    other = {"eth0": Interface(("10.0.0.12",), 1500), "docker0": Interface(("172.17.0.1",), 9000)}
    assert differing(TWO, gpu_02=given(interfaces=other)) == []
    unknown = {"eth0": Interface(("10.0.0.12",), None)}
    assert differing(TWO, gpu_02=given(interfaces=unknown)) == []


def test_on_cpus_hcas_play_no_part() -> None:
    cpu = plan({"runtime.device": "cpu"})
    assert differing(cpu, gpu_02=given(gpus=(), hcas=(hca(0),))) == []


# --- the model --------------------------------------------------------------------------------------

SHARD = "model-00002-of-00002.safetensors"
PARTIAL = "hf-cache-partial"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            ModelFile(SHARD, 3_000_000_000, f"sha256:{'f' * 64}"),
            f"{SHARD} has other contents (sha256 ffffffffffff, elsewhere 222222222222)",
        ),
        (ModelFile(SHARD, 100, None), f"{SHARD} has 100 bytes, elsewhere 3000000000"),
        (
            ModelFile("config.json", 700, f"sha256:{'d' * 64}"),
            "config.json has other contents (sha256 dddddddddddd, elsewhere cccccccccccc)",
        ),
    ],
)
def test_a_file_that_differs_is_named(file: ModelFile, says: str) -> None:
    for one, node in ((TWO, "gpu-02"), (THREE, "gpu-02")):
        (problem,) = differing(one, gpu_02=with_model(model(file)))
        assert told([problem]) == [(PARTIAL, node, "error")]
        assert problem.found == says and "`rsync -a --checksum`" in problem.remedy
    (problem,) = differing(THREE, gpu_01=with_model(model(file)))
    assert (problem.node, problem.found) == ("gpu-01", says)


def test_a_shard_that_one_node_lacks_is_named() -> None:
    without = model(files=model().files[:2])
    for one in (TWO, THREE):
        problems = differing(one, gpu_02=with_model(without))
        assert {(p.id, p.node) for p in problems} == {(PARTIAL, "gpu-02")}
        assert f"{SHARD} is missing" in {problem.found for problem in problems}


def test_a_file_that_only_one_of_three_has_is_missing_nowhere() -> None:
    assert differing(THREE, gpu_01=with_model(model(ModelFile("notes.json", 5, "e" * 64)))) == []


@pytest.mark.parametrize("name", ["README.md", ".gitattributes", "LICENSE", "figure.png"])
def test_what_vllm_does_not_read_may_differ(name: str) -> None:
    assert differing(TWO, gpu_01=with_model(model(ModelFile(name, 5, "e" * 64)))) == []
    other = with_model(model(ModelFile(name, 6, f"sha256:{'f' * 64}")))
    assert differing(TWO, gpu_01=with_model(model(ModelFile(name, 5, "e" * 64))), gpu_02=other) == []


def test_digests_that_were_not_read_are_not_compared() -> None:
    unread = tuple(replace(file, digest=None) for file in model().files)
    assert differing(TWO, gpu_02=with_model(model(*unread))) == []
    assert differing(TWO, gpu_01=with_model(model(*unread))) == []
    assert differing(THREE, gpu_01=with_model(model(*unread)), gpu_03=with_model(model(*unread))) == []


def test_of_many_files_that_differ_the_first_are_named() -> None:
    def shards(digest: str) -> ModelFiles:
        files = (ModelFile(f"layer-{n}.safetensors", 10, f"sha256:{digest * 64}") for n in range(20))
        return model(*files, shards=())

    problems = differing(TWO, gpu_01=with_model(shards("a")), gpu_02=with_model(shards("b")))
    assert len(problems) == 6 and {problem.node for problem in problems} == {"gpu-02"}
    assert problems[-1].found == "15 more files differ"


def test_a_model_that_a_node_lacks_is_not_compared() -> None:
    absent = model(there=False, cached=True, config=None, files=(), shards=())
    assert differing(TWO, gpu_02=with_model(absent)) == []
