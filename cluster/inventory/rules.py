"""What has to hold between the keys of an inventory. Pure: an inventory in, (path, what) out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from cluster.inventory.model import RDMA, Inventory
from cluster.inventory.spares import members, spares
from cluster.inventory.vllm_flags import why_not

Path = tuple[str | int, ...]
Finding = tuple[Path, str]

SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS|API_KEY|ACCESS_KEY)$", re.IGNORECASE
)
ENGINE_OPTION = re.compile(r"-[el]|--(env|env-file|label|label-file)\b")
FROM_THE_PLAN = {
    "VLLM_HOST_IP": "it is the node's address",
    "RAY_ADDRESS": "it is the head's address and ray.port",
}


def findings(inventory: Inventory) -> Iterator[Finding]:
    """All that is wrong, in the order of the file's sections."""
    yield from _names_and_addresses(inventory)
    yield from _head(inventory)
    yield from _spares(inventory)
    yield from _local(inventory)
    yield from _runtime(inventory)
    yield from _ports(inventory)
    yield from _network(inventory)
    yield from _environment(inventory)
    yield from _secrets(inventory)
    yield from _vllm_args(inventory)
    yield from _parallel_sizes(inventory)


def _names_and_addresses(inventory: Inventory) -> Iterator[Finding]:
    for key in ("name", "address"):
        seen: dict[str, int] = {}
        for index, node in enumerate(inventory.nodes):
            value = getattr(node, key)
            if value in seen:
                yield ("nodes", index, key), f"{value!r} is already nodes[{seen[value]}].{key}"
            seen.setdefault(value, index)


def _head(inventory: Inventory) -> Iterator[Finding]:
    names = [node.name for node in inventory.nodes]
    if inventory.head is not None and inventory.head not in names:
        yield ("head",), f"no node is named {inventory.head!r}; the nodes are {', '.join(names)}"
    if inventory.head in [node.name for node in spares(inventory)]:
        yield ("head",), f"{inventory.head!r} is a spare; it becomes the head where it replaces the head"


def _spares(inventory: Inventory) -> Iterator[Finding]:
    if not members(inventory):
        yield ("nodes",), "every node is a spare; at least one has to carry the cluster"
        return
    least = min(node.gpus for node in members(inventory))
    for index, node in enumerate(inventory.nodes):
        if node.spare and node.gpus < least:
            yield (
                ("nodes", index, "gpus"),
                f"{node.gpus} are too few to replace any node: each has {least} or more",
            )


def _local(inventory: Inventory) -> Iterator[Finding]:
    local = [index for index, node in enumerate(inventory.nodes) if node.is_local]
    if local and len(inventory.nodes) > 1:
        yield (
            ("nodes", local[0], "address"),
            "'local' stands alone: other nodes could not reach this one by it",
        )
    for index, node in enumerate(inventory.nodes):
        if not node.is_local and "name" not in node.model_fields_set:
            yield ("nodes", index, "name"), "is required"
        if not node.is_local and "gpus" not in node.model_fields_set:
            yield ("nodes", index, "gpus"), "is required"


def _runtime(inventory: Inventory) -> Iterator[Finding]:
    runtime = inventory.runtime
    if runtime.engine == "process":
        for key in ("image", "privileged", "extra_args", "mounts"):
            if getattr(runtime, key):
                yield ("runtime", key), "the engine 'process' has no containers; leave this out"
    elif runtime.image is None:
        yield ("runtime", "image"), f"the engine {runtime.engine!r} needs an image with vLLM and Ray"
    for index, argument in enumerate(runtime.extra_args):
        if ENGINE_OPTION.match(argument):
            yield ("runtime", "extra_args", index), "use env or secrets; labels are clusterctl's own"
    if runtime.engine == "process":
        for index, node in enumerate(inventory.nodes):
            if node.mounts:
                yield ("nodes", index, "mounts"), "the engine 'process' has no containers; leave this out"
    if runtime.venv is not None and runtime.engine != "process":
        yield ("runtime", "venv"), "only the engine 'process' uses it"
    if inventory.serve.executor_backend == "mp" and runtime.device == "cpu" and len(members(inventory)) > 1:
        yield ("serve", "executor_backend"), "over several nodes the CPU works with 'ray' alone"
    if not _is_local(inventory):
        for path, value in (
            (("runtime", "venv"), runtime.venv),
            (("model", "source"), inventory.model.source),
        ):
            if value is not None and value.startswith(("~", "./", "../")):
                yield path, f"expected an absolute path, got {value!r}: it is looked up on the nodes"


def _is_local(inventory: Inventory) -> bool:
    return inventory.nodes[0].is_local


def _ports(inventory: Inventory) -> Iterator[Finding]:
    taken = {inventory.ray.port: "ray.port"}
    for section, key, port in (
        ("serve", "port", inventory.serve.port),
        ("network", "verify_port", inventory.network.verify_port),
    ):
        if port in taken:
            yield (section, key), f"{port} is already {taken[port]}"
        taken.setdefault(port, f"{section}.{key}")


def _network(inventory: Inventory) -> Iterator[Finding]:
    network = inventory.network
    without = [node.name for node in inventory.nodes if (node.hcas or network.hcas) == "none"]
    if network.require in RDMA and without:
        yield (
            ("network", "require"),
            f"{network.require!r} cannot be met with hcas: none ({', '.join(without)})",
        )


def _environment(inventory: Inventory) -> Iterator[Finding]:
    places: list[tuple[Path, dict[str, str]]] = [(("env",), inventory.env)]
    places.append((("network", "nccl_env"), inventory.network.nccl_env))
    places += [(("nodes", index, "env"), node.env) for index, node in enumerate(inventory.nodes)]
    for path, env in places:
        for name in env:
            if name in FROM_THE_PLAN:
                yield (*path, name), f"clusterctl sets it itself: {FROM_THE_PLAN[name]}"
            elif SECRET_NAME.search(name):
                yield (*path, name), f"a secret is not written down: secrets: {{{name}: {{env: {name}}}}}"
    for name in inventory.network.nccl_env:
        if not name.startswith("NCCL_"):
            yield (
                ("network", "nccl_env", name),
                "expected a variable that starts with NCCL_; others go into env",
            )


def _secrets(inventory: Inventory) -> Iterator[Finding]:
    for name, source in inventory.secrets.items():
        if (source.env is None) == (source.file is None):
            yield ("secrets", name), "expected either {env: NAME} or {file: PATH}"


def _vllm_args(inventory: Inventory) -> Iterator[Finding]:
    for key, value in inventory.serve.args.items():
        reason = why_not(key) or _unusable(value)
        if reason:
            yield ("serve", "args", key), reason


def _unusable(value: Any) -> str | None:
    if value is None:
        return "expected a value; `true` for a flag without one"
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {value!r}"
    if not isinstance(value, str | int | float | bool | list | dict):
        return f"expected text, a number, true, false, a list or a mapping, got {value!r} (quote it)"
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return "expected text, numbers, true, false, lists and mappings in it, as in JSON (quote dates)"
    return None


def _parallel_sizes(inventory: Inventory) -> Iterator[Finding]:
    nodes = members(inventory)
    if not nodes or any(not node.is_local and "gpus" not in node.model_fields_set for node in nodes):
        return
    serve, gpus = inventory.serve, [node.gpus for node in nodes]
    if serve.tensor_parallel_size is None and len(set(gpus)) > 1:
        listed = ", ".join(f"{node.name} has {node.gpus}" for node in nodes)
        yield (
            ("serve", "tensor_parallel_size"),
            f"'auto' is the GPUs per node, and they differ ({listed}); set it, or make them equal",
        )
        return
    data = inventory.serve.args.get("data_parallel_size", inventory.serve.args.get("data-parallel-size", 1))
    data = data if isinstance(data, int) and not isinstance(data, bool) else 1
    tensor, pipeline = parallel_sizes(inventory)
    if serve.executor_backend == "mp" and len(set(gpus)) > 1:
        yield ("serve", "executor_backend"), "'mp' needs nodes with equal numbers of GPUs"
    if tensor * pipeline * data != sum(gpus):
        product = f"{tensor} × {pipeline}" + (f" × {data} (data_parallel_size)" if data != 1 else "")
        key = "tensor_parallel_size" if serve.tensor_parallel_size else "pipeline_parallel_size"
        yield (
            ("serve", key),
            f"tensor × pipeline parallel size is {product} = {tensor * pipeline * data}, "
            f"but the nodes have {sum(gpus)} GPUs",
        )


def parallel_sizes(inventory: Inventory) -> tuple[int, int]:
    """(tensor_parallel_size, pipeline_parallel_size) with `auto` resolved.

    Both auto: GPUs per node and number of nodes. One of them given: the other makes their product
    the GPUs at hand, so that `tensor_parallel_size: 16` over two nodes of eight is pipeline size 1.
    """
    nodes = members(inventory)
    serve, total = inventory.serve, sum(node.gpus for node in nodes)
    tensor, pipeline = serve.tensor_parallel_size, serve.pipeline_parallel_size
    if tensor is None:
        tensor = nodes[0].gpus if pipeline is None else max(1, total // pipeline)
    if pipeline is None:
        given = serve.tensor_parallel_size is not None
        pipeline = max(1, total // tensor) if given else len(nodes)
    return tensor, pipeline
