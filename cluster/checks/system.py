"""The node under the engine: its name, interface, ports, disks, memory, route, proxies."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from cluster.errors import Problem
from cluster.facts import Facts
from cluster.facts.hardware import Disk
from cluster.plan import Member, Plan

GIBIBYTE = 1024**3
# Below the first, nothing can be started; Ray warns when a disk is fuller than the second.
LEAST_FREE = {"engine": GIBIBYTE, "home": 64 * 1024**2, "tmp": GIBIBYTE, "cache": GIBIBYTE}
FULL = 0.95
# vLLM's --master-port (vllm/config/parallel.py).
MASTER_PORT = 29501
# vLLM's image alone is tens of GB unpacked.
ROOM_FOR_AN_IMAGE = 40 * GIBIBYTE


def own_name(_: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """Gloo binds to what the node's name resolves to, wherever no interface is named to it."""
    inside = facts.inside.resolves_to if facts.inside is not None else ()
    addresses = inside or (facts.system.resolves_to if facts.system is not None else ())
    if member.node.is_local or not addresses or not all(a.startswith("127.") for a in addresses):
        return
    name = facts.system.hostname if facts.system is not None else member.name
    yield Problem(
        "gloo-loopback",
        member.name,
        f"its own name {name} resolves to {', '.join(addresses)}",
        member.address,
        f"In /etc/hosts on {member.name}: `{member.address} {name}`, and no line with {addresses[0]} for it; "
        "clusterctl tells Gloo which interface to take, but others bind to loopback",
        "warning",
    )


def interface(_: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if member.node.is_local or not facts.interfaces:
        return
    has = ", ".join(f"{name} {' '.join(one.addresses)}" for name, one in facts.interfaces.items())
    carrying = [name for name, one in facts.interfaces.items() if member.address in one.addresses]
    if member.interface is None and not carrying:
        yield Problem(
            "nccl-wrong-iface",
            member.name,
            f"no interface carries the address {member.address}",
            f"one of: {has}",
            "Put the address that the other nodes reach into the inventory; a name for SSH alone is ssh.host",
        )
    if member.interface is not None and member.interface not in facts.interfaces:
        yield Problem(
            "nccl-no-iface",
            member.name,
            f"no interface {member.interface} with an IPv4 address",
            f"one of: {has}",
            "Correct the interface",
        )
    for name in carrying:
        if not facts.interfaces[name].up:
            yield Problem(
                "nccl-no-iface",
                member.name,
                f"the interface {name} is down",
                "up",
                f"Run `ip link set {name} up` on {member.name}",
            )


def ports(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    wanted = []
    if plan.uses_ray and member.role == "head":
        wanted.append(("ray", plan.ray.port, "ray.port", "ray-port-in-use"))
    if member.role == "head":
        wanted.append(("serve", plan.serve.port, "serve.port", "api-port-in-use"))
    if not plan.uses_ray and member.role == "head" and plan.workers:
        port = plan.serve_arg("master_port") or MASTER_PORT
        if isinstance(port, int) and port in facts.listening and facts.container("serve") is None:
            yield Problem(
                "master-port-in-use",
                member.name,
                f"port {port} (serve.args.master_port) is taken by another program",
                "a free port",
                f"`ss -ltnp 'sport = :{port}'` on {member.name} says which; stop it, or set another",
            )
    if member.role == "head" and plan.gpus > 1 and plan.verify_port in facts.listening:
        yield verify_port_taken(member.name, plan.verify_port)
    for role, port, key, id_ in wanted:
        ours = facts.container(role)
        if port in facts.listening and not (ours and ours.running and ours.port in ("", str(port))):
            yield Problem(
                id_,
                member.name,
                f"port {port} ({key}) is taken by another program",
                "a free port",
                f"`ss -ltnp 'sport = :{port}'` on {member.name} says which; stop it, or set {key}",
            )


def verify_port_taken(node: str, port: int) -> Problem:
    """Found before anything is changed, or by `verify` itself."""
    return Problem(
        "verify-port-in-use",
        node,
        f"port {port} (network.verify_port) is taken by another program",
        "a free port",
        f"`ss -ltnp 'sport = :{port}'` on {node} says which; stop it, or set network.verify_port",
    )


def disks(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    seen: set[tuple[int, int]] = set()
    for disk in facts.disks:
        if (disk.free, disk.total) in seen or not _matters(plan, disk, facts):
            continue
        problem = _disk(plan, member, disk, facts)
        if problem is not None:
            seen.add((disk.free, disk.total))
            yield problem


def _matters(plan: Plan, disk: Disk, facts: Facts) -> bool:
    """The cache is for models that have to be fetched; with containers Ray writes into the engine's disk."""
    model = facts.model
    if disk.use == "cache":
        return not plan.model.source.startswith("/") and (model is None or not model.there)
    return disk.use != "tmp" or plan.runtime.engine == "process"


def _disk(plan: Plan, member: Member, disk: Disk, facts: Facts) -> Problem | None:
    to_pull = disk.use == "engine" and facts.image_id is None and plan.runtime.pull != "never"
    place = f"{disk.path} ({disk.use})"
    found = f"{disk.free / GIBIBYTE:.1f} of {disk.total / GIBIBYTE:.1f} GiB are free on {place}"
    look = f"Run `df -h {disk.path}` on {member.name} and make room"
    if disk.use == "engine":
        look += f": `{plan.runtime.engine} image prune` removes images without a name that nothing uses"
    least = LEAST_FREE.get(disk.use, 0)
    if disk.free < least:
        return Problem("disk-full", member.name, found, f"at least {least / GIBIBYTE:.2g} GiB", look)
    if to_pull and disk.free < ROOM_FOR_AN_IMAGE:
        wanted = (
            f"about {ROOM_FOR_AN_IMAGE // GIBIBYTE} GiB for an image with vLLM that is still to be pulled"
        )
        return Problem("disk-full", member.name, found, wanted, look, "warning")
    if disk.total and disk.free < (1 - FULL) * disk.total and disk.use != "home":
        return Problem("disk-full", member.name, found, f"less than {FULL:.0%} in use", look, "warning")
    return None


def memory(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """Weights pass through the node's memory on their way to the GPUs, and stay in it on a CPU."""
    model = facts.model
    available = facts.system.memory_available if facts.system is not None else None
    if model is None or available is None or any(container.running for container in facts.containers):
        return
    share = model.weight_bytes / len(plan.members)
    wanted = share if plan.runtime.device == "cpu" else share / max(1, member.node.gpus)
    if wanted and available < wanted:
        yield Problem(
            "host-oom",
            member.name,
            f"{available / GIBIBYTE:.1f} GiB of memory are available",
            f"at least {wanted / GIBIBYTE:.1f} GiB to load this node's part of {plan.model.source}",
            f"`ps aux --sort=-rss | head` on {member.name} says what holds it",
            "error" if plan.runtime.device == "cpu" else "warning",
        )


def route(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """Ray and vLLM are told their addresses, so only downloads need a way out."""
    if member.node.is_local or facts.default_route is not None or not facts.interfaces:
        return
    model = facts.model
    to_fetch = [
        *([plan.runtime.image or ""] if facts.image_id is None and plan.runtime.pull != "never" else []),
        *([plan.model.source] if model is not None and model.cached and not model.there else []),
    ]
    if to_fetch:
        yield Problem(
            "no-default-route",
            member.name,
            f"no default route, and {' and '.join(to_fetch)} to be fetched",
            "a way to the registry or the model hub",
            f"Run `ip route` on {member.name}; or put the image and the model there beforehand",
            "warning",
        )


def proxies(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """Ray's gRPC takes no proxy unless RAY_grpc_enable_http_proxy asks for it (ray_constants.py, 2.60)."""
    if facts.inside is None or member.node.is_local:
        return
    variables = {name.lower(): value for name, value in facts.inside.proxies.items()}
    proxy = next(
        (n for n in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy") if variables.get(n)), None
    )
    without = variables.get("no_proxy", "")
    sent = [other.address for other in plan.members if not _excepted(other.address, without)]
    if proxy is None or not sent:
        return
    enabled = dict(member.env).get("RAY_grpc_enable_http_proxy", "0").lower() in ("1", "true")
    yield Problem(
        "proxy-env",
        member.name,
        f"{proxy} is {variables[proxy]} in the container, and no_proxy leaves out {', '.join(sent)}",
        "the addresses of all nodes in no_proxy",
        f'Set env: {{no_proxy: "{",".join(m.address for m in plan.members)}"}}, and NO_PROXY the same',
        "error" if enabled else "warning",
    )


def _excepted(address: str, no_proxy: str) -> bool:
    return any(_covers(entry.strip(), address) for entry in no_proxy.split(",") if entry.strip())


def _covers(entry: str, address: str) -> bool:
    try:
        return ip_address(address) in ip_network(entry, strict=False)
    except ValueError:  # a name, or the end of one
        return entry == "*" or address.endswith(entry.lstrip("*"))


def strangers(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """vLLM would place ranks on any node of the Ray cluster that it joins."""
    ours = {other.address for other in plan.members}
    for node in (facts.ray_nodes or ()) if member.role == "head" else ():
        if node.alive and node.address not in ours:
            yield Problem(
                "ray-stranger",
                member.name,
                f"{node.name} ({node.address}) is in this Ray cluster, but not in the inventory",
                "the inventory's nodes and no others",
                "Put it back into the inventory; or run `clusterctl down` with it there, and then without it",
            )
