"""How each thing is broken on a node. Pure.

Processes get SIGKILL, as a crash or the kernel's out-of-memory killer ends them. The engine is vLLM's: the
process VLLM::EngineCore, without which the server's own process still listens. (The container engine is a
fault of `clusterctl lab fault`.)
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal, get_args

from cluster.errors import UsageError
from cluster.plan import Member, Plan
from cluster.steps import Argv, Run

Kill = Literal["worker", "head", "server", "link", "engine"]
KILLS: tuple[Kill, ...] = get_args(Kill)
LEAD = 3.0  # seconds until a link goes down: enough to give the lock back over it
# vLLM names it in set_process_title("EngineCore") (vllm/v1/engine/core.py); a rank of it may stand behind.
ENGINE_CORE = "VLLM::EngineCore"


@dataclass(frozen=True)
class Break:
    """`step` breaks it, `lead` seconds after it ran; a link for `seconds`, everything else for good."""

    kill: Kill
    step: Run
    what: str
    lead: float = 0.0
    seconds: float = 0.0

    @property
    def node(self) -> str:
        return self.step.node


def breaking(plan: Plan, kill: Kill, node: str | None, seconds: float) -> Break:
    """What breaks it on a node, by default the last that has it; `seconds` is how long a link stays down.

    Raises UsageError where the node has no such thing.
    """
    member = _member(plan, kill, node)
    if kill == "link":
        what = f"its network interface goes down for {seconds:g} s"
        return Break(kill, Run(member.name, _cut(member, seconds)), what, LEAD, seconds)
    if kill == "engine":
        return Break(kill, Run(member.name, _kill_engine(plan, member)), f"SIGKILL to {ENGINE_CORE}")
    name = plan.serve_container if kill == "server" or not plan.uses_ray else plan.ray_container
    return Break(kill, Run(member.name, _kill_container(plan, member, name)), f"SIGKILL to {name}")


def _member(plan: Plan, kill: Kill, node: str | None) -> Member:
    able = {
        "worker": plan.workers,
        "head": (plan.head,),
        "server": (plan.head,),
        "engine": (plan.head,),
        "link": plan.members,
    }[kill]
    if not able:
        raise UsageError(f"{plan.cluster} has no {kill}: it is one node")
    if node is None:
        return able[-1]
    found = next((member for member in able if member.name == node), None)
    if found is None:
        names = ", ".join(member.name for member in able)
        raise UsageError(f"--node {node}: no {kill} to break there, but on {names}")
    return found


def _kill_container(plan: Plan, member: Member, name: str) -> Argv:
    if plan.runtime.engine != "process":
        return (plan.runtime.engine, "kill", name)
    return ("sh", "-c", _kill_where(_is_marked(member, name), f"{name} does not run"))


def _kill_engine(plan: Plan, member: Member) -> Argv:
    titled = f'case "$(tr "\\0" " " <"$process/cmdline")" in {ENGINE_CORE}*) ;; *) false ;; esac'
    none = f"no process {ENGINE_CORE}: the engine runs in the server's own (VLLM_ENABLE_V1_MULTIPROCESSING=0)"
    if plan.runtime.engine == "process":
        marked = _is_marked(member, plan.serve_container)
        return ("sh", "-c", _kill_where(f"{marked} && {titled}", none))
    return (plan.runtime.engine, "exec", plan.serve_container, "sh", "-c", _kill_where(titled, none))


def _is_marked(member: Member, name: str) -> str:
    """Whether a process is one that was started under this name (on_node/process_table.py)."""
    mark = shlex.quote(f"^CLUSTERCTL_PROCESS=.*/{member.folder}/processes/{name}$")
    return f'tr "\\0" "\\n" <"$process/environ" | grep -q {mark}'


def _kill_where(condition: str, none: str) -> str:
    return (
        "found=\n"
        "for process in /proc/[0-9]*; do\n"
        f"  if {{ {condition}; }} 2>/dev/null; then\n"
        '    kill -s KILL "${process#/proc/}" && found=yes\n'
        "  fi\n"
        "done\n"
        f'[ -n "$found" ] || {{ echo {shlex.quote(none)} >&2; exit 1; }}'
    )


def _cut(member: Member, seconds: float) -> Argv:
    """The interface of the node's address, down and up again by a program that outlives every connection.

    It is armed before it acts, so that nobody has to reach the node to undo it. What the kernel forgets of an
    interface that goes down, IPv6 addresses and routes, is put back as `ip` saved it.
    """
    return ("sh", "-c", CUT, "sh", member.address, f"{LEAD:g}", f"{seconds:g}")


CUT = """\
set -u
address=$1 lead=$2 seconds=$3
may=
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null ||
    { echo "taking an interface down needs root, or sudo without a password" >&2; exit 1; }
  may="sudo -n"
fi
device=$(ip -o address show |
  awk -v address="$address" '{ split($4, at, "/") } at[1] == address { print $2; exit }')
if [ -z "$device" ] || [ "$device" = lo ]; then
  echo "no interface but loopback carries $address here: nothing to take down" >&2
  exit 1
fi
kept=$(mktemp -d) || exit 1
for family in 4 6; do ip -$family route save dev "$device" >"$kept/routes$family" 2>/dev/null; done
ip -6 address save dev "$device" >"$kept/addresses" 2>/dev/null
export may device kept lead seconds
setsid sh -c '
  sleep "$lead"
  $may ip link set "$device" down
  sleep "$seconds"
  $may ip link set "$device" up
  $may ip address restore <"$kept/addresses"
  for family in 4 6; do $may ip route restore <"$kept/routes$family"; done
  rm -r "$kept"
' </dev/null >/dev/null 2>&1 &
"""
