"""The logs of one node: the commands that print them, and the lines in what came back. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cluster.doctor.stamps import read_log
from cluster.facts import BEGIN, END, Fact
from cluster.facts.processes import has, parse_processes
from cluster.facts.system import CLOCK, MOST_SKEW, clock_offset
from cluster.log_lines import LogLine, with_nine_decimals
from cluster.plan import Member, Plan
from cluster.steps import Result

FIRST, LAST, LONGEST_LINE = 2_000, 20_000, 4_000
RAY_LOGS = (
    *("raylet.out", "raylet.err", "gcs_server.out", "gcs_server.err", "monitor.log", "monitor.err"),
    *("dashboard_agent.log", "runtime_env_agent.log", "ray_process_exit.log"),
)
STATE = (
    "{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.StartedAt}} "
    "{{.State.FinishedAt}} $layers {{.State.Error}}"
)
KERNEL = "xid|nvrm|oom|out of memory|killed process|mlx5|infiniband|nvlink|nvidia|segfault|i/o error|no space"
# Messages of before the cluster are somebody else's: an old OOM kill is no cause.
BEFORE = timedelta(seconds=60)
WITHOUT_CONTAINERS = timedelta(hours=1)


@dataclass(frozen=True)
class NodeLogs:
    """What one node said: all its lines, the text of each log by name, and its clock as seconds since 1970.

    `began` and `ended` are its clock before and after; `images` is {container: sha256 of its layers}.
    """

    lines: tuple[LogLine, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    began: float | None = None
    ended: float | None = None
    images: Mapping[str, str] = field(default_factory=dict)


def questions(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """What a node is asked, as commands; nothing of it changes anything there."""
    own = _of_processes(plan, member) if plan.runtime.engine == "process" else _of_containers(plan, member)
    kernel = "TZ=UTC0 dmesg --time-format iso 2>/dev/null || TZ=UTC0 dmesg -T"
    return tuple(
        Fact(name, command, lambda _: {})
        for name, command in (
            ("clock_began", CLOCK),
            ("hostname", "hostname"),
            *own,
            ("kernel", f"({kernel}) | grep -iE {shlex.quote(KERNEL)} | tail -n 2000"),
            ("ports", "grep . /sys/class/infiniband/*/ports/*/state"),
            ("clock_ended", CLOCK),
        )
    )


def _of_containers(plan: Plan, member: Member) -> Iterator[tuple[str, str]]:
    engine, ray, serve = plan.runtime.engine, plan.ray_container, plan.serve_container
    names = [*((ray,) if plan.uses_ray else ()), *((serve,) if member in plan.servers else ())]
    yield "state", "\n".join(_state(engine, name) for name in names)
    for role, name in (("ray", ray), ("serve", serve)):
        if name in names:
            yield f"log_{role}", _bounded(f"{engine} logs --timestamps {name}")
    if plan.uses_ray:
        # `cp` works for a container that is dead, too.
        wanted = " ".join(f"logs/{name}" for name in RAY_LOGS)
        copied = f"{engine} cp {ray}:/tmp/ray/session_latest/logs -"
        yield (
            "session",
            _bounded(f"({copied} | tar -xO {wanted} --wildcards 'logs/worker-*.err' 2>/dev/null)"),
        )
    unit = "docker" if engine == "docker" else "podman"
    yield "engine", f"TZ=UTC0 journalctl -u {unit} --since -2h -n 1000 -o short-iso --no-pager"


def _state(engine: str, name: str) -> str:
    """With the image by its layers: what was built or imported on each node has an id of its own there."""
    image = f"$({engine} inspect --format '{{{{.Image}}}}' {name})"
    layers = f"{engine} image inspect --format '{{{{json .RootFS.Layers}}}}' \"{image}\" | sha256sum"
    return f'layers=$({layers} | cut -d " " -f 1)\n{engine} inspect --format "{STATE}" {name}'


def _of_processes(plan: Plan, member: Member) -> Iterator[tuple[str, str]]:
    script = f'sh "$HOME"/{shlex.quote(member.folder)}/run_cluster.sh'
    (processes,) = has(plan, member)
    yield "processes", processes.command
    if plan.uses_ray:
        yield "log_ray", _bounded(f"{script} logs ray")
    if member in plan.servers:
        yield "log_serve", _bounded(f"{script} logs serve")
    if plan.uses_ray:
        logs = f"/tmp/clusterctl-$(id -u)-{plan.cluster}/session_latest/logs"
        yield "session", f"cd {logs} && tail -q -n {LAST // 10} {' '.join(RAY_LOGS)} worker-*.err 2>/dev/null"


def _bounded(command: str) -> str:
    """The first and the last lines of what a command prints, and of each line not more than anybody reads."""
    program = (
        f"NR<={FIRST}{{print;next}}{{n=NR-{FIRST};kept[n%{LAST}]=$0}}"
        f"END{{for(i=(n>{LAST}?n-{LAST}+1:1);i<=n;i++)print kept[i%{LAST}]}}"
    )
    return f"{command} 2>&1 | cut -c -{LONGEST_LINE} | awk {shlex.quote(program)}"


def read_answers(member: Member, output: str, now: datetime) -> NodeLogs:
    """The logs in what a node answered; what is missing or cut off is absent. Never raises."""
    texts = dict(_sections(output))
    states = tuple(_states(texts.get("state", "")))
    started = [state.started for state in states if state.started]
    logs = {name: text for name, text in texts.items() if text.strip() and not name.startswith("clock")}
    lines = (
        *(LogLine(state.finished, member.name, "container", state.sentence) for state in states),
        *_lines(member.name, logs, _since(started, now), now.year),
    )
    return NodeLogs(
        lines=lines,
        texts=logs,
        hostname=texts.get("hostname", "").strip(),
        began=_number(texts.get("clock_began", "")),
        ended=_number(texts.get("clock_ended", "")),
        images={state.name: state.image for state in states},
    )


def _lines(node: str, logs: Mapping[str, str], since: str, year: int) -> Iterator[LogLine]:
    for name, text in logs.items():
        if name.startswith("log_"):
            yield from read_log(node, name.removeprefix("log_"), text.splitlines(), year)
        elif name == "session":
            yield from read_log(node, "ray", text.splitlines(), year)
        elif name in ("kernel", "engine"):
            read = read_log(node, name, text.splitlines(), year)
            yield from (line for line in read if not line.time or line.time >= since)
        elif name == "ports":
            yield from (LogLine("", node, "node", _port(line)) for line in text.splitlines())
        elif name == "processes":
            yield from (LogLine("", node, "container", line) for line in _processes(text))


def _sections(output: str) -> Iterator[tuple[str, str]]:
    """(name, text), the last one even where the line broke in the middle of it."""
    for part in output.split("\n" + BEGIN)[1:]:
        name, _, rest = part.partition("\n")
        yield name.strip(), rest.rpartition("\n" + END)[0] if "\n" + END in rest else rest


@dataclass(frozen=True)
class _State:
    name: str
    sentence: str
    started: str
    finished: str
    image: str


def _states(text: str) -> Iterator[_State]:
    """A container's state as a sentence that signatures know."""
    pattern = r"^/?(\S+) (\w+) (-?\d+) (true|false) (\S+) (\S+) (\S+) ?(.*)$"
    for name, status, code, oom, started, finished, image, error in re.findall(pattern, text, re.MULTILINE):
        sentence = f"container {name}: {status}, exit code {code}, out of memory: {oom}"
        sentence += f", {error}" if error else ""
        yield _State(name, sentence, _time(started), _time(finished), image)


def _processes(text: str) -> Iterator[str]:
    """The same sentences for the engine `process`, from what `processes.py inspect` prints."""
    for process in parse_processes(Result(0, text, ""))["containers"]:
        status = "running" if process.running else "exited"
        oom = str(process.oom_killed).lower()
        yield f"container {process.name}: {status}, exit code {process.exit_code}, out of memory: {oom}"


def _time(text: str) -> str:
    """`2026-11-21T05:24:26.654017Z` as log lines have it; empty for Docker's year 1 of what never was."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)", text)
    return with_nine_decimals(found[1]) if found and not text.startswith("0001") else ""


def _since(started: list[str], now: datetime) -> str:
    """From when on messages of kernel and engine count."""
    if not started:
        return (now - WITHOUT_CONTAINERS).strftime("%Y-%m-%dT%H:%M:%S")
    try:
        first = datetime.fromisoformat(min(started)[:26]) - BEFORE
    except (ValueError, OverflowError):
        return min(started)
    return first.strftime("%Y-%m-%dT%H:%M:%S")


def _port(text: str) -> str:
    """`/sys/class/infiniband/mlx5_0/ports/1/state:4: ACTIVE` as `mlx5_0 port 1: 4: ACTIVE`."""
    found = re.match(r"/sys/class/infiniband/([^/]+)/ports/(\d+)/state:(.*)", text)
    return f"{found[1]} port {found[2]}: {found[3]}" if found else text


def _number(text: str) -> float | None:
    found = re.search(r"^\d{1,12}(?:\.\d{1,9})?$", text.strip())
    return float(found[0]) if found else None


def skew_of(logs: NodeLogs, asked: float, answered: float) -> float:
    """Seconds by which a node's clock is ahead, by NTP's formula; 0 where it did not say."""
    if logs.began is None or logs.ended is None:
        return 0.0
    return clock_offset(asked, answered, logs.began, logs.ended)[0]


def between_nodes(by_node: Mapping[str, NodeLogs], skew: Mapping[str, float]) -> Iterator[LogLine]:
    """What only shows where nodes are compared: one hostname twice, different images, clocks apart."""
    first_of: dict[tuple[str, str], str] = {}
    for node, logs in by_node.items():
        other = first_of.setdefault(("hostname", logs.hostname), node) if logs.hostname else node
        if other != node:
            yield LogLine("", node, "node", f"{other} and {node} have one hostname: {logs.hostname}")
        for name, image in logs.images.items():
            other = first_of.setdefault(("image of", name), node)
            reference = by_node[other].images[name]
            if reference != image:
                said = f"{other} and {node} run different images: {reference}, {image}"
                yield LogLine("", node, "node", said)
        if abs(skew.get(node, 0.0)) > MOST_SKEW:
            direction = "ahead" if skew[node] > 0 else "behind"
            said = f"the clock of {node} is {abs(skew[node]):.1f} s {direction}"
            yield LogLine("", node, "node", said)


def unreachable_lines(unreachable: Mapping[str, str]) -> Iterator[LogLine]:
    """Why nodes could not be reached, as lines that signatures know."""
    for node, reason in unreachable.items():
        yield from (LogLine("", node, "ssh", text) for text in reason.splitlines())
