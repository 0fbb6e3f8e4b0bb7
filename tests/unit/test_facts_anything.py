"""Whatever nodes answer, parsers understand it or not, and the checks of what they understood never raise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from findings import is_mended
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import PROCESS, plan

from cluster.checks import preflight
from cluster.checks.ids import IDS
from cluster.facts import (
    Facts,
    RayNode,
    Versions,
    containers,
    gpu,
    inside,
    node,
    processes,
    rdma,
    service,
    system,
)
from cluster.facts.hardware import Disk, Gid, Gpu, GpuProcess, Hca, HcaPort, Interface, System
from cluster.facts.model_files import ModelFile, ModelFiles
from cluster.facts.types import Container, EngineSetup, Inside
from cluster.steps import Result

PARSERS = [
    parse
    for module in (containers, gpu, inside, node, processes, rdma, service, system)
    for name, parse in vars(module).items()
    if name.startswith("parse_") and parse.__module__ == module.__name__
]
RECORDED = [
    yaml.safe_load(file.read_text())
    for file in sorted(Path(__file__).parents[1].glob("recorded/facts/*.yaml"))
]
OUTPUTS = [str(case["output"])[:4000] for case in RECORDED]
PLANS = [
    *(plan({"runtime.engine": engine}) for engine in ("docker", "podman")),
    plan({"runtime.device": "cpu"}),
    plan({"network.hcas": ["mlx5_0", "mlx5_1:1"], "env": {"HF_HUB_OFFLINE": "1", "NCCL_IB_GID_INDEX": "3"}}),
    plan({"model.source": "/models/llama", "runtime.mounts": ["/models:/models"], "runtime.pull": "never"}),
    plan(base=PROCESS),
    plan({"runtime.device": "cuda"}, PROCESS),
]


@st.composite
def half_valid(draw: st.DrawFn) -> str:
    """The output of a real machine, of which pieces are cut out, put in, or stand twice."""
    text = draw(st.sampled_from(OUTPUTS))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 60)))
        put = draw(
            st.sampled_from(
                ["", "\n", "\t", ",", ":", "-1", "9" * 30, "²", "\0", "{", '"', text[start:end] * 2]
            )
        )
        text = text[:start] + put + text[end:]
    return text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(half_valid(), half_valid(), st.sampled_from([0, 1, 124, 127]), st.sampled_from(PLANS))
def test_what_was_understood_of_half_valid_output_is_checked(
    first: str, second: str, code: int, one: Any
) -> None:
    by_node = [
        Facts(**{key: value for parse in PARSERS for key, value in parse(Result(code, text, "")).items()})
        for text in (first, second)
    ]
    names = [member.name for member in one.members]
    for problem in preflight(one, dict(zip(names, by_node, strict=False))):
        assert problem.id in IDS and problem.node in names and problem.remedy


NAMES = st.sampled_from(
    ["", "mlx5_0", "mlx5_1", "GPU-0", "eth0", "gpu-01", "model-1.safetensors", "config.json", "²"]
)
SIZES = st.sampled_from([0, 1, 2**20, 2**30, 2**36, 2**62])
ADDRESSES = st.sampled_from(
    ["10.0.0.11", "10.0.0.12", "127.0.1.1", "", "fe80::1", "0000:0000:0000:0000:0000:ffff:0a00:000c"]
)
MAYBE_SIZES = st.none() | SIZES


def few(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=2).map(tuple)


PORTS = st.builds(
    HcaPort,
    number=st.integers(0, 2),
    state=st.sampled_from(["ACTIVE", "DOWN", ""]),
    link_layer=st.sampled_from(["InfiniBand", "Ethernet", ""]),
    rate=st.sampled_from([0.0, 2.5, 400.0]),
    gids=few(st.builds(Gid, st.integers(0, 4), ADDRESSES, st.sampled_from(["RoCE v2", "IB/RoCE v1", ""]))),
)
MODELS = st.builds(
    ModelFiles,
    path=st.just("/models/llama"),
    cached=st.booleans(),
    there=st.booleans(),
    config=st.none() | st.just({}),
    index_bytes=MAYBE_SIZES,
    shards=few(NAMES),
    files=few(
        st.builds(
            ModelFile, NAMES, MAYBE_SIZES, st.none() | st.just("a" * 64), st.sampled_from(["", "is empty"])
        )
    ),
    incomplete=few(NAMES),
)
ANY = {
    "engine_version": st.none() | st.just("28.0"),
    "engine_error": st.sampled_from(["", "sh: 1: docker: not found", "permission denied"]),
    "engine_setup": st.none()
    | st.builds(
        EngineSetup, st.sampled_from(["vfs", "overlay2"]), NAMES, few(NAMES), st.just(("name=rootless",))
    ),
    "containers": few(
        st.builds(Container, NAMES, NAMES, st.sampled_from(["ray", "serve"]), NAMES, NAMES, st.booleans())
    ),
    "name_conflicts": few(NAMES),
    "image_id": st.none() | st.just("sha256:" + "a" * 64),
    "image_env": st.dictionaries(
        st.just("CUDA_VERSION"), st.sampled_from(["13.0", "", "9" * 400 + ".1", "x"])
    ),
    "versions": st.none() | st.builds(Versions, *([st.none() | st.just("1.2.3")] * 3)),
    "versions_error": st.sampled_from(["", "nvidia-container-cli: broken"]),
    "inside": st.none()
    | st.builds(
        Inside,
        memlock=MAYBE_SIZES,
        nofile=MAYBE_SIZES,
        shm_bytes=MAYBE_SIZES,
        proxies=st.dictionaries(st.sampled_from(["http_proxy", "NO_PROXY", "no_proxy"]), ADDRESSES),
        infiniband=few(NAMES),
        resolves_to=few(ADDRESSES),
        cuda=st.none() | st.tuples(st.sampled_from([0, 35, 802, 999]), st.integers(0, 8)),
        model=st.none() | MODELS,
    ),
    "system": st.none()
    | st.builds(
        System, hostname=NAMES, resolves_to=few(ADDRESSES), memory_available=MAYBE_SIZES, selinux=NAMES
    ),
    "clock_offset": st.none() | st.sampled_from([0.0, -3.5, 1e9]),
    "gpus": few(
        st.builds(
            Gpu,
            st.integers(0, 9),
            NAMES,
            NAMES,
            SIZES,
            SIZES,
            NAMES,
            st.booleans(),
            st.none() | st.integers(0, 2),
        )
    ),
    "gpu_error": st.sampled_from(["", "No devices were found", "Driver/library version mismatch"]),
    "gpu_processes": few(st.builds(GpuProcess, st.integers(0, 9), NAMES, SIZES)),
    "cuda_version": st.none() | st.just("12.4"),
    "xids": few(st.sampled_from(["NVRM: Xid (PCI:0): 79, x", "NVRM: Xid"])),
    "fabric_states": few(st.sampled_from(["Completed", "In Progress", ""])),
    "hcas": few(st.builds(Hca, NAMES, few(PORTS))),
    "gpudirect": few(NAMES),
    "distances": st.dictionaries(
        NAMES, st.dictionaries(NAMES, st.sampled_from(["PIX", "SYS", ""]), max_size=2), max_size=2
    ),
    "acs_bridges": st.integers(0, 3),
    "interfaces": st.dictionaries(
        NAMES, st.builds(Interface, few(ADDRESSES), MAYBE_SIZES, st.booleans()), max_size=2
    ),
    "default_route": st.none() | NAMES,
    "listening": st.frozensets(st.sampled_from([22, 6379, 8000])),
    "disks": few(st.builds(Disk, st.sampled_from(["home", "tmp", "cache", "engine"]), NAMES, SIZES, SIZES)),
    "ray_nodes": st.none() | few(st.builds(RayNode, ADDRESSES, NAMES, st.booleans(), st.just(1.0))),
}


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    """Some facts of a node, each with any value that its parser may give."""
    asked = draw(st.lists(st.sampled_from(sorted(ANY)), max_size=12, unique=True))
    return Facts(**{name: draw(ANY[name]) for name in asked})


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(facts(), facts(), st.sampled_from(PLANS))
def test_any_facts_can_be_checked(first: Facts, second: Facts, one: Any) -> None:
    names = [member.name for member in one.members]
    for problem in preflight(one, dict(zip(names, (first, second), strict=False))):
        assert problem.id in IDS and problem.node in names
        assert problem.severity in ("error", "warning") and is_mended(problem)
