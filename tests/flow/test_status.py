"""`clusterctl status`: the JSON that programs rely on, and the screen for a person."""

from __future__ import annotations

from collections.abc import Callable

import jsonschema
from fakes import FakeFleet, Outcome
from samples import GOOD

from cluster.steps import Result

Clusterctl = Callable[..., Outcome]


def an_object(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(properties)}


WHOLE, TEXT = {"type": "integer", "minimum": 0}, {"type": "string"}
SCHEMA = an_object(
    cluster=TEXT,
    state={"enum": ["serving", "starting", "degraded", "down"]},
    nodes={
        "type": "array",
        "items": an_object(
            name=TEXT,
            address=TEXT,
            role={"enum": ["head", "worker"]},
            node_rank=WHOLE,
            state=TEXT,
            gpus=an_object(expected=WHOLE, joined=WHOLE),
        ),
    },
    ray=an_object(nodes_alive=WHOLE, gpus_total=WHOLE),
    serve=an_object(
        url=TEXT,
        model=TEXT,
        ready={"type": "boolean"},
        tensor_parallel_size=WHOLE,
        pipeline_parallel_size=WHOLE,
    ),
    missing={"type": "array", "items": TEXT},
    last_words=TEXT,
)


def test_serving(clusterctl: Clusterctl) -> None:
    clusterctl("up")
    outcome = clusterctl("status", "--json")
    (status,) = outcome.events
    jsonschema.validate(status, SCHEMA)
    assert outcome.code == 0
    assert (status["cluster"], status["state"], status["missing"]) == ("demo", "serving", [])
    assert status["nodes"][1] == {
        "name": "gpu-02",
        "address": "10.0.0.12",
        "role": "worker",
        "node_rank": 1,
        "state": "joined",
        "gpus": {"expected": 2, "joined": 2},
        "containers": {"ray": "running"},
    }
    assert status["ray"] == {"nodes_alive": 2, "gpus_total": 4}
    assert status["serve"] == {
        "url": "http://10.0.0.11:8000",
        "model": "llama",
        "ready": True,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
    }


def test_the_screen(clusterctl: Clusterctl) -> None:
    clusterctl("up")
    assert [line.rstrip() for line in clusterctl("status").lines] == [
        "demo  serving",
        "llama, tensor parallel size 2 × pipeline parallel size 2, http://10.0.0.11:8000/v1",
        "",
        "node     address     role     rank   state    GPUs   containers",
        "gpu-01   10.0.0.11   head     0      joined   2/2    ray running, serve running",
        "gpu-02   10.0.0.12   worker   1      joined   2/2    ray running",
    ]


def test_down(clusterctl: Clusterctl) -> None:
    outcome = clusterctl("status", "--json")
    (status,) = outcome.events
    jsonschema.validate(status, SCHEMA)
    assert (outcome.code, status["state"]) == (1, "down")
    assert [node["state"] for node in status["nodes"]] == ["down", "down"]


def test_starting(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("up")
    refused = Result(1, "", "http://10.0.0.11:8000/v1/completions: [Errno 111] Connection refused\n")
    fleet.facts = {"gpu-01": {"answer": refused}}
    outcome = clusterctl("status", "--json")
    assert (outcome.code, outcome.events[0]["state"]) == (1, "starting")


def test_a_node_that_cannot_be_reached(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("up")
    fleet.nodes["gpu-02"].unreachable = "no answer from 10.0.0.12:22 within 10 s: is the node up?"
    outcome = clusterctl("status", "--json")
    (status,) = outcome.events
    assert (outcome.code, status["state"]) == (4, "degraded")
    assert status["nodes"][1]["state"] == "unreachable"
    assert "gpu-02: no answer from 10.0.0.12:22 within 10 s: is the node up?" in status["missing"]
    assert "! gpu-02: no answer from 10.0.0.12:22 within 10 s: is the node up?" in clusterctl("status").lines


def test_asking_changes_nothing(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("up")
    fleet.steps()
    clusterctl("status")
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_the_last_words_of_a_server_that_is_gone(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("up")
    assert clusterctl("status", "--json").events[0]["last_words"] == ""
    head = fleet.nodes["gpu-01"]
    head.containers["serve-gpu-01"]["State"] |= {"Running": False, "ExitCode": 1}
    head.logs["serve"] = "2026-11-21T05:24:26Z RuntimeError: no NCCL\n"
    fleet.facts = {"gpu-01": {"answer": Result(1, "container is not running\n", "")}}
    outcome = clusterctl("status", "--json")
    (status,) = outcome.events
    jsonschema.validate(status, SCHEMA)
    assert (outcome.code, status["state"], status["last_words"]) == (1, "degraded", "RuntimeError: no NCCL")
    assert clusterctl("status").lines[-4:] == [
        "! gpu-01: the serve container exited with code 1",
        "",
        "The server's last words (all of them: clusterctl logs):",
        "  RuntimeError: no NCCL",
    ]


def test_with_mp_a_running_rank_counts_its_gpus_as_joined(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(GOOD.replace("port: 8000", "port: 8000, executor_backend: mp"))
    clusterctl("up")
    outcome = clusterctl("status", "--json")
    (status,) = outcome.events
    jsonschema.validate(status, SCHEMA)
    assert (outcome.code, status["state"]) == (0, "serving")
    assert status["ray"] == {"nodes_alive": 2, "gpus_total": 4}
    assert [node["gpus"] for node in status["nodes"]] == [{"expected": 2, "joined": 2}] * 2
    assert "ray_nodes" not in fleet.nodes["gpu-01"].asked
