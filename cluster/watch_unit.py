"""The systemd unit under which the head watches its own cluster: its text, its steps, what it needs. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import isabs

from cluster import records
from cluster.errors import Problem
from cluster.inventory import Inventory
from cluster.plan import Member
from cluster.render import filled
from cluster.steps import Argv, Phase, Put, Result, Run

INVENTORY, UNIT = "watch.yaml", "watch.service"
BEGIN = "clusterctl "
# One line a thing; a login shell, as an operator on the head would have it. Without lingering the units of a
# user end when the user logs out.
QUESTION = (
    'printf "\\nclusterctl user %s\\n" "$(id -u)"\n'
    'printf "clusterctl home %s\\n" "$HOME"\n'
    'printf "clusterctl program %s\\n" "$(command -v clusterctl)"\n'
    '[ ! -d /run/systemd/system ] || echo "clusterctl systemd yes"\n'
    'lingers=$(loginctl show-user "$(id -un)" --property=Linger --value 2>/dev/null)\n'
    'printf "clusterctl lingers %s\\n" "$lingers"\n'
)
ASK_HEAD: Argv = ("sh", "-lc", QUESTION)


@dataclass(frozen=True)
class Head:
    """What the head has for a unit of this user's; `program` is empty where clusterctl is not on its PATH."""

    home: str
    is_root: bool
    program: str
    systemd: bool
    lingers: bool

    @property
    def systemctl(self) -> str:
        return "systemctl" if self.is_root else "systemctl --user"

    @property
    def units(self) -> str:
        """The folder that systemd reads."""
        return "/etc/systemd/system" if self.is_root else f"{self.home}/.config/systemd/user"


def parse_head(result: Result) -> Head:
    """What ASK_HEAD printed; of what it did not print, nothing is there."""
    lines = (line.removeprefix(BEGIN) for line in result.stdout.splitlines() if line.startswith(BEGIN))
    said = {key: value for key, _, value in (line.partition(" ") for line in lines)}
    program = said.get("program", "")
    return Head(
        home=said.get("home", ""),
        is_root=said.get("user") == "0",
        program=program if isabs(program) else "",
        systemd=said.get("systemd") == "yes",
        lingers=said.get("user") == "0" or said.get("lingers") == "yes",
    )


def name(cluster: str) -> str:
    """The unit's name."""
    return f"clusterctl-watch-{cluster}.service"


def unit(head: Head, member: Member, heal: bool) -> str:
    """The unit's text."""
    inventory = f"{head.home}/{_folder(member)}/{INVENTORY}"
    argv = (head.program, "watch", *(("--heal",) if heal else ()), "--json", inventory)
    target = "multi-user.target" if head.is_root else "default.target"
    return filled(
        "watch.service.j2", name=name(member.cluster), cluster=member.cluster, argv=argv, wanted_by=target
    )


def install(head: Head, member: Member, inventory_text: str, heal: bool) -> tuple[Phase, ...]:
    """Write the inventory and the unit on the head, and start it; one that runs begins anew."""
    folder, unit_name = _folder(member), shlex.quote(name(member.cluster))
    target = shlex.quote(f"{head.units}/{name(member.cluster)}")
    enable = (
        f"mkdir -p {shlex.quote(head.units)} && install -m 0644 {shlex.quote(f'{folder}/{UNIT}')} {target}\n"
        f"{head.systemctl} daemon-reload && {head.systemctl} enable {unit_name} &&\n"
        f"{head.systemctl} restart {unit_name}"
    )
    return (
        Phase(
            "Install the watcher on the head",
            (
                Put(member.name, f"{folder}/{INVENTORY}", inventory_text, 0o600),
                Put(member.name, f"{folder}/{UNIT}", unit(head, member, heal), 0o644),
                Run(member.name, ("sh", "-ec", enable)),
            ),
        ),
    )


def uninstall(head: Head, member: Member) -> tuple[Phase, ...]:
    """Stop the watcher, and remove what `install` wrote; nothing of it need be there."""
    folder, unit_name = _folder(member), shlex.quote(name(member.cluster))
    files = shlex.join((f"{head.units}/{name(member.cluster)}", f"{folder}/{INVENTORY}", f"{folder}/{UNIT}"))
    disable = (
        f"{head.systemctl} disable --now {unit_name} 2>/dev/null || :\n"
        f"rm -f {files}\n{head.systemctl} daemon-reload"
    )
    return (Phase("Remove the watcher from the head", (Run(member.name, ("sh", "-ec", disable)),)),)


def problems(inventory: Inventory, head: Head, member: Member, heal: bool) -> Iterator[Problem]:
    """What the head lacks, before anything is written there."""
    if not head.systemd:
        yield Problem(
            "watch-systemd",
            member.name,
            "systemd does not run here",
            "a unit needs it",
            "Run `clusterctl watch` under what supervises services there.",
        )
    if not head.program:
        yield Problem(
            "watch-clusterctl",
            member.name,
            "clusterctl is not on the PATH of a login shell",
            "the unit runs it on the head",
            "Install it there: pipx install vllm-clusterctl",
        )
    if not head.lingers:
        yield Problem(
            "watch-linger",
            member.name,
            "the units of this user end when the user logs out",
            "a watcher that stays",
            "On the head: sudo loginctl enable-linger",
        )
    for secret, source in inventory.secrets.items() if heal else ():
        if source.env is not None:
            yield Problem(
                "watch-secret",
                member.name,
                f"secrets.{secret} is read from the environment variable {source.env}",
                "a unit has none of the operator's variables",
                f"Put it into a file on the head (mode 0600): `secrets: {{{secret}: {{file: ...}}}}`",
            )


def try_lines(head: Head) -> Argv:
    """Runs `clusterctl status` on the head with the inventory on stdin: whether the nodes can be reached."""
    program = shlex.quote(head.program)
    script = (
        'file=$(mktemp) && trap \'rm -f "$file"\' EXIT && cat > "$file" &&\n'
        f'{program} status "$file" --json >/dev/null'
    )
    return ("sh", "-lc", script)


def lines_problem(member: Member, result: Result) -> Problem | None:
    """Whether the head can reach every node with this inventory, by what `try_lines` answered."""
    if result.exit_code in (0, 1):
        return None
    return Problem(
        "watch-lines",
        member.name,
        "`clusterctl status` fails here: "
        + "; ".join((result.stderr or result.stdout).split("\n")).strip("; "),
        "the head reaches every node, itself too, as the inventory's ssh section says",
        "Give the head a key and known_hosts for all nodes, at the paths that the inventory names.",
    )


def _folder(member: Member) -> str:
    return records.folder(member.cluster, member.name)
