"""The order of a deployment, and of taking it down: one literal list each. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial

from cluster import folder, network_file
from cluster.argv import docker
from cluster.argv.node_script import script
from cluster.facts import IGNORED, Container, Facts, RayNode
from cluster.facts.service import parse_ray_nodes
from cluster.inventory.secrets import Secrets
from cluster.join import why_not_joined, why_not_ready
from cluster.plan import Member, Plan
from cluster.proof import arrived, collectives, served
from cluster.standing import Standing, standing
from cluster.steps import Argv, Phase, Put, Result, Run, Wait

START_TIMEOUT = 120.0
PULL_TIMEOUT = 3600.0
LAST_LINES = "400"
REMOVE = "Remove what is outdated"
READY_POLL = 3.0  # asking Ray each time costs 0.6 s of a core on the head


def up(
    plan: Plan,
    facts: Mapping[str, Facts],
    secrets: Secrets = (),
    ignore: tuple[str, ...] = (),
    generation: int = 0,
) -> tuple[Phase, ...]:
    """What has to be done, in order, so that the model answers; what is already so is left out.

    Containers that are started are labelled with the number of their `generation`.
    """
    now = standing(plan, facts, secrets)
    phases = (
        Phase("Get the image", _get_image(plan, facts)),
        Phase(REMOVE, _remove(plan, now.outdated)),
        Phase("Write start scripts", _write(plan, facts, secrets, now, generation)),
        Phase("Start Ray head", _start_ray_head(plan, now)),
        Phase("Start Ray workers", _start_ray_workers(plan, now)),
        Phase("Wait for every node and GPU to join", _join(plan, facts, now)),
        Phase(
            "Read what arrived at Ray", _attest_ray(plan, now), partial(arrived.judge, plan, facts, ignore)
        ),
        Phase("Prove the network", _prove(plan, now), partial(collectives.judge, plan, facts, ignore)),
        Phase("Start vLLM", _start_vllm(plan, now)),
        Phase("Wait for a completion", _ready(plan, now)),
        Phase(
            "Read what arrived at vLLM",
            _attest(plan, now),
            partial(served.judge_started, plan, facts, ignore),
        ),
    )
    return tuple(phase for phase in phases if phase.steps)


def verify(plan: Plan, facts: Mapping[str, Facts], ignore: tuple[str, ...]) -> tuple[Phase, ...]:
    """The proof alone, on a cluster whose Ray is up."""
    phases = (
        Phase("Read what arrived", _attest_running(plan, facts), partial(arrived.judge, plan, facts, ignore)),
        Phase("Prove the network", collectives.steps(plan), partial(collectives.judge, plan, facts, ignore)),
    )
    return tuple(phase for phase in phases if phase.steps)


def live(plan: Plan, facts: Mapping[str, Facts], ignore: tuple[str, ...]) -> tuple[Phase, ...]:
    """What the served model really runs with. NCCL makes its channels at the first collective: ask first."""
    return (
        Phase("Have the model answer", (Run(plan.head.name, script(plan.head, "ask")),)),
        Phase("Read what arrived", arrived.steps(plan), partial(served.judge, plan, facts, ignore)),
    )


def note_ignored(plan: Plan, facts: Mapping[str, Facts], ignored: tuple[str, ...]) -> tuple[Phase, ...]:
    """Write the ids of problems down: whoever looks at the cluster later has to know what was passed over."""
    steps = _write_ignored(plan, facts, ignored)
    return (Phase("Note what is ignored", steps),) if steps else ()


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


# --- the steps of each phase ------------------------------------------------------------------------


def _write(
    plan: Plan, facts: Mapping[str, Facts], secrets: Secrets, now: Standing, generation: int
) -> tuple[Put | Run, ...]:
    """What a member's folder should have, and nothing else."""
    return (
        *folder.write(plan, facts, secrets),
        *network_file.write(plan, facts, now),
        *folder.write_generation(plan, facts, now, generation),
    )


def _write_ignored(plan: Plan, facts: Mapping[str, Facts], ignored: tuple[str, ...]) -> tuple[Put | Run, ...]:
    differing = [member for member in plan.members if facts[member.name].ignored != ignored]
    if not ignored:
        return tuple(Run(m.name, ("rm", "-f", f"{m.folder}/{IGNORED}")) for m in differing)
    content = "".join(f"{id_}\n" for id_ in ignored)
    return tuple(Put(m.name, f"{m.folder}/{IGNORED}", content) for m in differing)


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
            steps.append(
                Run(member.name, docker.probe(plan, member, ("-c", "import ray, vllm")), START_TIMEOUT)
            )
    return tuple(steps)


def _start_ray_head(plan: Plan, now: Standing) -> tuple[Run | Wait, ...]:
    if not plan.uses_ray or plan.head.name in now.ray:
        return ()
    return (_start(plan.head, "ray"), _wait_joined(plan, plan.head))


def _start_ray_workers(plan: Plan, now: Standing) -> tuple[Run, ...]:
    if not plan.uses_ray:
        return ()
    return tuple(_start(member, "ray") for member in plan.workers if member.name not in now.ray)


def _join(plan: Plan, facts: Mapping[str, Facts], now: Standing) -> tuple[Wait, ...]:
    """Each worker waits for itself, so that one that dies or is cut off is named at once."""
    if not plan.uses_ray:
        return ()
    counted = [node for node in facts[plan.head.name].ray_nodes or () if node.id]
    started = [member for member in plan.workers if member.name not in now.ray]
    return tuple(
        _wait_joined(plan, m, frozenset(node.id for node in counted if node.address == m.address))
        for m in started
    )


def _start_vllm(plan: Plan, now: Standing) -> tuple[Run, ...]:
    return tuple(_start(member, "serve") for member in plan.servers if member.name not in now.serving)


def _prove(plan: Plan, now: Standing) -> tuple[Run, ...]:
    """Before half an hour of loading weights; a model that serves is not disturbed."""
    return () if len(now.serving) == len(plan.servers) else collectives.steps(plan)


def _attest_ray(plan: Plan, now: Standing) -> tuple[Run, ...]:
    """Beside a server that is loading, what is read at the end tells the same."""
    return _attest(plan, now) if plan.uses_ray and not now.serving else ()


def _attest_running(plan: Plan, facts: Mapping[str, Facts]) -> tuple[Run, ...]:
    """With the executor backend mp there is nothing to read before vLLM runs."""
    role = "ray" if plan.uses_ray else "serve"
    return arrived.steps(plan) if all(facts[m.name].runs(role) for m in plan.members) else ()


def _attest(plan: Plan, now: Standing) -> tuple[Run, ...]:
    return () if now.answered else arrived.steps(plan)


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


def _wait_joined(plan: Plan, member: Member, before: frozenset[str] = frozenset()) -> Wait:
    def pending(result: Result) -> str | None:
        answer = _listed(result)
        return answer if isinstance(answer, str) else why_not_joined(plan, member, answer, before)

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
