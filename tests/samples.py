"""Inventories and facts that many tests begin with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import yaml

from cluster.facts import Answer, Container, Facts, RayNode, Versions
from cluster.facts.hardware import Gpu, Interface
from cluster.inventory import Inventory, parse
from cluster.inventory.secrets import Secrets
from cluster.plan import Member, Plan, make_plan
from cluster.render import digests, node_files, secrets_file
from cluster.steps import Secret

GOOD = """\
cluster: demo
ssh: {user: ops}
runtime: {engine: docker, image: "registry.local/vllm-ray:v0.33.0"}
model: {source: meta-llama/Llama-3.1-8B, served_name: llama}
serve: {port: 8000, args: {max_model_len: 4096}}
nodes:
  - {name: gpu-01, address: 10.0.0.11, gpus: 2}
  - {name: gpu-02, address: 10.0.0.12, gpus: 2}
"""

PROCESS = """\
cluster: local
nodes: [{address: local, gpus: 1}]
runtime: {engine: process, device: cpu, venv: /opt/venv}
model: {source: /models/SmolLM2-135M-Instruct, served_name: smollm2}
serve: {port: 8000, args: {dtype: float32, max_model_len: 1024}}
"""

IMAGE_ID = "sha256:" + "a" * 64
SECRETS: Secrets = (("HF_TOKEN", Secret("hf_verysecret")),)


def inventory(changes: Mapping[str, Any] | None = None, base: str = GOOD) -> Inventory:
    """An inventory with some keys changed: {"serve.args.max_model_len": 8192, "nodes.1.env": {...}}."""
    return _inventory(json.dumps(changes or {}), base)


def plan(changes: Mapping[str, Any] | None = None, base: str = GOOD) -> Plan:
    """The plan of such an inventory."""
    return _plan(json.dumps(changes or {}), base)


# Inventories and plans never change, and reading YAML is what takes the time of these tests.
@lru_cache
def _plan(changes: str, base: str) -> Plan:
    return make_plan(_inventory(changes, base))


@lru_cache
def _inventory(changes: str, base: str) -> Inventory:
    content = yaml.safe_load(base)
    for path, value in json.loads(changes).items():
        *parents, last = path.split(".")
        place = content
        for key in parents:
            place = place[int(key)] if key.isdigit() else place.setdefault(key, {})
        place[last] = value
    return parse(json.dumps(content), "inventory.yaml")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def container(plan: Plan, member: Member, role: str, /, **changes: Any) -> Container:
    """The container of a role as `up` starts it today."""
    name = plan.ray_container if role == "ray" else plan.serve_container
    port = plan.ray.port if role == "ray" else plan.serve.port
    image_and_port = {} if plan.runtime.engine == "process" else {"image": IMAGE_ID, "port": str(port)}
    return Container(
        **{
            "id": name if plan.runtime.engine == "process" else f"{role}-{member.name}",
            "name": name,
            "role": role,
            "node": member.name,
            "digest": getattr(digests(plan, member), role),
            "running": True,
            **image_and_port,
            "started_at": "2026-11-21T05:24:26.654017000Z",
            **changes,
        }
    )


def gpu(index: int, **changes: Any) -> Gpu:
    """One idle GPU."""
    return replace(
        Gpu(index, f"GPU-{index}", "NVIDIA H200", 143771 * 2**20, 0, "580.159.04", ecc_errors=0), **changes
    )


def fresh(plan: Plan, **changes: Any) -> dict[str, Facts]:
    """Nodes that can do the job, and on which nothing was ever done."""
    return {
        member.name: replace(
            Facts(
                engine_version="20.10.24",
                versions=Versions("3.12.3", "2.60.0", "0.33.0"),
                image_id=IMAGE_ID,
                gpus=tuple(gpu(index) for index in range(member.node.gpus)),
                interfaces={"lo": Interface(("127.0.0.1",)), "eth0": Interface((member.address,), 1500)},
                default_route="eth0",
            ),
            **changes,
        )
        for member in plan.members
    }


def healthy(plan: Plan, secrets: Secrets = ()) -> dict[str, Facts]:
    """Nodes on which all of a plan is so."""
    joined = tuple(RayNode(m.address, m.name, True, m.node.gpus) for m in plan.members)
    extra = {"secrets.env": sha256(secrets_file(secrets))} if secrets else {}
    return {
        member.name: replace(
            fresh(plan)[member.name],
            containers=(
                *((container(plan, member, "ray"),) if plan.uses_ray else ()),
                *((container(plan, member, "serve"),) if member in plan.servers else ()),
            ),
            files={file.path: sha256(file.content) for file in node_files(plan, member)} | extra,
            ray_nodes=joined if plan.uses_ray else None,
            answer=Answer("Paris.", 0.2) if member.role == "head" else None,
        )
        for member in plan.members
    }
