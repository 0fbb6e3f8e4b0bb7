"""`clusterctl check` over nodes that are functions: words, exit codes, and nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from fakes import FakeFleet, Outcome
from samples import GOOD

from cluster.steps import Result

Clusterctl = Callable[..., Outcome]
NO_RAY = Result(0, '{"python": "3.12.3", "ray": null, "vllm": "0.33.0"}\n', "")
LOOPBACK = Result(0, "os=Debian GNU/Linux 12 (bookworm)\nhostname=gpu-02\nresolves_to=127.0.1.1\n", "")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


WEIGHTS = {"name": "model.safetensors", "size": 269060552}


def with_model(config: dict[str, object]) -> Result:
    model = {"path": "/models/m", "there": True, "config": config, "files": [WEIGHTS]}
    answer = {"python": "3.12.3", "ray": "2.60.0", "vllm": "0.33.0", "model": model}
    return Result(0, json.dumps(answer) + "\n", "")


def test_healthy_nodes(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    outcome = clusterctl("check")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.lines[0].split()[:4] == ["node", "system", "engine", "GPUs"]
    assert "2 × H200 140 GiB" in outcome.lines[1]
    assert "0.05 ms 10.0 Gb/s" in outcome.out
    assert outcome.lines[-1] == "2 nodes: no problems; nothing stops `clusterctl up`"
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_problems_with_their_ids_and_remedies(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {"gpu-01": {"inside": NO_RAY}, "gpu-02": {"system": LOOPBACK}}
    outcome = clusterctl("check")
    assert outcome.code == 5
    error = next(number for number, line in enumerate(outcome.lines) if line.startswith("error"))
    assert outcome.lines[error] == (
        "error  gpu-01  the image registry.local/vllm-ray:v0.33.0 has no ray; "
        "expected: ray beside vllm [image-no-ray]"
    )
    assert outcome.lines[error + 1].startswith("  Build one with it: ")
    assert outcome.lines[error + 2] == (
        "warning  gpu-02  its own name gpu-02 resolves to 127.0.1.1; expected: 10.0.0.12 [gloo-loopback]"
    )
    assert outcome.lines[-1] == "2 nodes: 1 error and 1 warning; `clusterctl up` would stop here"
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_for_programs(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {"gpu-01": {"inside": NO_RAY}}
    fleet.links = {("gpu-01", "gpu-02"): {"mtu_passes": False}}
    outcome = clusterctl("check", "--json", "--ignore", "image-no-ray")
    (answer,) = outcome.events
    assert (outcome.code, answer["ok"]) == (5, False)
    assert [(p["id"], p["severity"]) for p in answer["problems"]] == [("mtu-mismatch", "error")]
    assert set(answer["problems"][0]) == {"id", "severity", "node", "found", "expected", "remedy"}
    assert [(p["id"], p["node"]) for p in answer["ignored"]] == [("image-no-ray", "gpu-01")]
    assert answer["facts"]["gpu-02"]["gpus"][0]["name"] == "NVIDIA H200"
    assert len(answer["network"]["links"]) == 2


def test_quick_measures_nothing_and_reads_no_file(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.links = {("gpu-01", "gpu-02"): {"mtu_passes": False}}
    (answer,) = clusterctl("check", "--quick", "--json").events
    assert (answer["ok"], answer["network"]) == (True, None)


def test_a_node_that_cannot_be_reached(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.nodes[
        "gpu-02"
    ].unreachable = "permission denied for ops@10.0.0.12 with the agent's keys: check ssh.user"
    outcome = clusterctl("check", "--json")
    (answer,) = outcome.events
    assert (outcome.code, answer["ok"]) == (4, False)
    assert [(p["id"], p["node"]) for p in answer["problems"]] == [("ssh-auth-denied", "gpu-02")]
    assert set(answer["facts"]) == {"gpu-01"} and set(answer["unreachable"]) == {"gpu-02"}


@pytest.mark.parametrize("command", ["check", "up"])
def test_an_id_that_no_check_has(clusterctl: Clusterctl, fleet: FakeFleet, command: str) -> None:
    outcome = clusterctl(command, "--ignore", "disk-ful")
    assert outcome.code == 2
    assert outcome.err.startswith("error: --ignore disk-ful: no check has this id; did you mean disk-full?\n")
    assert fleet.opened == []


def test_up_says_what_it_passes_over_and_status_remembers(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {"gpu-02": {"system": LOOPBACK}}
    fleet.links = {("gpu-01", "gpu-02"): {"mtu_passes": False}}
    outcome = clusterctl("up", "--ignore", "mtu-mismatch")
    assert outcome.code == 0
    assert outcome.lines[0].startswith("warning  gpu-02  its own name gpu-02 resolves to 127.0.1.1")
    assert outcome.lines[2].startswith("ignored  gpu-02")
    for node in fleet.nodes.values():
        assert node.files["ignored"] == "mtu-mismatch\n"
    ignored = Result(0, "mtu-mismatch\n", "")
    fleet.facts = {name: {"ignored": ignored} for name in fleet.nodes}
    assert "started with problems that were ignored: mtu-mismatch" in clusterctl("status").lines


def test_the_same_problem_stops_up_where_it_is_not_ignored(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.links = {("gpu-01", "gpu-02"): {"mtu_passes": False}}
    outcome = clusterctl("up")
    assert outcome.code == 5 and "[mtu-mismatch]" in outcome.err
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_up_predicts_and_status_compares(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(GOOD.replace("gpus: 2", "gpus: 1").replace("max_model_len: 4096", "max_model_len: 1024"))
    reported = "GPU KV cache size: 23,296 tokens, Maximum concurrency for 1,024 tokens per request: 22.75x\n"
    fleet.facts = {
        name: {"inside": with_model(CONFIG), "kv_cache": Result(0, reported, "")} for name in fleet.nodes
    }
    events = clusterctl("up", "--json").events
    (prediction,) = (event for event in events if event["event"] == "prediction")
    assert (prediction["parameters"], prediction["fits"]) == (134_515_008, True)
    cache = clusterctl("status", "--json").events[0]["kv_cache"]
    assert cache["reported"] == {"kv_tokens": 23296, "max_concurrency": 22.75}
    assert cache["predicted"]["kv_tokens"] == prediction["kv_tokens"]
    assert any(
        line.startswith("KV cache, tokens") and "23,296" in line for line in clusterctl("status").lines
    )


def test_a_tensor_parallel_size_that_the_model_cannot_have(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {name: {"inside": with_model(CONFIG)} for name in fleet.nodes}
    outcome = clusterctl("check", "--json")
    assert outcome.code == 5
    assert [(p["id"], p["node"]) for p in outcome.events[0]["problems"]] == [("tp-heads", "gpu-01")]


def test_a_node_that_cannot_be_reached_cannot_be_passed_over(
    clusterctl: Clusterctl, fleet: FakeFleet
) -> None:
    outcome = clusterctl("check", "--ignore", "ssh-unreachable")
    assert (outcome.code, fleet.opened) == (2, [])
    assert (
        outcome.err
        == "error: --ignore ssh-unreachable: a node that cannot be reached cannot be passed over\n"
    )


def test_what_was_not_there_to_be_ignored_is_not_written_down(
    clusterctl: Clusterctl, fleet: FakeFleet
) -> None:
    assert clusterctl("up", "--ignore", "disk-full").code == 0
    assert all("ignored" not in node.files for node in fleet.nodes.values())


def test_a_cluster_that_serves_is_left_alone_whatever_check_says(
    clusterctl: Clusterctl, fleet: FakeFleet
) -> None:
    assert clusterctl("up").code == 0
    fleet.facts = {"gpu-01": {"disks": Result(0, "uses=home\n/dev/vda 1000000 999999 1 100% /\n", "")}}
    assert clusterctl("check").code == 5
    assert (clusterctl("up").code, clusterctl("up").lines[0].split(":")[0]) == (0, "nothing to do")


def test_programs_are_told_why_up_stopped(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {"gpu-01": {"inside": NO_RAY}}
    outcome = clusterctl("up", "--json")
    (event,) = outcome.events
    assert (outcome.code, event["event"], event["id"]) == (5, "error", "image-no-ray")


def test_secrets_stay_out_of_what_is_shown(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {
        "gpu-01": {
            "files": Result(0, f"{'a' * 64}  ./secrets.env\n{'b' * 64}  ./env\n", ""),
            "last_words": Result(0, "ValueError: HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz0123456789\n", ""),
        }
    }
    outcome = clusterctl("check", "--json")
    assert "secrets.env" not in outcome.out and "hf_abcdef" not in outcome.out
    assert outcome.events[0]["facts"]["gpu-01"]["files"] == {"env": "b" * 64}
