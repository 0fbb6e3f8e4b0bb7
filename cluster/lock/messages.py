"""What is said of a lock to a person. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.lock.state import Answer, State

# fence.sh's words for a lease that is not live.
WHY_NOT = {
    "superseded": "another took the lock",
    "released": "the lock was released by another: `clusterctl lock release`, or a newer command",
    "rebooted": "the node was started anew in the meantime",
    "expired": "the node heard nothing from here for too long, and the lock expired",
}
LOST_REMEDY = (
    "nothing more is started from here\n"
    "`clusterctl lock status` says who holds the lock, `clusterctl status` what runs; "
    "the same command again continues"
)


def held(on: Mapping[str, Answer], total: int) -> str:
    """Who is at work, on which nodes, and what to do about it; the nodes in `on` have a live lease."""
    answer = max(on.values(), key=lambda one: one.live.epoch if one.live else 0)
    state = answer.live
    assert state is not None
    lines = (
        f"{state.holder.who or 'somebody'} is at work on {', '.join(on)} ({len(on)} of {total} nodes); "
        "nothing was changed",
        *(f"  {key:<11} {value}" for key, value in described(state, answer.now)),
        "  Wait for it to end. If it never will: `clusterctl lock release` (what it started stays as it is).",
    )
    return "\n".join(lines)


def described(state: State, now: int) -> tuple[tuple[str, str], ...]:
    """(what, value) of a live lease, at a node's own time."""
    return (
        ("command", f"{state.holder.command} (process {state.holder.pid})"),
        ("since", state.holder.since),
        ("epoch", str(state.epoch)),
        ("last heard", f"{state.seconds_silent(now):.0f} s ago"),
        ("expires", f"in {state.seconds_left(now):.0f} s, if it is not heard again"),
    )


def condition(answer: Answer) -> str:
    """One word for a node's lock: free, held, expired, released, rebooted."""
    state = answer.state
    if state is None:
        return "free"
    if state.released:
        return "released"
    if state.boot != answer.boot:
        return "rebooted"
    return "held" if answer.live else "expired"


def lost(command: str, why: str) -> str:
    """`up: the lock is lost: gpu-02: ...`"""
    first, *rest = LOST_REMEDY.splitlines()
    return "\n".join((f"{command}: the lock is lost: {why}; {first}", *(f"  {line}" for line in rest)))


def refusal(node: str, stderr: str, says: str) -> str:
    """Why a node did not carry out a command, from what fence.sh wrote."""
    last = next((line for line in reversed(stderr.splitlines()) if line.startswith(says)), "")
    reason = last.removeprefix(says).removeprefix("refused: ")
    return f"{node}: {WHY_NOT.get(reason, reason or 'it does not take this command')}"
