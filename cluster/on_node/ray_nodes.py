"""Which nodes a Ray cluster has, dead ones included, as one JSON object on stdout.

    python3 ray_nodes.py HOST:PORT        HOST:PORT is the GCS, i.e. what `ray start --address` takes

    {"nodes": [{"id", "address", "name", "head", "alive", "gpus", "gpus_free", "reason"}, ...],
     "gpus_reserved": 2}

`ray status` is no help to a program: a node that died simply vanishes from it, after some 15 s, and where
there is no GCS it takes 41 s to say so. This asks the GCS itself, after a TCP probe, and exits with 1 and a
one-line reason within about 3 s. A GPU that a placement group holds is reserved, whether or not anything runs
on it: what is left is what vLLM can still get.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
from typing import Any, NoReturn

PROBE_TIMEOUT_S = 2.5
ANSWER_TIMEOUT_S = 10.0
ALIVE = 0  # GcsNodeInfo.GcsNodeState.ALIVE


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the nodes of a Ray cluster as JSON.")
    parser.add_argument("address", type=host_and_port, help="HOST:PORT of the GCS")
    host, port = parser.parse_args().address
    probe(host, port)
    watchdog = start_watchdog(f"{host}:{port} accepts connections but has not answered as a Ray GCS does")
    print(json.dumps(ask(f"{host}:{port}")))
    watchdog.cancel()


def host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return host.strip("[]"), int(port)


def give_up(reason: str) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    # Not sys.exit: it would wait for Ray's threads, and from the watchdog's thread it would end nothing.
    os._exit(1)


def probe(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), PROBE_TIMEOUT_S).close()
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        give_up(f"no Ray GCS at {host}:{port}: {why}")


def start_watchdog(reason: str) -> threading.Timer:
    """Ray's client retries in C++ for most of a minute, with no timeout that covers connecting."""
    timer = threading.Timer(ANSWER_TIMEOUT_S, give_up, [f"{reason} within {ANSWER_TIMEOUT_S:g} s"])
    timer.daemon = True
    timer.start()
    return timer


def silence_native_code() -> None:
    """Ray's C++ client writes its retries to file descriptor 2, whatever RAY_BACKEND_LOG_LEVEL says; keep
    ours.
    """
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def ask(address: str) -> dict[str, Any]:
    silence_native_code()
    try:
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    except ImportError as error:
        give_up(f"Ray cannot be imported by {sys.executable}: {error}")
    try:
        client = GcsClient(address=address)
        infos = list(client.get_all_node_info().values())
        status = GetClusterStatusReply.FromString(client.get_cluster_status())
    except Exception as error:  # Ray raises a dozen kinds of its own here; all of them mean "no answer"
        give_up(
            f"the Ray GCS at {address} gave no list of nodes: {str(error).strip() or type(error).__name__}"
        )
    states = status.cluster_resource_state.node_states
    return summary(infos, {state.node_id: gpus_in(state.available_resources) for state in states})


def summary(infos: list[Any], free: dict[bytes, int]) -> dict[str, Any]:
    """`infos` are Ray's GcsNodeInfo; `free` is how many GPUs of a node no placement group or actor holds."""
    nodes = [node(info, free.get(info.node_id, 0)) for info in infos]
    nodes.sort(key=lambda one: (not one["alive"], not one["head"], one["address"]))
    reserved = sum(one["gpus"] - one["gpus_free"] for one in nodes if one["alive"])
    return {"nodes": nodes, "gpus_reserved": reserved}


def node(info: Any, free: int) -> dict[str, Any]:
    alive = info.state == ALIVE
    return {
        "id": info.node_id.hex(),
        "address": info.node_manager_address,
        "name": info.node_name,
        "head": info.is_head_node,
        "alive": alive,
        "gpus": gpus_in(info.resources_total),
        "gpus_free": free if alive else 0,
        "reason": "" if alive else info.death_info.reason_message,
    }


def gpus_in(resources: Any) -> int:
    return int(dict(resources).get("GPU", 0))


if __name__ == "__main__":
    main()
