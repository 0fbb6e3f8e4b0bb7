"""`clusterctl verify`: which wires the traffic takes, on a cluster whose Ray is up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster import console, phases
from cluster.apply import apply
from cluster.checks.system import verify_port_taken
from cluster.choice import Choice, choose, explanation, explanation_json
from cluster.commands.check import known_ids
from cluster.commands.choose import reach
from cluster.errors import EXIT_DONE, PreflightError, Problem, UsageError
from cluster.facts import Facts, without_hashes
from cluster.gather import gather
from cluster.inventory import load
from cluster.operation import operation
from cluster.plan import Plan
from cluster.render import node_files
from cluster.reporter import reporter
from cluster.standing import has_network_env, outdated_files

REMEDY = "`clusterctl verify --explain` says which interface and HCAs each node uses, and why."


def verify(file: Path, explain: bool, live: bool, ignore: tuple[str, ...], as_json: bool) -> int:
    """Changes nothing on the nodes. Raises ClusterctlError; JudgedError where a requirement does not hold."""
    if explain and live:
        raise UsageError("--explain and --live exclude each other")
    known_ids(ignore)
    inventory = load(file)
    with reach(inventory, ()) as at:
        plan, lines = at.plan, at.lines
        facts = gather(plan, lines.connections, without_hashes)
        if explain:
            return _explain(plan, facts, as_json)
        if in_the_way := (
            *_not_running(plan, facts, live),
            *_outdated(plan, facts),
            *_port(plan, facts, live),
        ):
            raise PreflightError(in_the_way)
        _say_what_is_shared(plan, facts, live, as_json)
        with reporter(as_json) as report:
            if live:
                apply(phases.live(plan, facts, ignore), lines.connections, len(plan.members), report, REMEDY)
                return EXIT_DONE
            # Of two who measure at once, one would end what the other began, and neither figure would count.
            with operation("verify", inventory, lines, majority=False, audited=False) as op:
                op.apply(phases.verify(plan, facts, ignore), len(plan.members), report, REMEDY)
    return EXIT_DONE


def _explain(plan: Plan, facts: Mapping[str, Facts], as_json: bool) -> int:
    choices = choose(plan, facts)
    older = [name for name in choices if not _runs_with(facts[name], choices[name])]
    if as_json:
        console.emit({**explanation_json(plan, choices), "older": older})
        return EXIT_DONE
    for columns, rows in explanation(plan, choices):
        console.table(columns, rows)
        console.say("")
    for name in older:
        console.say(
            f"{name}: what runs was started with another choice; it takes this one when Ray starts anew"
        )
    return EXIT_DONE


def _runs_with(facts: Facts, choice: Choice) -> bool:
    """Whether what runs on a node, if anything, was started with this choice."""
    return not any(container.running for container in facts.containers) or has_network_env(facts, choice)


def _not_running(plan: Plan, facts: Mapping[str, Facts], live: bool) -> Iterator[Problem]:
    """What has to run before there is anything to prove: Ray on every node, with `live` the server too."""
    wanted = {member.name: "ray" for member in plan.members if plan.uses_ray}
    wanted |= {member.name: "serve" for member in plan.servers if live}
    for name, role in wanted.items():
        if not facts[name].runs(role):
            container = facts[name].container(role)
            yield Problem(
                "not-running",
                name,
                f"{role} is {container.state if container else 'not there'}",
                f"a running {role} container",
                "Run `clusterctl up`: it proves the network before it loads the model",
            )


def _outdated(plan: Plan, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """The scripts that are on a node measure what runs there: they have to be those of this inventory."""
    for member in plan.members:
        if differing := outdated_files(node_files(plan, member), facts[member.name]):
            yield Problem(
                "scripts-outdated",
                member.name,
                f"{differing[0].path} is of another inventory or version of clusterctl, or not there",
                f"~/{member.folder} as this inventory renders it",
                "Run `clusterctl up`, which writes what differs and starts anew what was started from it",
            )


def _port(plan: Plan, facts: Mapping[str, Facts], live: bool) -> Iterator[Problem]:
    if not live and plan.gpus > 1 and plan.verify_port in facts[plan.head.name].listening:
        yield verify_port_taken(plan.head.name, plan.verify_port)


def _say_what_is_shared(plan: Plan, facts: Mapping[str, Facts], live: bool, as_json: bool) -> None:
    serves = any(facts[member.name].runs("serve") for member in plan.servers)
    if not as_json and not live and plan.gpus < 2:
        console.say("one GPU: there is nothing to measure")
    elif not as_json and not live and serves:
        console.say(
            "the model's server shares its GPUs and links with this measurement; --live measures nothing"
        )
