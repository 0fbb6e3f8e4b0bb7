"""The command lines of docker and podman, which take the same words but for GPUs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from cluster.plan import Member, Plan
from cluster.steps import Argv

LABEL = "clusterctl."
MOUNTED_AT = "/clusterctl"
STOP_TIMEOUT = "10"
LONGEST_ANSWER = "90"  # seconds, of a question in a container; a completion itself may take 60

# Least privilege that RDMA needs: the devices, and pinned memory without a limit.
HAS_INFINIBAND = '[ -d /dev/infiniband ] && [ -n "$(ls /sys/class/infiniband 2>/dev/null)" ]'
INFINIBAND: Argv = ("--device", "/dev/infiniband", "--cap-add", "IPC_LOCK", "--ulimit", "memlock=-1:-1")


def ray_options(plan: Plan, member: Member) -> Argv:
    """Options of `run` for a Ray container, but for what only the node knows (interface, HCAs, folder)."""
    return (
        *_identity(plan, member, "ray"),
        # The server's container joins this one's /dev/shm and /tmp: Ray's driver talks to its raylet, and
        # vLLM's engine to its workers, through files and sockets there.
        *("--ipc", "shareable"),
        *("--volume", "/tmp"),
        *_own_container(plan, member),
    )


def serve_options(plan: Plan, member: Member) -> Argv:
    """Options of `run` for the server's container: next to Ray's, or on its own with mp."""
    if not plan.uses_ray:
        return (*_identity(plan, member, "serve"), *_own_container(plan, member))
    return (
        *_identity(plan, member, "serve"),
        *("--ipc", f"container:{plan.ray_container}"),
        # A Ray driver finds its node by looking for the raylet's process (ray/_private/services.py,
        # find_node_ids); without it: "No node info found matching attributes".
        *("--pid", f"container:{plan.ray_container}"),
        *("--volumes-from", plan.ray_container),
        *_gpus(plan),
        *_privileges(plan),
        *plan.runtime.extra_args,
    )


def verify_options(plan: Plan, member: Member) -> Argv:
    """Options of `run` for a container that measures where there is no Ray's, and that is then gone."""
    labels = (("cluster", plan.cluster), ("node", member.name), ("role", "probe"))
    return (
        "--rm",
        *(word for key, value in labels for word in ("--label", f"{LABEL}{key}={value}")),
        *("--network", "host"),
        *("--entrypoint", "sh"),
        *_own_container(plan, member),
    )


def _identity(plan: Plan, member: Member, role: str) -> Argv:
    port = plan.ray.port if role == "ray" else plan.serve.port
    labels = (("cluster", plan.cluster), ("node", member.name), ("role", role), ("port", str(port)))
    return (
        "--detach",
        *("--name", plan.ray_container if role == "ray" else plan.serve_container),
        *(word for key, value in labels for word in ("--label", f"{LABEL}{key}={value}")),
        *("--network", "host"),
        *("--entrypoint", "sh"),
    )


def _own_container(plan: Plan, member: Member) -> Argv:
    return (
        *("--shm-size", plan.runtime.shm_size),
        *mounts(member),
        *_gpus(plan),
        *_privileges(plan),
        *plan.runtime.extra_args,
    )


def mounts(member: Member) -> Argv:
    """The user's mounts. Unlike --volume, --mount refuses a source that is not there, and makes none."""
    return tuple(word for mount in member.mounts for word in ("--mount", _bind(mount)))


def _bind(mount: str) -> str:
    source, target, *mode = mount.split(":")
    return f"type=bind,source={source},target={target}{',readonly' if mode == ['ro'] else ''}"


def probe(plan: Plan, member: Member, question: Argv, *more: str) -> Argv:
    """Run Python in a container of the image that is set up as Ray's, and gone when it ends."""
    return (
        *(plan.runtime.engine, "run", "--rm", "--network", "host", "--entrypoint", "python3"),
        *("--label", f"{LABEL}cluster={plan.cluster}", "--label", f"{LABEL}role=probe"),
        *(word for name, value in member.env for word in ("--env", f"{name}={value}")),
        *_own_container(plan, member),
        *(*more, plan.runtime.image or "", *question),
    )


def probe_on_node(plan: Plan, member: Member, question: Argv) -> str:
    """The same for sh: as run_cluster.sh does, it passes InfiniBand in where the node has some."""
    with_infiniband = shlex.join(probe(plan, member, (), *INFINIBAND))
    without = shlex.join(probe(plan, member, ()))
    ask = f'if {HAS_INFINIBAND}; then {with_infiniband} "$@"; else {without} "$@"; fi'
    return f"set -- {shlex.join(question)}\n{ask}"


def _gpus(plan: Plan) -> Argv:
    if plan.runtime.device == "cpu":
        return ()
    if plan.runtime.engine == "podman":
        return ("--device", "nvidia.com/gpu=all")
    return ("--gpus", "all")


def _privileges(plan: Plan) -> Argv:
    return ("--privileged",) if plan.runtime.privileged else ()


def stop(engine: str, containers: Iterable[str]) -> Argv:
    """Stop containers (docker 28 renamed --time, not -t).

    Seconds suffice: Ray's drain is set to 0, see plan.py, and vLLM takes under 3.
    """
    return (engine, "stop", "-t", STOP_TIMEOUT, *containers)


def remove(engine: str, containers: Iterable[str]) -> Argv:
    """Remove containers with their anonymous volumes (/tmp)."""
    return (engine, "rm", "--force", "--volumes", *containers)


def pull(engine: str, image: str) -> Argv:
    """Fetch an image from its registry."""
    return (engine, "pull", "--quiet", image)
