"""`clusterctl fit`: options in, one call out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from cluster.cli_options import JSON

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("inventory", type=FILE, required=False)
@click.option("--config", type=FILE, metavar="CONFIG.JSON", help="The model's config.json, or its folder.")
@click.option("--index", type=FILE, help="Its model.safetensors.index.json; by default the one beside it.")
@click.option(
    "--gpu", metavar="NAME", help="H100-80G, NVIDIA H200, ... or memory as CUDA reports it: 23.65GiB."
)
@click.option("--nodes", type=click.IntRange(1, 4096), help="How many nodes, without an inventory; 1.")
@click.option("--gpus-per-node", type=click.IntRange(1, 64), help="GPUs of each, without an inventory; 1.")
@click.option(
    "--context", type=click.IntRange(1), metavar="TOKENS", help="The longest request, max_model_len."
)
@click.option(
    "--fabric", type=click.Choice(["infiniband", "roce", "ethernet"]), help="What connects the nodes."
)
@click.option("--gpu-memory-utilization", type=click.FloatRange(0, 1, min_open=True), help="vLLM's; 0.92.")
@click.option("--kv-cache-dtype", metavar="DTYPE", help="vLLM's: auto, fp8, ...")
@click.option("--quantization", metavar="METHOD", help="vLLM's, for weights quantised on loading: fp8, ...")
@click.option("--dtype", metavar="DTYPE", help="vLLM's: auto, bfloat16, float16, float32.")
@click.option("--enable-expert-parallel", is_flag=True, help="vLLM's: whole experts on each GPU.")
@JSON
def fit(
    inventory: Path | None,
    config: Path | None,
    index: Path | None,
    gpu: str | None,
    nodes: int | None,
    gpus_per_node: int | None,
    context: int | None,
    fabric: Literal["infiniband", "roce", "ethernet"] | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Say whether the model fits, and how to split it.

    Contacts nothing: sizes come from config.json, memory from the GPU's name. Exit code 0 if a split fits,
    with an inventory if its own sizes do.
    """
    from cluster.commands.fit import Asked, fit

    args = {name: value for name, value in flags.items() if value}
    asked = Asked(config, index, gpu, nodes, gpus_per_node, context, fabric or "unknown", args)
    return fit(inventory, asked, as_json)
