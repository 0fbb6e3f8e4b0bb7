"""What preflight finds on nodes of which everything is known, when one thing is not as it should be."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from samples import fresh

from cluster.checks import preflight
from cluster.errors import Problem
from cluster.facts import Facts
from cluster.facts.hardware import Disk, Gid, Hca, HcaPort, System
from cluster.facts.model_files import ModelFile, ModelFiles
from cluster.facts.types import EngineSetup, Inside
from cluster.plan import Member, Plan

GIBIBYTE = 1024**3
WITHOUT_ENGINE: dict[str, Any] = {
    "engine_version": None,
    "engine_setup": None,
    "image_id": None,
    "image_env": {},
}


def port(state: str = "ACTIVE", **changes: Any) -> HcaPort:
    """Port 1 of an HCA in an InfiniBand network."""
    return replace(HcaPort(1, state, "InfiniBand", 400.0), **changes)


def roce_port(address: str = "10.0.0.12", kind: str = "RoCE v2", index: int = 3) -> HcaPort:
    """Port 1 of an HCA on Ethernet, with the GID of an IPv4 address."""
    first, second, third, fourth = (int(part) for part in address.split("."))
    mapped = f"0000:0000:0000:0000:0000:ffff:{first:02x}{second:02x}:{third:02x}{fourth:02x}"
    link_local = Gid(0, "fe80:0000:0000:0000:0ac0:ebff:fe1f:0b2c", "IB/RoCE v1")
    return port(link_layer="Ethernet", gids=(link_local, Gid(index, mapped, kind)))


def hca(number: int = 0, *ports: HcaPort) -> Hca:
    """An HCA, by default with one active InfiniBand port."""
    return Hca(f"mlx5_{number}", ports or (port(),), 0)


def model(*files: ModelFile, **changes: Any) -> ModelFiles:
    """A model that is whole; files replace those of the same name, or come on top."""
    usual = {
        name: ModelFile(name, size, f"sha256:{digest}")
        for name, size, digest in (
            ("config.json", 700, "c" * 64),
            ("model-00001-of-00002.safetensors", 5_000_000_000, "1" * 64),
            ("model-00002-of-00002.safetensors", 3_000_000_000, "2" * 64),
        )
    }
    return replace(
        ModelFiles(
            path="/models/llama",
            config={"num_attention_heads": 32},
            index_bytes=8_000_000_000,
            shards=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            files=tuple((usual | {file.name: file for file in files}).values()),
        ),
        **changes,
    )


def complete(plan: Plan, **changes: Any) -> dict[str, Facts]:
    """As `fresh`, with every fact there: nodes with InfiniBand that can do the job."""
    cuda = plan.runtime.device == "cuda"
    without_engine = WITHOUT_ENGINE if plan.runtime.engine == "process" else {}
    return {
        name: replace(facts, **_rest(plan, plan.member(name), cuda) | without_engine | changes)
        for name, facts in fresh(plan).items()
    }


def _rest(plan: Plan, member: Member, cuda: bool) -> dict[str, Any]:
    gpus = member.node.gpus
    of_a_gpu_node = {
        "cuda_version": "13.0",
        "fabric_states": ("Completed",) * gpus,
        "fabric_manager": "active",
        "hcas": tuple(hca(number) for number in range(gpus)),
        "gpudirect": ("peermem", "dma-buf"),
        "distances": {
            f"GPU{index}": {f"mlx5_{number}": "PIX" if number == index else "SYS" for number in range(gpus)}
            for index in range(gpus)
        },
    }
    return {
        "engine_setup": EngineSetup("overlay2", "/var/lib/docker", ("nvidia", "runc"), ("name=seccomp",)),
        "image_env": {"CUDA_VERSION": "12.9.1"},
        "inside": Inside(
            nofile=1048576,
            shm_bytes=16 * GIBIBYTE,
            infiniband=("rdma_cm", "uverbs0"),
            resolves_to=(member.address,),
            cuda=(0, gpus) if cuda else None,
            model=model(path=plan.model.source, cached=not plan.model.source.startswith("/")),
        ),
        "system": System(
            os="Ubuntu 24.04.1 LTS",
            hostname=member.name,
            resolves_to=(member.address,),
            memory_total=1024 * GIBIBYTE,
            memory_available=900 * GIBIBYTE,
        ),
        "clock_offset": 0.01,
        "clock_uncertainty": 0.02,
        "disks": tuple(
            Disk(use, "/", 500 * GIBIBYTE, 1000 * GIBIBYTE) for use in ("home", "tmp", "cache", "engine")
        ),
        **(of_a_gpu_node if cuda else {}),
    }


def found(plan: Plan, node: int = 1, **changes: Any) -> list[Problem]:
    """What preflight says when the facts of one node are changed."""
    facts = complete(plan)
    name = plan.members[node].name
    facts[name] = replace(facts[name], **changes)
    return list(preflight(plan, facts))


def found_inside(plan: Plan, node: int = 1, **changes: Any) -> list[Problem]:
    """The same for what vLLM finds where it runs."""
    inside = complete(plan)[plan.members[node].name].inside
    assert inside is not None
    return found(plan, node, inside=replace(inside, **changes))


def told(problems: list[Problem]) -> list[tuple[str, str, str]]:
    """(id, node, severity) of each."""
    return [(problem.id, problem.node, problem.severity) for problem in problems]


def is_mended(problem: Problem) -> bool:
    """Whether it says where, what was found, what was expected and what to do, all filled in."""
    words = (problem.node, problem.found, problem.expected, problem.remedy)
    return all(words) and not any(re.search(r"\{\w*\}|\bNone\b", text) for text in words)
