"""The model's folder on one node: there, and whole."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.errors import Problem
from cluster.facts import Facts
from cluster.facts.model_files import ModelFiles
from cluster.plan import Member, Plan

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = ("1", "ON", "YES", "TRUE")  # huggingface_hub/constants.py


def there(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    model = facts.model
    if model is None:
        return
    node, source = member.name, plan.model.source
    if model.there and model.config is None and not _without_config(model):
        found = f"{model.path} has no config.json that can be read"
        yield Problem("model-path-missing", node, found, "a model's folder", _copy(member, model))
    elif model.there and not (model.weight_bytes or model.shards) and not _dummy(plan):
        found = f"{model.path} has no weights: no *.safetensors, *.bin, *.pt or *.gguf in it"
        yield Problem("model-path-missing", node, found, "a model's weights", _copy(member, model))
    if model.there:
        return
    if not model.cached:
        yield Problem(
            "model-path-missing",
            node,
            f"there is no {model.path} where vLLM runs",
            "the model's folder on every node",
            f"{_copy(member, model)}; and runtime.mounts has to show it to the container",
        )
    elif any(dict(member.env).get(name, "").upper() in TRUE for name in OFFLINE):
        yield Problem(
            "model-path-missing",
            node,
            f"{source} is not in the Hugging Face cache, and {OFFLINE[0]} forbids to fetch it",
            "the model in the cache that the container sees",
            f"Run `hf download {source}` on {node}, and mount the cache: runtime.mounts",
        )


def _without_config(model: ModelFiles) -> bool:
    """Mistral's own format, or one file of GGUF."""
    return any(file.name == "params.json" or file.name.endswith(".gguf") for file in model.files)


def _dummy(plan: Plan) -> bool:
    """Weights of chance, for measurements: no file of them is read."""
    return plan.serve_arg("load_format") == "dummy"


def whole(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    model = facts.model
    if model is None or not model.there or _dummy(plan):
        return
    names = {file.name for file in model.files}
    missing = [shard for shard in model.shards if shard not in names]
    if missing:
        found = f"{_some(missing)} of {len(model.shards)} shards are missing in {model.path}"
        yield Problem("hf-cache-partial", member.name, found, "all of the index", _copy(member, model))
    for file in model.files:
        if file.broken and (file.size is None or file.name.endswith(".safetensors")):
            found = f"{file.name} {file.broken}"
            yield Problem("hf-cache-partial", member.name, found, "a whole file", _copy(member, model))
    if model.incomplete and not missing:
        yield Problem(
            "hf-cache-partial",
            member.name,
            f"{len(model.incomplete)} downloads into the cache have not ended",
            "none",
            f"Wait for them, or run `hf download {plan.model.source}` on {member.name}",
            "warning",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _copy(member: Member, model: ModelFiles) -> str:
    if model.cached:
        return f"Run `hf download` again on {member.name}: it fetches what is missing"
    return f"Copy it from a node that has it: `rsync -a --checksum {model.path}/ {member.name}:{model.path}/`"
