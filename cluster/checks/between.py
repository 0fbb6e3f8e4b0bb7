"""What differs between nodes, and must not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import median_high, median_low

from cluster.errors import Problem, Severity
from cluster.facts import Facts
from cluster.facts.model_files import ModelFile
from cluster.facts.system import MOST_SKEW
from cluster.plan import Plan

# Seconds; beyond them certificates and tokens fail.
FATAL_SKEW = 60.0
MOST_FILES_NAMED = 5
# What vLLM reads; a README may differ, and other forms of the weights beside safetensors.
COMPARED = (".safetensors", ".gguf", ".json", ".jinja", ".model", ".tiktoken", ".py")
OTHER_WEIGHTS = (".bin", ".pt")

FactsByNode = Mapping[str, Facts]
Values = Mapping[str, str | None]


def _odd_ones(values: Values) -> Iterator[tuple[str, str, str]]:
    """(node, its value, the usual value) for every node that differs; the first node's wins a tie."""
    found = {name: value for name, value in values.items() if value is not None}
    if len(set(found.values())) > 1:
        usual = Counter(found.values()).most_common(1)[0][0]
        yield from ((name, value, usual) for name, value in found.items() if value != usual)


def differ(
    values: Values, id_: str, what: str, remedy: str, severity: Severity = "error"
) -> Iterator[Problem]:
    """A problem for every node whose value is not that of most nodes; unknown ones (None) do not count."""
    for name, value, usual in _odd_ones(values):
        yield Problem(id_, name, f"{what} {value}", f"{usual}, as on the other nodes", remedy, severity)


def hostnames(_: Plan, facts: FactsByNode) -> Iterator[Problem]:
    """NCCL takes two nodes of one name for one, and tries shared memory between them (NVIDIA/nccl#375)."""
    names = {name: fact.system.hostname for name, fact in facts.items() if fact.system is not None}
    first: dict[str, str] = {}
    for name, hostname in names.items():
        if hostname and hostname in first:
            yield Problem(
                "duplicate-hostname",
                name,
                f"its hostname is {hostname}, as that of {first[hostname]}",
                "a name of its own",
                f"Run `sudo hostnamectl set-hostname {name}` on {name}",
            )
        first.setdefault(hostname, name)


def clocks(_: Plan, facts: FactsByNode) -> Iterator[Problem]:
    """Nodes are compared with the one in the middle; of two, with the one nearer to the operator's clock."""
    offsets = {name: fact.clock_offset for name, fact in facts.items() if fact.clock_offset is not None}
    if len(offsets) < 2:
        return
    usual = min(median_low(offsets.values()), median_high(offsets.values()), key=abs)
    for name, offset in offsets.items():
        skew = abs(offset - usual) - facts[name].clock_uncertainty
        if skew > MOST_SKEW:
            yield Problem(
                "clock-skew",
                name,
                f"its clock is {abs(offset - usual):.1f} s {'ahead' if offset > usual else 'behind'}",
                f"within {MOST_SKEW:g} s of the other nodes",
                f"Run `sudo timedatectl set-ntp true` on {name}, or `chronyc makestep`",
                "error" if skew > FATAL_SKEW else "warning",
            )


def versions(plan: Plan, facts: FactsByNode) -> Iterator[Problem]:
    """Ray refuses a node whose Ray or Python (to the patch level) is not the head's."""
    remedy = (
        "Install the same versions in every environment"
        if plan.runtime.engine == "process"
        else f"Use one image everywhere: compare `{plan.runtime.engine} image inspect`"
    )
    pulled: Severity = "warning" if plan.runtime.pull == "always" else "error"
    of_ray: Severity = pulled if plan.uses_ray else "warning"
    for what, id_, severity in (
        ("ray", "ray-version-mismatch", of_ray),
        ("python", "ray-version-mismatch" if plan.uses_ray else "python-version-mismatch", of_ray),
        ("vllm", "vllm-version-mismatch", pulled),
    ):
        found = {n: getattr(f.versions, what) for n, f in facts.items() if f.versions is not None}
        yield from differ(found, id_, f"{what} is", remedy, severity)


def images(plan: Plan, facts: FactsByNode) -> Iterator[Problem]:
    """By content: the same image that was built or imported on each node has an id of its own there."""
    engine, image = plan.runtime.engine, plan.runtime.image
    contents = {name: fact.image_content or fact.image_id for name, fact in facts.items()}
    ids = {content: (facts[name].image_id or "")[:19] for name, content in contents.items()}
    remedy = f"Run `{engine} pull {image}` on every node, or name the image by its digest (image@sha256:...)"
    for name, content, usual in _odd_ones(contents):
        expected = f"{ids[usual]}, as on the other nodes"
        severity: Severity = "warning" if plan.runtime.pull == "always" else "error"
        yield Problem("image-drift", name, f"{image} is {ids[content]}", expected, remedy, severity)


def gpus(_: Plan, facts: FactsByNode) -> Iterator[Problem]:
    found = {n: " and ".join(sorted({gpu.name for gpu in f.gpus})) or None for n, f in facts.items()}
    remedy = "The slowest and smallest decides for all: use nodes of one kind"
    yield from differ(found, "gpu-model-differs", "GPUs are", remedy, "warning")


def drivers(_: Plan, facts: FactsByNode) -> Iterator[Problem]:
    found = {name: fact.gpus[0].driver if fact.gpus else None for name, fact in facts.items()}
    remedy = "Install one version on all nodes"
    yield from differ(found, "driver-differs", "the NVIDIA driver is", remedy, "warning")


def mtus(plan: Plan, facts: FactsByNode) -> Iterator[Problem]:
    found = {m.name: _mtu(m.address, facts[m.name]) for m in plan.members if m.name in facts}
    remedy = "Set one MTU on all nodes and the switch: `ip link set dev INTERFACE mtu 9000`"
    yield from differ(found, "mtu-mismatch", "the MTU of its interface is", remedy, "warning")


def _mtu(address: str, facts: Facts) -> str | None:
    carrying = (one for one in facts.interfaces.values() if address in one.addresses and one.mtu)
    return next((str(one.mtu) for one in carrying), None)


def models(plan: Plan, facts: FactsByNode) -> Iterator[Problem]:
    """Every file that vLLM reads against the one that most nodes have; a shard is named."""
    found = {name: files for name, fact in facts.items() if (files := _read_by_vllm(fact)) is not None}
    names = sorted({file for files in found.values() for file in files})
    remedy = f"Copy {plan.model.source} again from a node that has it right: `rsync -a --checksum`"
    for name in found:
        odd = [text for file in names if (text := _why_odd(file, name, found)) is not None]
        if len(odd) > MOST_FILES_NAMED:
            odd[MOST_FILES_NAMED:] = [f"{len(odd) - MOST_FILES_NAMED} more files differ"]
        for text in odd:
            yield Problem("hf-cache-partial", name, text, "the same files on all nodes", remedy)


def _read_by_vllm(facts: Facts) -> Mapping[str, ModelFile] | None:
    """{name: file}; with an index its shards alone are weights. None: no model that could be compared."""
    model = facts.model
    if model is None or model.config is None:
        return None
    safetensors = any(file.name.endswith(".safetensors") for file in model.files)
    kinds = COMPARED if safetensors else (*COMPARED, *OTHER_WEIGHTS)
    return {
        file.name: file
        for file in model.files
        if file.name.endswith(kinds)
        and not (model.shards and file.name.endswith(".safetensors") and file.name not in model.shards)
    }


def _why_odd(file: str, node: str, found: Mapping[str, Mapping[str, ModelFile]]) -> str | None:
    """What is different about a node's copy of a file; None: nothing, or it is the others that differ."""
    copies = {name: files[file] for name, files in found.items() if file in files}
    usual = Counter(copies.values()).most_common(1)[0][0]
    mine = copies.get(node)
    if mine is None:
        return f"{file} is missing" if len(copies) * 2 >= len(found) else None
    if mine.size != usual.size:
        return f"{file} has {mine.size} bytes, elsewhere {usual.size}"
    if not _comparable(mine, usual) or mine.digest == usual.digest:
        return None
    (way, digest), (_, other) = _way_and_digest(mine), _way_and_digest(usual)
    return f"{file} has other contents ({way} {digest[:12]}, elsewhere {other[:12]})"


def _comparable(one: ModelFile, other: ModelFile) -> bool:
    """Whether both were hashed, and in the same way: `sha256:` of all, or `blocks:` of parts."""
    way, _ = _way_and_digest(one)
    return bool(way) and way == _way_and_digest(other)[0]


def _way_and_digest(file: ModelFile) -> tuple[str, str]:
    way, _, digest = (file.digest or "").partition(":")
    return way, digest
