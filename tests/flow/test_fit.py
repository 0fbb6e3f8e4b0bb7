"""`clusterctl fit` from the command line: with an inventory, and with sizes and a GPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import Outcome

from cluster import cli

MODELS = Path(__file__).parents[1] / "unit" / "models"
LLAMA = str(MODELS / "llama-3.1-70b.json")
EXAMPLES = Path(__file__).parents[2] / "examples"
INVENTORY = """\
cluster: demo
ssh: {{user: ops}}
runtime: {{engine: docker, image: "registry.local/vllm-ray:v0.33.0", mounts: ["{mount}:/models:ro"]}}
model: {{source: {source}}}
serve: {{args: {args}}}
nodes:
  - {{name: gpu-01, address: 10.0.0.11, gpus: 8{gpu}}}
  - {{name: gpu-02, address: 10.0.0.12, gpus: 8{gpu}}}
"""
Fit = Callable[..., Outcome]


@pytest.fixture
def fit(capsys: pytest.CaptureFixture[str]) -> Fit:
    def call(*argv: str) -> Outcome:
        code = cli.main(["fit", *argv])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """An inventory of two nodes of eight GPUs, and a folder with a model that it mounts as /models."""
    folder = tmp_path / "models" / "llama"
    folder.mkdir(parents=True)
    shutil.copy(LLAMA, folder / "config.json")

    def inventory(**changes: str) -> str:
        keys = {
            "mount": str(tmp_path / "models"),
            "source": "/models/llama",
            "gpu": ", gpu_model: H100-80G",
            "args": "{}",
        }
        file = tmp_path / "inventory.yaml"
        file.write_text(INVENTORY.format(**{**keys, **changes}))
        return str(file)

    return inventory


def answer(outcome: Outcome) -> dict[str, Any]:
    assert len(outcome.out.splitlines()) == 1
    found = json.loads(outcome.out)
    assert isinstance(found, dict)
    return found


def test_sizes_and_a_gpu(fit: Fit) -> None:
    outcome = fit("--config", LLAMA, "--gpu", "H100-80G", "--nodes", "2", "--gpus-per-node", "8", "--json")
    found = answer(outcome)
    assert (outcome.code, found["parameters"], found["kv_bytes_per_token"]) == (0, 70_553_706_496, 327_680)
    assert found["weight_bytes"] == 141_107_412_992
    first = found["choices"][0]
    assert (first["tensor_parallel_size"], first["pipeline_parallel_size"]) == (8, 2)
    assert first["kv_bytes_per_token_per_rank"] == 20_480
    assert set(first) >= {"data_parallel_size", "fits", "kv_tokens", "max_concurrency", "max_context", "why"}
    assert not any(choice["fits"] for choice in found["choices"] if choice["weight_bytes_per_rank"] is None)


def test_a_table_for_people(fit: Fit) -> None:
    outcome = fit("--config", LLAMA, "--gpu", "NVIDIA H200", "--gpus-per-node", "8", "--context", "32768")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("llama: 70,553,706,496 parameters, 131.42 GiB, 320.0 KiB of KV cache a token")
    assert lines[1] == "1 node with 8 GPUs each, H200-141G of 139.80 GiB"
    assert lines[4].split()[:5] == ["*", "8", "1", "1", "yes"]
    assert "× 32,768" in lines[4]


def test_nothing_fits(fit: Fit) -> None:
    outcome = fit("--config", LLAMA, "--gpu", "24GB")
    assert outcome.code == 1
    assert "GiB more than a GPU has" in outcome.out
    assert "*" not in outcome.out


def test_flags_of_vllm_count(fit: Fit) -> None:
    base = ["--config", LLAMA, "--gpu", "80GB", "--gpus-per-node", "4", "--json"]
    plain = answer(fit(*base))["choices"][0]
    flags = ["--quantization", "fp8", "--kv-cache-dtype", "fp8", "--gpu-memory-utilization", "0.8"]
    found = answer(fit(*base, *flags))
    assert found["kv_bytes_per_token"] == 163_840
    assert found["choices"][0]["weight_bytes_per_rank"] < 0.6 * plain["weight_bytes_per_rank"]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "error: an INVENTORY is needed, or --config CONFIG.JSON with --gpu"),
        (["--config", LLAMA], "error: an INVENTORY is needed, or --config CONFIG.JSON with --gpu"),
        (["--config", LLAMA, "--gpu", "X1"], "error: gpu: 'X1' is not known"),
        (["--config", "/no/such.json", "--gpu", "H200"], "error: /no/such.json: No such file or directory"),
        (["--config", LLAMA, "--gpu", "H200", "--nodes", "0"], "Error: Invalid value for '--nodes'"),
        (["--config", LLAMA, "--gpu", "H200", "--fabric", "token"], "Error: Invalid value for '--fabric'"),
    ],
)
def test_wrong_usage(fit: Fit, argv: list[str], complaint: str) -> None:
    outcome = fit(*argv)
    assert (outcome.code, outcome.out) == (2, "")
    assert complaint in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(("text", "complaint"), [("[1]", "expected a mapping"), ("{", "it is not JSON")])
def test_a_config_that_is_none(fit: Fit, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "config.json").write_text(text)
    outcome = fit("--config", str(tmp_path), "--gpu", "H200")
    assert outcome.code == 2
    assert outcome.err == f"error: {tmp_path}/config.json: {complaint}\n"


def test_an_inventory_whose_own_sizes_fit(fit: Fit, write: Callable[..., str]) -> None:
    """The config.json is found through the mount, the GPU in the nodes."""
    outcome = fit(write(args="{max_model_len: 131072}"), "--json")
    found = answer(outcome)
    assert (outcome.code, found["fits"], found["gpu"]) == (0, True, "H100-80G")
    own = found["choices"][0]
    assert (own["tensor_parallel_size"], own["pipeline_parallel_size"], own["max_model_len"]) == (
        8,
        2,
        131_072,
    )
    assert [
        c for c in found["choices"][1:] if (c["tensor_parallel_size"], c["data_parallel_size"]) == (8, 1)
    ] == []


def test_an_inventory_whose_own_sizes_do_not_fit(fit: Fit, write: Callable[..., str]) -> None:
    outcome = fit(write(args="{max_model_len: 131072, data_parallel_size: 1}"), "--gpu", "T4")
    assert outcome.code == 1
    assert outcome.out.splitlines()[4].split()[:5] == ["*", "8", "2", "1", "no"]


def test_the_command_line_wins_over_the_inventory(fit: Fit, write: Callable[..., str]) -> None:
    file = write(args="{max-model-len: 4096, gpu_memory_utilization: 0.5}")
    first, second = (
        answer(fit(file, "--json", *more))["choices"][0]
        for more in ([], ["--gpu-memory-utilization", "0.9", "--context", "8192"])
    )
    assert (first["max_model_len"], second["max_model_len"]) == (4_096, 8_192)
    assert second["kv_tokens"] > first["kv_tokens"]


def test_exact_bytes_from_the_index_beside_the_config(
    fit: Fit, write: Callable[..., str], tmp_path: Path
) -> None:
    index = tmp_path / "models" / "llama" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 141_107_412_992 + 4_096}, "weight_map": {}}))
    assert answer(fit(write(), "--json"))["weight_bytes"] == 141_107_412_992 + 4_096
    other = tmp_path / "other.json"
    other.write_text("{}")
    outcome = fit("--config", LLAMA, "--index", str(other), "--gpu", "H200")
    assert (outcome.code, outcome.err) == (2, f"error: {other}: it has no metadata.total_size\n")


def test_an_index_beside_an_inventory(fit: Fit, write: Callable[..., str], tmp_path: Path) -> None:
    index = tmp_path / "other.json"
    index.write_text(json.dumps({"metadata": {"total_size": 141_107_412_992 + 4_096}, "weight_map": {}}))
    outcome = fit(write(), "--index", str(index), "--json")
    assert answer(outcome)["weight_bytes"] == 141_107_412_992 + 4_096


def test_exact_bytes_from_a_single_file_of_weights(fit: Fit, tmp_path: Path) -> None:
    shutil.copy(MODELS / "smollm2-135m.json", tmp_path / "config.json")
    header = b'{"__metadata__":{"format":"pt"}}'
    with (tmp_path / "model.safetensors").open("wb") as weights:
        weights.write(len(header).to_bytes(8, "little") + header)
        weights.truncate(8 + len(header) + 269_030_016 + 64)
    found = answer(fit("--config", str(tmp_path), "--gpu", "T4", "--json"))
    assert found["weight_bytes"] == 269_030_016 + 64


def test_a_model_in_hugging_faces_cache(
    fit: Fit, write: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "hub" / "models--org--llama" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copy(LLAMA, snapshot / "config.json")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    here = partial(hub.try_to_load_from_cache, cache_dir=tmp_path / "hub")
    monkeypatch.setattr(hub, "try_to_load_from_cache", here)
    assert fit(write(source="org/llama")).code == 0
    assert fit(write(source="org/other")).code == 2


def test_a_config_that_is_nowhere(fit: Fit, write: Callable[..., str]) -> None:
    outcome = fit(write(source="/models/other"))
    assert outcome.code == 2
    assert "model.source: /models/other: its config.json is not on this machine" in outcome.err
    assert "--config" in outcome.err


def test_gpus_of_an_inventory(fit: Fit, write: Callable[..., str]) -> None:
    outcome = fit(write(gpu=""))
    assert outcome.code == 2
    assert "no node says which GPU it has; write nodes[].gpu_model (H100-80G), or give --gpu" in outcome.err
    wrong = fit(write(gpu=", gpu_model: X1"))
    assert wrong.code == 3
    assert "nodes[0].gpu_model: gpu: 'X1' is not known" in wrong.err
    sizes = fit(write(), "--nodes", "2")
    assert (sizes.code, "leave them out" in sizes.err) == (2, True)


def test_nodes_with_unequal_gpus_have_their_own_sizes_alone(fit: Fit, tmp_path: Path) -> None:
    text = INVENTORY.format(mount="/m", source="/models/x", gpu=", gpu_model: H200", args="{}")
    file = tmp_path / "inventory.yaml"
    file.write_text(
        text.replace("gpus: 8, gpu_model: H200}\n  -", "gpus: 4, gpu_model: A100-80G}\n  -").replace(
            "serve: {", "serve: {tensor_parallel_size: 4, pipeline_parallel_size: 3, "
        )
    )
    found = answer(fit(str(file), "--config", LLAMA, "--json"))
    assert [(c["tensor_parallel_size"], c["pipeline_parallel_size"]) for c in found["choices"]] == [(4, 3)]
    assert found["gpu"] == "A100-80G"


def test_the_lab_without_gpus(fit: Fit, tmp_path: Path) -> None:
    """What vLLM printed on two lab hosts with SmolLM2 and 256M of KV cache: 23,296 tokens."""
    shutil.copy(MODELS / "smollm2-135m.json", tmp_path / "config.json")
    args = "{dtype: bfloat16, max_model_len: 1024, kv_cache_memory_bytes: 256M}"
    text = INVENTORY.format(mount="/m", source=tmp_path, gpu="", args=args)
    file = tmp_path / "lab.yaml"
    file.write_text(text.replace("gpus: 8", "gpus: 1").replace("engine: docker", "device: cpu"))
    outcome = fit(str(file), "--json")
    assert (outcome.code, answer(outcome)["choices"][0]["kv_tokens"]) == (0, 23_296)
    file.write_text(file.read_text().replace(", kv_cache_memory_bytes: 256M", ""))
    unknown = fit(str(file))
    assert unknown.code == 1
    assert "on the CPU the KV cache depends on free memory" in unknown.out


@pytest.mark.parametrize(
    ("example", "model", "gpu"),
    [
        ("llama-70b-2x8.yaml", "llama-3.1-70b", "H100-80G"),
        ("deepseek-v3-2x8-h200.yaml", "deepseek-v3", "H200-141G"),
        ("llama-405b-bf16-4x8.yaml", "llama-3.1-405b", "H100-80G"),
        ("llama-405b-fp8-2x8.yaml", "llama-3.1-405b-fp8", "H100-80G"),
        ("qwen2.5-72b-gptq-int4-1x2.yaml", "qwen2.5-72b-gptq-int4", "A100-80G"),
        ("mirror-and-private-registry.yaml", "llama-3.1-8b", "L4-24G"),
    ],
)
def test_the_examples_fit(fit: Fit, example: str, model: str, gpu: str) -> None:
    outcome = fit(str(EXAMPLES / example), "--config", str(MODELS / f"{model}.json"), "--gpu", gpu)
    assert outcome.code == 0
