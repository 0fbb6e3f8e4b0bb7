"""Can these facts carry this plan? Pure: (Plan, facts) -> problems, each with the command that mends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from cluster.errors import Problem
from cluster.facts import Facts
from cluster.plan import Member, Plan


def preflight(plan: Plan, facts: Mapping[str, Facts]) -> tuple[Problem, ...]:
    """All problems of all nodes, in order of node rank."""
    return (
        *(
            Problem(member.name, what, remedy)
            for member in plan.members
            for check in CHECKS
            for what, remedy in check(plan, member, facts[member.name])
        ),
        *_differences(plan, facts),
    )


Finding = tuple[str, str]
Check = Callable[[Plan, Member, Facts], Iterator[Finding]]


def _engine(plan: Plan, member: Member, facts: Facts) -> Iterator[Finding]:
    engine = plan.runtime.engine
    if engine == "process" or (facts.engine_version is not None and not facts.engine_error):
        return
    if "permission denied" in facts.engine_error.lower():
        yield (
            f"{engine}: {facts.engine_error}",
            f"Run `sudo usermod -aG {engine} $USER` on {member.name} and log in again",
        )
    elif "not found" in facts.engine_error or "failed to run command" in facts.engine_error:
        yield f"{engine} is not installed", f"Install {engine} on {member.name}, or set runtime.engine"
    else:
        yield (
            f"{engine} does not answer: {facts.engine_error}",
            f"Run `systemctl start {engine}` on {member.name}",
        )


def _image(plan: Plan, member: Member, facts: Facts) -> Iterator[Finding]:
    runtime = plan.runtime
    if runtime.engine == "process" or facts.engine_version is None or facts.image_id is not None:
        return
    if runtime.pull == "never":
        yield (
            f"the image {runtime.image} is not there, and runtime.pull is never",
            f"Run `{runtime.engine} pull {runtime.image}` on {member.name}, or `{runtime.engine} load` it",
        )


def _ray_in_python(plan: Plan, _: Member, facts: Facts) -> Iterator[Finding]:
    """The official vLLM image has had no ray since 0.18."""
    process = plan.runtime.engine == "process"
    if facts.image_id is None and not process:
        return
    place = (
        f"the environment {plan.runtime.venv or 'of python3'}"
        if process
        else f"the image {plan.runtime.image}"
    )
    if facts.versions is None:
        if facts.versions_error:
            yield (
                f"{place} has no usable python3: {facts.versions_error}",
                "Use an image with Python, vLLM and Ray",
            )
        return
    if plan.uses_ray and facts.versions.ray is None:
        yield f"{place} has no ray", _how_to_get_ray(plan)
    if facts.versions.vllm is None:
        yield f"{place} has no vllm", "Use an environment with vLLM in it"


def _how_to_get_ray(plan: Plan) -> str:
    if plan.runtime.engine == "process":
        return 'Run `pip install "ray[default]"` in it'
    return (
        f"Build one with it: printf 'FROM {plan.runtime.image}\\nRUN pip install \"ray[default]\"\\n' "
        f"| {plan.runtime.engine} build -t vllm-ray - ; or set serve.executor_backend: mp"
    )


def _interface(_: Plan, member: Member, facts: Facts) -> Iterator[Finding]:
    if member.node.is_local or not facts.interfaces:
        return
    carrying = [name for name, addresses in facts.interfaces.items() if member.address in addresses]
    if member.interface is None and not carrying:
        has = ", ".join(f"{name} {' '.join(addresses)}" for name, addresses in facts.interfaces.items())
        yield (
            f"no interface carries the address {member.address}; it has {has}",
            "Put the address that the other nodes reach into the inventory; a name for SSH alone is ssh.host",
        )
    if member.interface is not None and member.interface not in facts.interfaces:
        known = ", ".join(facts.interfaces)
        yield (
            f"no interface {member.interface} with an IPv4 address; there are {known}",
            "Correct the interface",
        )


def _gpus(plan: Plan, member: Member, facts: Facts) -> Iterator[Finding]:
    if plan.runtime.device == "cuda" and len(facts.gpus) < member.node.gpus:
        yield (
            f"nvidia-smi shows {len(facts.gpus)} GPUs, the inventory says {member.node.gpus}",
            f"Run `nvidia-smi -L` on {member.name}, or correct nodes[].gpus (runtime.device: cpu needs none)",
        )


def _hcas(_: Plan, member: Member, facts: Facts) -> Iterator[Finding]:
    if isinstance(member.hcas, str):
        return
    for name in member.hcas:
        if name.split(":")[0] not in facts.hcas:
            there = ", ".join(facts.hcas) or "none"
            yield f"no HCA {name}; there are: {there}", f"Run `ls /sys/class/infiniband` on {member.name}"


def _ports(plan: Plan, member: Member, facts: Facts) -> Iterator[Finding]:
    wanted = []
    if plan.uses_ray and member.role == "head":
        wanted.append(("ray", plan.ray.port, "ray.port"))
    if member.role == "head":
        wanted.append(("serve", plan.serve.port, "serve.port"))
    for role, port, key in wanted:
        ours = facts.container(role)
        if port in facts.listening and not (ours and ours.running and ours.port in ("", str(port))):
            yield (
                f"port {port} ({key}) is taken by another program",
                f"`ss -ltnp 'sport = :{port}'` on {member.name} says which; stop it, or set {key}",
            )


def _strangers(plan: Plan, member: Member, facts: Facts) -> Iterator[Finding]:
    """vLLM would place ranks on any node of the Ray cluster that it joins."""
    ours = {other.address for other in plan.members}
    for node in (facts.ray_nodes or ()) if member.role == "head" else ():
        if node.alive and node.address not in ours:
            yield (
                f"{node.name} ({node.address}) is in this Ray cluster, but not in the inventory",
                "Put it back into the inventory; or run `clusterctl down` with it there, and then without it",
            )


CHECKS: tuple[Check, ...] = (_engine, _image, _ray_in_python, _interface, _gpus, _hcas, _ports, _strangers)


def _differences(plan: Plan, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """Ray refuses a node whose Ray or Python (to the patch level) is not the head's."""
    for what in ("ray", "python", "vllm"):
        found = {
            name: version
            for name, fact in facts.items()
            if fact.versions is not None and (version := getattr(fact.versions, what)) is not None
        }
        if len(set(found.values())) < 2:
            continue
        usual = Counter(found.values()).most_common(1)[0][0]
        for name, version in found.items():
            if version != usual:
                yield Problem(
                    name,
                    f"{what} is {version}, on the other nodes {usual}",
                    f"Use one image everywhere: compare `{plan.runtime.engine} image inspect`"
                    if plan.runtime.engine != "process"
                    else "Install the same versions in every environment",
                )
