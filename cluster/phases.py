"""The order of a deployment, and of taking it down: one literal list each. Pure."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.argv import docker
from cluster.facts import Container, Facts, RayNode
from cluster.facts.service import parse_ray_nodes
from cluster.inventory.secrets import Secrets
from cluster.join import why_not_joined, why_not_ready
from cluster.plan import Member, Plan
from cluster.render import digests, node_files, secrets_file
from cluster.steps import Argv, Phase, Put, Result, Run, Wait

START_TIMEOUT = 120.0
PULL_TIMEOUT = 3600.0
LAST_LINES = "400"
SECRETS = "secrets.env"
READY_POLL = 3.0  # asking Ray each time costs 0.6 s of a core on the head


def up(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets = ()) -> tuple[Phase, ...]:
    """What has to be done, in order, so that the model answers; what is already so is left out."""
    now = _standing(plan, facts, secrets)
    phases = (
        Phase("Get the image", _get_image(plan, facts)),
        Phase("Remove what is outdated", _remove(plan, now.outdated)),
        Phase("Write start scripts", _write(plan, facts, secrets)),
        Phase("Start Ray head", _start_ray_head(plan, now)),
        Phase("Start Ray workers", _start_ray_workers(plan, now)),
        Phase("Wait for every node and GPU to join", _join(plan, now)),
        Phase("Start vLLM", _start_vllm(plan, now)),
        Phase("Wait for a completion", _ready(plan, now)),
    )
    return tuple(phase for phase in phases if phase.steps)


def down(plan: Plan, facts: Mapping[str, Facts]) -> tuple[Phase, ...]:
    """Everything of this cluster gone from the nodes that answered, and nothing else."""
    if plan.runtime.engine == "process":
        return _down_processes(plan, facts)
    serve = {name: _with_role(fact, "serve") for name, fact in facts.items()}
    others = {name: _with_role(fact, "ray", "probe") for name, fact in facts.items()}
    phases = (
        Phase("Stop vLLM", _remove(plan, serve)),
        Phase("Stop Ray", _remove(plan, others)),
        Phase("Remove files", _remove_files(plan, facts)),
    )
    return tuple(phase for phase in phases if phase.steps)


# --- what is already so ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """What stands and may stay: names of nodes. `outdated` containers have to go first."""

    ray: frozenset[str]
    serving: frozenset[str]
    answered: bool
    outdated: Mapping[str, tuple[Container, ...]]


def _standing(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets) -> Standing:
    ray = frozenset(_ray_that_stands(plan, facts, secrets)) if plan.uses_ray else frozenset()
    ray_complete = not plan.uses_ray or len(ray) == len(plan.members)
    serving = frozenset(_vllm_that_stands(plan, facts, secrets)) if ray_complete else frozenset()
    if len(serving) < len(plan.servers):
        serving = frozenset()  # the ranks of one server live and die together
    answer = facts[plan.head.name].answer
    return Standing(
        ray=ray,
        serving=serving,
        answered=bool(serving) and answer is not None and answer.text is not None,
        outdated={
            name: tuple(
                container
                for container in fact.containers
                if (container.role == "ray" and name not in ray)
                or (container.role == "serve" and name not in serving)
            )
            for name, fact in facts.items()
        },
    )


def _ray_that_stands(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets) -> Iterable[str]:
    """Workers stand only under a head that stands; each by its digest and by being alive in Ray."""
    alive = facts[plan.head.name].ray_nodes
    for member in plan.members:
        stands = _runs(facts[member.name], "ray", digests(plan, member).ray, secrets)
        if stands and alive is not None and why_not_joined(plan, member, alive) is None:
            yield member.name
        elif member.role == "head":
            return


def _vllm_that_stands(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets) -> Iterable[str]:
    for member in plan.servers:
        if _runs(facts[member.name], "serve", digests(plan, member).serve, secrets):
            yield member.name


def _runs(facts: Facts, role: str, digest: str, secrets: Secrets) -> bool:
    """Whether a container runs as this inventory would start it today."""
    container = facts.container(role)
    if container is None or not container.running or container.digest != digest:
        return False
    rebuilt = facts.image_id is not None and container.image not in ("", facts.image_id)
    return not rebuilt and _same_secrets(facts, secrets)


def _same_secrets(facts: Facts, secrets: Secrets) -> bool:
    if not facts.files:
        return True  # another operator started it, from a home folder of their own
    return facts.files.get(SECRETS) == (_sha256(secrets_file(secrets)) if secrets else None)


# --- the steps of each phase ------------------------------------------------------------------------


def _write(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets) -> tuple[Put | Run, ...]:
    """Files that are not there yet, or differ."""
    steps: list[Put | Run] = []
    for member in plan.members:
        wanted = [(file.path, file.content, file.mode) for file in node_files(plan, member)]
        there = facts[member.name].files
        if secrets:
            wanted.append((SECRETS, secrets_file(secrets), 0o600))
        elif SECRETS in there:
            steps.append(Run(member.name, ("rm", "-f", f"{member.folder}/{SECRETS}")))
        steps += [
            Put(member.name, f"{member.folder}/{path}", content, mode)
            for path, content, mode in wanted
            if there.get(path) != _sha256(content)
        ]
    return tuple(steps)


def _get_image(plan: Plan, facts: Mapping[str, Facts]) -> tuple[Run, ...]:
    runtime, steps = plan.runtime, []
    for member in plan.members:
        absent = facts[member.name].image_id is None
        if runtime.image is None or not (runtime.pull == "always" or (runtime.pull == "missing" and absent)):
            continue
        if facts[member.name].containers and not absent:
            continue
        steps.append(Run(member.name, docker.pull(runtime.engine, runtime.image), PULL_TIMEOUT))
        if plan.uses_ray:
            steps.append(Run(member.name, docker.probe(plan, member, "import ray, vllm"), START_TIMEOUT))
    return tuple(steps)


def _start_ray_head(plan: Plan, now: Standing) -> tuple[Run | Wait, ...]:
    if not plan.uses_ray or plan.head.name in now.ray:
        return ()
    return (_start(plan.head, "ray"), _wait_joined(plan, plan.head))


def _start_ray_workers(plan: Plan, now: Standing) -> tuple[Run, ...]:
    if not plan.uses_ray:
        return ()
    return tuple(_start(member, "ray") for member in plan.workers if member.name not in now.ray)


def _join(plan: Plan, now: Standing) -> tuple[Wait, ...]:
    """Each worker waits for itself, so that one that dies or is cut off is named at once."""
    if not plan.uses_ray:
        return ()
    return tuple(_wait_joined(plan, member) for member in plan.workers if member.name not in now.ray)


def _start_vllm(plan: Plan, now: Standing) -> tuple[Run, ...]:
    return tuple(_start(member, "serve") for member in plan.servers if member.name not in now.serving)


def _ready(plan: Plan, now: Standing) -> tuple[Wait, ...]:
    if now.answered:
        return ()
    return (
        Wait(
            plan.head.name,
            script(plan.head, "ready"),
            pending=why_not_ready,
            failed=lambda result: _in_vain(plan, result),
            timeout=plan.serve.ready_timeout,
            longest_poll=READY_POLL,
            evidence=script(plan.head, "logs", "serve", "--tail", LAST_LINES),
        ),
    )


def _wait_joined(plan: Plan, member: Member) -> Wait:
    def pending(result: Result) -> str | None:
        answer = _listed(result)
        return answer if isinstance(answer, str) else why_not_joined(plan, member, answer)

    return Wait(
        member.name,
        script(member, "nodes"),
        pending=pending,
        failed=_dead,
        timeout=plan.ray.join_timeout,
        evidence=script(member, "logs", "ray", "--tail", LAST_LINES),
    )


def _listed(result: Result) -> tuple[RayNode, ...] | str:
    """The nodes that ray_nodes.py listed, or why it could not."""
    parsed = parse_ray_nodes(result)
    return parsed["ray_nodes"] if "ray_nodes" in parsed else str(parsed["ray_error"])


def _dead(result: Result) -> str | None:
    """run_cluster.sh ends with 3 where the container that has to answer is not running."""
    return result.reason if result.exit_code == 3 else None


def _in_vain(plan: Plan, result: Result) -> str | None:
    """Why the model will not answer: a server that is gone, or a node that left Ray after it had joined."""
    dead = _dead(result)
    nodes = parse_ray_nodes(result).get("ray_nodes", ())
    gone = [why for member in plan.members if nodes and (why := why_not_joined(plan, member, nodes))]
    return "; ".join([*([dead] if dead else []), *gone]) or None


def _start(member: Member, role: str) -> Run:
    return Run(
        member.name,
        script(member, role),
        START_TIMEOUT,
        evidence=script(member, "logs", role, "--tail", LAST_LINES),
        starts="Ray" if role == "ray" else "vLLM",
    )


def script(member: Member, *words: str) -> Argv:
    """The node's own run_cluster.sh: the one way in which anything is started or asked."""
    return ("sh", f"{member.folder}/run_cluster.sh", *words)


# --- taking down ----------------------------------------------------------------------------------


def _with_role(facts: Facts, *roles: str) -> tuple[Container, ...]:
    return tuple(container for container in facts.containers if container.role in roles)


def _remove(plan: Plan, containers: Mapping[str, tuple[Container, ...]]) -> tuple[Run, ...]:
    """Stop and remove containers by id, the server before Ray."""
    steps = []
    for name, found in containers.items():
        ordered = sorted(found, key=lambda container: container.role != "serve")
        for container in ordered:
            if plan.runtime.engine == "process":
                steps.append(Run(name, script(plan.member(name), "down", container.name)))
                continue
            if container.running:
                steps.append(Run(name, docker.stop(plan.runtime.engine, (container.id,))))
            steps.append(Run(name, docker.remove(plan.runtime.engine, (container.id,))))
    return tuple(steps)


def _down_processes(plan: Plan, facts: Mapping[str, Facts]) -> tuple[Phase, ...]:
    there = [name for name, fact in facts.items() if fact.files or fact.containers]
    phases = (
        Phase("Stop vLLM and Ray", tuple(Run(name, script(plan.member(name), "down")) for name in there)),
        Phase("Remove files", _remove_files(plan, facts)),
    )
    return tuple(phase for phase in phases if phase.steps)


def _remove_files(plan: Plan, facts: Mapping[str, Facts]) -> tuple[Run, ...]:
    return tuple(Run(name, _remove_folder(plan.member(name))) for name, fact in facts.items() if fact.files)


def _remove_folder(member: Member) -> Argv:
    """The member's folder, and the two around it where nothing else is in them."""
    folder, cluster = shlex.quote(member.folder), shlex.quote(f".clusterctl/{member.cluster}")
    return ("sh", "-c", f"rm -rf {folder} && rmdir --ignore-fail-on-non-empty {cluster} .clusterctl")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
