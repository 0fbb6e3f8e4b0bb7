"""Can these facts carry this plan? Pure: (Plan, facts) -> problems, each with the command that mends it.

Ids are stable. A check is a small function over one member's facts, or over those of all nodes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from cluster.checks import between, engine, fits, gpu, model, rails, rdma, system
from cluster.choice import choose
from cluster.errors import Problem, Verdict
from cluster.facts import Facts
from cluster.plan import Member, Plan

OneNode = Callable[[Plan, Member, Facts], Iterator[Problem]]
AllNodes = Callable[[Plan, Mapping[str, Facts]], Iterator[Problem]]

OF_ONE_NODE: tuple[OneNode, ...] = (
    *(
        engine.answers,
        engine.has_image,
        engine.mounts,
        engine.image_can,
        engine.has_ray_and_vllm,
        engine.names_are_free,
    ),
    *(engine.gives_gpus, engine.storage, engine.security, engine.shared_memory, engine.open_files),
    *(system.own_name, system.interface, system.ports, system.disks, system.memory, system.route),
    *(system.proxies, system.strangers),
    *(gpu.driver, gpu.number, gpu.sliced, gpu.busy, gpu.errors, gpu.fabric, gpu.cuda, gpu.in_container),
    *(model.there, model.whole),
)
OF_ALL_NODES: tuple[AllNodes, ...] = (
    *(between.hostnames, between.clocks, between.versions, between.images, between.gpus, between.drivers),
    *(between.mtus, between.models, fits.fits),
)


def preflight(plan: Plan, facts: Mapping[str, Facts]) -> tuple[Problem, ...]:
    """All problems of the nodes that answered: of each in order of node rank, then differences."""
    choices = choose(plan, facts)
    return (
        *(
            problem
            for member in plan.members
            if member.name in facts
            for check in OF_ONE_NODE
            for problem in check(plan, member, facts[member.name])
        ),
        *rdma.problems(plan, facts, choices),
        *(problem for compare in OF_ALL_NODES for problem in compare(plan, facts)),
        *rails.problems(plan, facts, choices),
    )


def judge(problems: Iterable[Problem], ignore: Iterable[str] = ()) -> Verdict:
    """What stops `up`, what does not, and what the user took upon themselves."""
    found, ids = tuple(problems), frozenset(ignore)
    return Verdict(
        errors=tuple(p for p in found if p.severity == "error" and p.id not in ids),
        warnings=tuple(p for p in found if p.severity == "warning" and p.id not in ids),
        ignored=tuple(p for p in found if p.id in ids),
    )
