"""The program that lists the nodes of a Ray cluster, without Ray."""

from __future__ import annotations

import argparse
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cluster.on_node import ray_nodes


def info(
    name: str, address: str, *, state: int = 0, gpus: float = 8.0, head: bool = False, reason: str = ""
) -> SimpleNamespace:
    """As much of Ray's GcsNodeInfo as the program reads."""
    return SimpleNamespace(
        node_id=name.encode(),
        node_name=name,
        node_manager_address=address,
        state=state,
        is_head_node=head,
        resources_total={"CPU": 4.0, "GPU": gpus} if gpus else {"CPU": 4.0},
        death_info=SimpleNamespace(reason_message=reason),
    )


def test_the_head_first_and_the_dead_last_with_their_reason() -> None:
    summary = ray_nodes.summary(
        [
            info("gpu-03", "10.0.0.3", state=1, reason="health check failed"),
            info("gpu-02", "10.0.0.2"),
            info("gpu-01", "10.0.0.1", head=True),
        ],
        {b"gpu-01": 8, b"gpu-02": 3},
    )
    assert [node["name"] for node in summary["nodes"]] == ["gpu-01", "gpu-02", "gpu-03"]
    assert summary["nodes"][0] == {
        "id": b"gpu-01".hex(),
        "address": "10.0.0.1",
        "name": "gpu-01",
        "head": True,
        "alive": True,
        "gpus": 8,
        "gpus_free": 8,
        "reason": "",
    }
    assert summary["nodes"][2]["alive"] is False
    assert summary["nodes"][2]["reason"] == "health check failed"
    assert summary["nodes"][2]["gpus_free"] == 0
    assert summary["gpus_reserved"] == 5  # of the living ones: the dead hold nothing


def test_a_node_without_gpus() -> None:
    (node,) = ray_nodes.summary([info("cpu", "10.0.0.9", gpus=0)], {})["nodes"]
    assert (node["gpus"], node["gpus_free"]) == (0, 0)


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.0.0.1:6379", ("10.0.0.1", 6379)), ("gpu-01:1", ("gpu-01", 1)), ("[::1]:6379", ("::1", 6379))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert ray_nodes.host_and_port(text) == address


@pytest.mark.parametrize("text", ["10.0.0.1", ":6379", "10.0.0.1:http"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        ray_nodes.host_and_port(text)


def test_no_gcs_is_one_line_at_once_and_needs_no_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-S", ray_nodes.__file__, "127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no Ray GCS at 127.0.0.1:1: Connection refused\n"
