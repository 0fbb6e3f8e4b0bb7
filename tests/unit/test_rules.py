"""Parallel sizes from the GPUs at hand, and what one key demands of another."""

from __future__ import annotations

from typing import Any

import pytest
from samples import GOOD, PROCESS, inventory

from cluster.errors import InventoryError
from cluster.inventory.rules import parallel_sizes

EIGHTS = {"nodes.0.gpus": 8, "nodes.1.gpus": 8}


@pytest.mark.parametrize(
    ("sizes", "tensor", "pipeline"),
    [
        ({}, 8, 2),
        ({"tensor_parallel_size": "auto", "pipeline_parallel_size": "auto"}, 8, 2),
        ({"tensor_parallel_size": 16}, 16, 1),
        ({"tensor_parallel_size": 4}, 4, 4),
        ({"tensor_parallel_size": 1}, 1, 16),
        ({"pipeline_parallel_size": 1}, 16, 1),
        ({"pipeline_parallel_size": 4}, 4, 4),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 8}, 2, 8),
        ({"tensor_parallel_size": 8, "pipeline_parallel_size": 1, "args.data_parallel_size": 2}, 8, 1),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "args.data-parallel-size": 2}, 4, 2),
    ],
    ids=str,
)
def test_parallel_sizes_over_two_nodes_of_eight(sizes: dict[str, Any], tensor: int, pipeline: int) -> None:
    changed = inventory(EIGHTS | {f"serve.{key}": value for key, value in sizes.items()})
    assert parallel_sizes(changed) == (tensor, pipeline)


def test_unequal_nodes_work_where_the_tensor_parallel_size_is_given() -> None:
    assert parallel_sizes(inventory({"nodes.0.gpus": 4, "serve.tensor_parallel_size": 2})) == (2, 3)


def what_is_wrong(changes: dict[str, Any], base: str = GOOD) -> str:
    with pytest.raises(InventoryError) as caught:
        inventory(changes, base)
    (complaint,) = caught.value.complaints
    return f"{complaint.key_path}: {complaint.what}"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            EIGHTS
            | {
                "serve.tensor_parallel_size": 8,
                "serve.pipeline_parallel_size": 2,
                "serve.args.data_parallel_size": 2,
            },
            "serve.tensor_parallel_size: tensor × pipeline parallel size is "
            "8 × 2 × 2 (data_parallel_size) = 32, but the nodes have 16 GPUs",
        ),
        (
            EIGHTS | {"serve.tensor_parallel_size": 3},
            "serve.tensor_parallel_size: tensor × pipeline parallel size is 3 × 5 = 15, "
            "but the nodes have 16 GPUs",
        ),
        (
            EIGHTS | {"serve.tensor_parallel_size": 32},
            "serve.tensor_parallel_size: tensor × pipeline parallel size is 32 × 1 = 32, "
            "but the nodes have 16 GPUs",
        ),
        (
            {"runtime.device": "cpu", "serve.executor_backend": "mp"},
            "serve.executor_backend: over several nodes the CPU works with 'ray' alone",
        ),
        ({"runtime.venv": "/opt/venv"}, "runtime.venv: only the engine 'process' uses it"),
        (
            {"model.source": "~/models/llama"},
            "model.source: expected an absolute path, got '~/models/llama': it is looked up on the nodes",
        ),
        (
            {"network.nccl_env": {"UCX_TLS": "rc"}},
            "network.nccl_env.UCX_TLS: expected a variable that starts with NCCL_; others go into env",
        ),
        (
            {"nodes.1.env": {"VLLM_HOST_IP": "10.0.0.9"}},
            "nodes[1].env.VLLM_HOST_IP: clusterctl sets it itself: it is the node's address",
        ),
        (
            {"env": {"RAY_ADDRESS": "10.0.0.9:1"}},
            "env.RAY_ADDRESS: clusterctl sets it itself: it is the head's address and ray.port",
        ),
        (
            {"serve.executor_backend": "mp", "nodes.0.gpus": 4, "serve.tensor_parallel_size": 2},
            "serve.executor_backend: 'mp' needs nodes with equal numbers of GPUs",
        ),
        ({"secrets": {"A": {}}}, "secrets.A: expected either {env: NAME} or {file: PATH}"),
        (
            {"secrets": {"A": {"env": "A", "file": "/a"}}},
            "secrets.A: expected either {env: NAME} or {file: PATH}",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_that_do_not_go_together(changes: dict[str, Any], what: str) -> None:
    assert what_is_wrong(changes) == what


@pytest.mark.parametrize(
    "argument",
    [
        *("-e", "-eA=b", "-e=A=b", "--env", "--env=A=b", "--env-file", "--env-file=/x"),
        *("-l", "-lclusterctl.role=x", "--label", "--label=clusterctl.role=x", "--label-file"),
    ],
)
def test_options_of_the_engine_that_are_clusterctls_own(argument: str) -> None:
    assert what_is_wrong({"runtime.extra_args": ["--pids-limit=-1", argument]}) == (
        "runtime.extra_args[1]: use env or secrets; labels are clusterctl's own"
    )


def test_other_options_of_the_engine_go_through() -> None:
    words = ("--entitlements=x", "--log-opt", "max-size=1g", "--pids-limit=-1", "--ulimit", "core=0")
    assert inventory({"runtime.extra_args": list(words)}).runtime.extra_args == words


def test_processes_see_the_whole_machine_and_no_mounts() -> None:
    assert what_is_wrong({"nodes.0.mounts": ["/a:/b"]}, PROCESS) == (
        "nodes[0].mounts: the engine 'process' has no containers; leave this out"
    )


def test_a_local_inventory_may_use_paths_of_this_machine() -> None:
    assert inventory({"model.source": "~/models/x"}, PROCESS).model.source == "~/models/x"


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "SECRET"),
        *("DB_PASSWD", "GOOGLE_CREDENTIALS", "hf_token", "Db_Password", "credentials"),
    ],
)
def test_names_that_are_secrets(name: str) -> None:
    assert what_is_wrong({"env": {name: "x"}}).startswith(f"env.{name}: a secret is not written down")


@pytest.mark.parametrize("name", ["VLLM_MAX_TOKENS", "TOKENIZERS_PARALLELISM", "NCCL_DEBUG"])
def test_names_that_are_not(name: str) -> None:
    assert inventory({"env": {name: "x"}}).env == {name: "x"}
