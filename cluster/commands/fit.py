"""`clusterctl fit`: does the model fit, and how should it be split? Contacts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster import console
from cluster.commands.fit_inputs import ModelFiles, find_files, read_files
from cluster.errors import EXIT_DONE, EXIT_NO, Complaint, InventoryError, count
from cluster.fit import FitError
from cluster.fit.choices import Choice, Fabric, Hardware, choices, choose
from cluster.fit.gpus import Gpu, find_gpu
from cluster.fit.predict import Model, read_model
from cluster.fit.report import COLUMNS, choice_json, model_json, reason, row, summary
from cluster.fit.settings import Settings, read_settings
from cluster.fit.split import Split
from cluster.inventory import Inventory, load
from cluster.inventory.spares import members
from cluster.plan import Plan, make_plan

# Rows of the table; programs get all.
SHOWN = 12
STYLES = {"yes": "green", "no": "red", "?": "yellow"}


@dataclass(frozen=True)
class Asked:
    """The options of the command line; `args` are vLLM's flags among them, where they were given."""

    config: Path | None
    index: Path | None
    gpu: str | None
    nodes: int | None
    gpus_per_node: int | None
    context: int | None
    fabric: Fabric
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What is to be answered. `own`: the inventory's sizes, which come first and decide."""

    files: ModelFiles
    settings: Settings
    hardware: Hardware
    equal: bool
    own: Split | None


def fit(inventory: Path | None, asked: Asked, as_json: bool) -> int:
    """Say what fits, best first. 0: a choice fits, with an inventory its own sizes do. Raises FitError,
    InventoryError.
    """
    question = _of_inventory(inventory, asked) if inventory else _of_options(asked)
    model = read_model(question.files.config, question.files.index_bytes, question.settings)
    found = _choices(model, question)
    if as_json:
        console.emit(_json(model, question.hardware, found))
    else:
        _print(model, question, found)
    return EXIT_DONE if found[0].prediction.fits else EXIT_NO


def _of_options(asked: Asked) -> Question:
    if asked.config is None or asked.gpu is None:
        raise FitError(
            "an INVENTORY is needed, or --config CONFIG.JSON with --gpu (H100-80G, or a size: 23.65GiB)"
        )
    gpu = find_gpu(asked.gpu)
    # Without a length of its own, the question is which one fits.
    args = {**asked.args, "max_model_len": asked.context or -1}
    return Question(
        files=read_files(asked.config, asked.index),
        settings=read_settings(args, {}, "cuda"),
        hardware=Hardware(
            asked.nodes or 1, asked.gpus_per_node or 1, gpu.memory_bytes, gpu.name, asked.fabric
        ),
        equal=True,
        own=None,
    )


def _of_inventory(file: Path, asked: Asked) -> Question:
    if asked.nodes or asked.gpus_per_node:
        raise FitError(
            "--nodes and --gpus-per-node: the inventory says them; leave them out, or the inventory"
        )
    inventory = load(file)
    plan = make_plan(inventory)
    settings = _settings(plan, asked)
    gpu = _gpu(inventory, file, asked)
    if gpu is None and inventory.runtime.device == "cuda" and settings.kv_cache_memory_bytes is None:
        raise FitError(
            f"{file}: no node says which GPU it has; write nodes[].gpu_model (H100-80G), or give --gpu"
        )
    gpus = [node.gpus for node in members(inventory)]
    memory, name = (gpu.memory_bytes, gpu.name) if gpu else (None, "")
    return Question(
        files=(read_files(asked.config, asked.index) if asked.config else find_files(inventory, asked.index)),
        settings=settings,
        hardware=Hardware(len(gpus), min(gpus), memory, name, asked.fabric),
        equal=len(set(gpus)) == 1,
        own=Split(
            plan.tensor_parallel_size,
            plan.pipeline_parallel_size,
            settings.data_parallel_size,
            settings.enable_expert_parallel,
            settings.layers_per_stage,
        ),
    )


def _settings(plan: Plan, asked: Asked) -> Settings:
    """What the inventory says, unless the command line says something else."""
    args = {key.replace("-", "_"): value for key, value in plan.serve.args.items()} | dict(asked.args)
    if asked.context:
        args["max_model_len"] = asked.context
    return read_settings(args, dict(plan.head.env), plan.runtime.device)


def _gpu(inventory: Inventory, file: Path, asked: Asked) -> Gpu | None:
    """The GPU with the least memory: every stage and rank has to fit."""
    if asked.gpu:
        return find_gpu(asked.gpu)
    found, complaints = [], []
    for index, node in enumerate(inventory.nodes):
        if node.gpu_model is None:
            continue
        try:
            found.append(find_gpu(node.gpu_model))
        except FitError as error:
            complaints.append(Complaint(None, f"nodes[{index}].gpu_model", str(error)))
    if complaints:
        raise InventoryError(str(file), complaints)
    return min(found, key=lambda gpu: gpu.memory_bytes, default=None)


def _choices(model: Model, question: Question) -> tuple[Choice, ...]:
    hardware, settings = question.hardware, question.settings
    others = choices(model, settings, hardware) if question.equal else ()
    if question.own is None:
        return others
    own = choose(model, question.own, settings, hardware)
    sizes = [replace(choice.split, layers_per_stage=None) for choice in (own, *others)]
    return (own, *(choice for choice, split in zip(others, sizes[1:], strict=True) if split != sizes[0]))


def _json(model: Model, hardware: Hardware, found: tuple[Choice, ...]) -> dict[str, Any]:
    return {
        **model_json(model),
        "fits": found[0].prediction.fits,
        "nodes": hardware.nodes,
        "gpus_per_node": hardware.gpus_per_node,
        "gpu": hardware.gpu or None,
        "gpu_memory_bytes": hardware.memory_bytes,
        "choices": [choice_json(choice) for choice in found],
    }


def _print(model: Model, question: Question, found: tuple[Choice, ...]) -> None:
    hardware = question.hardware
    memory = f" of {hardware.memory_bytes / 2**30:,.2f} GiB" if hardware.memory_bytes else ""
    console.say(summary(model))
    nodes = count(hardware.nodes, "node")
    console.say(
        f"{nodes} with {count(hardware.gpus_per_node, 'GPU')} each, {hardware.gpu or 'CPU'}{memory}\n"
    )
    marked = question.own is not None or found[0].prediction.fits
    rows = [row(choice, bool(marked) and number == 0) for number, choice in enumerate(found[:SHOWN])]
    console.table(COLUMNS, rows, STYLES)
    console.say("")
    for choice in found[:SHOWN]:
        if choice.why:
            console.say(reason(choice))
    if len(found) > SHOWN:
        console.say(f"and {len(found) - SHOWN} more with --json")
