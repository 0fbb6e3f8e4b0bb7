"""What the matrix says is wrong, and whose fault it is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from cluster.errors import Problem
from cluster.network.matrix import Link, Matrix
from cluster.network.table import speed
from cluster.plan import Member, Plan

SLOW_RTT = 5e-3  # seconds; nodes of one cluster are well under 1 ms apart
SLOW_SHARE, SLOW_ALONE = 1 / 3, 1 / 10  # of the median between the other nodes


def problems(plan: Plan, matrix: Matrix) -> tuple[Problem, ...]:
    """What keeps the nodes from working together (errors), then what makes them slow (warnings)."""
    return (*_firewalls(plan, matrix), *_small_mtus(plan, matrix), *_slow(plan, matrix), *_far(plan, matrix))


@dataclass(frozen=True)
class Blame:
    """A node that explains some bad links; `peers` are at their other ends."""

    node: str
    links: tuple[Link, ...]

    @property
    def inward(self) -> bool:
        return all(link.dst == self.node for link in self.links)

    @property
    def outward(self) -> bool:
        return all(link.src == self.node for link in self.links)

    @property
    def peers(self) -> tuple[str, ...]:
        ends = (link.src if link.dst == self.node else link.dst for link in self.links)
        return tuple(dict.fromkeys(ends))


def blame(links: Iterable[Link]) -> Iterator[Blame]:
    """The fewest nodes that explain these links: the one that has part in all, or those that most lead to."""
    left = list(links)
    nodes = tuple(dict.fromkeys(name for link in left for name in (link.dst, link.src)))
    alone = [node for node in nodes if all(node in (link.src, link.dst) for link in left)]
    if len(alone) == 1:
        left, whole_story = [], Blame(alone[0], tuple(left))
        yield whole_story
    while left:
        candidates = [
            Blame(node, tuple(link for link in left if end(link) == node)) for end in _ENDS for node in nodes
        ]
        worst = max(candidates, key=lambda candidate: len(candidate.links))  # of equals the first: inward
        left = [link for link in left if link not in worst.links]
        yield worst


_ENDS: tuple[Callable[[Link], str], ...] = (lambda link: link.dst, lambda link: link.src)


def _firewalls(plan: Plan, matrix: Matrix) -> Iterator[Problem]:
    """Ray's workers, NCCL's bootstrap, Gloo and TCPStore listen on random high ports (https://github.com/ray-project/ray/issues/12153,
    https://github.com/vllm-project/vllm/issues/13052)."""
    for culprit in blame(link for link in matrix.links if link.connected is False):
        peers = ", ".join(culprit.peers)
        if culprit.inward:
            found = f"accepts no connection on random high ports from {peers}: {_like(culprit)}"
        elif culprit.outward:
            found = f"cannot connect to random high ports of {peers}: {_like(culprit)}"
        else:
            found = f"no connection on random high ports to and from {peers}: {_like(culprit)}"
        yield Problem(
            id="firewall-ports",
            node=culprit.node,
            found=found,
            expected="every node accepts TCP from every other on any port from 1024 up",
            remedy=_open_firewall(plan, culprit),
            severity="error",
        )


def _like(culprit: Blame) -> str:
    whys = tuple(dict.fromkeys(link.why for link in culprit.links))
    silent = all(why == "timed out" for why in whys)
    return f"{', '.join(whys)}, as with a firewall rule that says {'DROP' if silent else 'REJECT'}"


def _open_firewall(plan: Plan, culprit: Blame) -> str:
    addresses = [plan.member(name).address for name in culprit.peers]
    rules = []
    if not culprit.outward:
        rules.append(f"iptables -I INPUT -s {','.join(addresses)} -j ACCEPT")
    if not culprit.inward:
        rules.append(f"iptables -I OUTPUT -d {','.join(addresses)} -j ACCEPT")
    return (
        f"Run `{' && '.join(rules)}` on {culprit.node}; with ufw `ufw allow from {addresses[0]}`, with "
        f"firewalld `firewall-cmd --permanent --zone=trusted --add-source={addresses[0]}` and "
        "`firewall-cmd --reload`, for each of them"
    )


def _small_mtus(plan: Plan, matrix: Matrix) -> Iterator[Problem]:
    """Small messages pass, large ones hang (https://github.com/NVIDIA/nccl/issues/1524)."""
    own = {link.src: link.mtu for link in matrix.links if link.mtu}
    for culprit in blame(link for link in matrix.links if link.mtu_passes is False or _stalls(link)):
        sizes = tuple(dict.fromkeys(link.mtu for link in culprit.links if link.mtu))
        pairs = ", ".join(f"{link.src} to {link.dst}" for link in culprit.links)
        mtus = ", ".join(f"{name} {own.get(name, 'unknown')}" for name in (culprit.node, *culprit.peers))
        yield Problem(
            id="mtu-mismatch",
            node=culprit.node,
            found=f"packets of {' and '.join(map(str, sizes))} bytes do not pass from {pairs}; MTU: {mtus}",
            expected="a packet of the interface's MTU passes in one piece between all nodes",
            remedy=_mend_mtu(plan, culprit, own),
            severity="error",
        )


def _stalls(link: Link) -> bool:
    """Where UDP is blocked, TCP says the same: pings come back, and of a transfer nothing arrives."""
    pings = link.mtu_passes is None and link.rtt_seconds is not None
    return pings and link.bits_per_second is None and link.why != ""


def _mend_mtu(plan: Plan, culprit: Blame, own: Mapping[str, int]) -> str:
    """Differing MTUs: the usual one on the culprit. Equal ones: the fault lies between the nodes."""
    mine = own.get(culprit.node)
    others = [mtu for peer in culprit.peers if (mtu := own.get(peer))]
    member = plan.member(culprit.node)
    if others and mine != others[0]:
        return f"Run `ip link set dev {_device(member)} mtu {others[0]}` on {culprit.node}"
    peer = plan.member(culprit.peers[0])
    return (
        f"`tracepath -n {peer.address}` on {culprit.node} shows what passes: raise the MTU of the switch "
        f"ports between, or run `ip link set dev {_device(member)} mtu 1500` on both"
    )


def _device(member: Member) -> str:
    return member.interface or f"$(ip -o -4 addr show to {member.address} | awk '{{print $2}}')"


def _slow(plan: Plan, matrix: Matrix) -> Iterator[Problem]:
    for culprit, usual in _slow_nodes(matrix):
        rates = ", ".join(f"{speed(_rate(link))} from {link.src} to {link.dst}" for link in culprit.links)
        yield Problem(
            id="network-slow",
            node=culprit.node,
            found=rates,
            expected=f"about {speed(usual)}, the median between the other nodes",
            remedy=f"Run `ethtool {_device(plan.member(culprit.node))}` on {culprit.node}: look at its Speed "
            "and Duplex, then at the switch port and what else uses the link",
            severity="warning",
        )


def _slow_nodes(matrix: Matrix) -> Iterator[tuple[Blame, float]]:
    """(node with the links that are slow, what is usual between the others).

    A cable, a port or an interface slows all links of a node in one direction or in both. One link alone
    counts only far below that: a node that is busy for a moment looks the same.
    """
    # Where large packets are lost a transfer crawls: that is told as the MTU's fault, and not twice.
    matrix = Matrix(matrix.nodes, tuple(link for link in matrix.links if link.mtu_passes is not False))
    usual = {node: _usual(matrix, node) for node in matrix.nodes}
    told: set[Link] = set()
    for slow_of in (_slow_directions, _slow_alone):
        for node in matrix.nodes:
            slow = tuple(link for link in slow_of(matrix, node, usual[node]) if link not in told)
            told |= set(slow)
            if slow:
                yield Blame(node, slow), usual[node]


def _usual(matrix: Matrix, node: str) -> float:
    """The median between the others, 0 where there is none."""
    others = (link for link in matrix.links if node not in (link.src, link.dst))
    return median([link.bits_per_second for link in others if link.bits_per_second] or [0.0])


def _slow_directions(matrix: Matrix, node: str, usual: float) -> Iterator[Link]:
    for end in _ENDS:
        links = [link for link in matrix.links if end(link) == node and link.bits_per_second]
        if len(links) > 1 and all(_rate(link) < usual * SLOW_SHARE for link in links):
            yield from links


def _slow_alone(matrix: Matrix, node: str, usual: float) -> Iterator[Link]:
    for link in matrix.links:
        if link.dst == node and 0 < _rate(link) < usual * SLOW_ALONE:
            yield link


def _rate(link: Link) -> float:
    return link.bits_per_second or 0.0


def _far(plan: Plan, matrix: Matrix) -> Iterator[Problem]:
    for culprit in blame(link for link in matrix.links if (link.rtt_seconds or 0) > SLOW_RTT):
        slowest = max(link.rtt_seconds or 0 for link in culprit.links)
        peer = plan.member(culprit.peers[0])
        yield Problem(
            id="network-slow",
            node=culprit.node,
            found=f"a round trip takes up to {slowest * 1000:.1f} ms with {', '.join(culprit.peers)}",
            expected=f"under {SLOW_RTT * 1000:g} ms between the nodes of a cluster",
            remedy=f"`tracepath -n {peer.address}` on {culprit.node} shows the way: a VPN, another site, a "
            "full link?",
            severity="warning",
        )
