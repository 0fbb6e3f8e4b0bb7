"""vLLM that does not start, on a Ray of two nodes that is whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from cluster.lab import model
from cluster.lab.spec import Host
from tests.lab.cases import case
from tests.lab.stage import MODELS, Content, Stage

NAME = "smollm2"
PATH = f"{MODELS}/{NAME}"


def own_model(stage: Stage, *nodes: Host) -> Path:
    """The model's files, linked into a folder of these nodes alone; the last one's folder."""
    for node in stage.lab.hosts:
        shutil.rmtree(node.root / PATH.lstrip("/"), ignore_errors=True)
    for node in nodes:
        folder = node.root / PATH.lstrip("/")
        folder.mkdir(parents=True)
        for file in model.default_target().iterdir():
            os.link(file, folder / file.name)
    return folder


def replaced(folder: Path, name: str, content: bytes) -> None:
    """A file of its own instead of the link."""
    (folder / name).unlink()
    (folder / name).write_bytes(content)


def changed_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    replaced(folder, "config.json", json.dumps(config | values).encode())


def with_model(path: str = PATH, **arguments: Any) -> Any:
    def change(content: Content) -> None:
        content["model"]["source"] = path
        content["serve"]["args"] |= arguments

    return change


def with_arguments(**arguments: Any) -> Any:
    def change(content: Content) -> None:
        content["serve"]["args"] |= arguments

    return change


@case("the model's folder is on the head only", "model-path-missing", node=2, ray=True)
def vllm_model_missing_on_worker(stage: Stage) -> None:
    own_model(stage, stage.head)
    stage.serve(with_model())


@case("the model's path does not exist on any node", "model-path-missing", node=1, ray=True)
def vllm_model_missing(stage: Stage) -> None:
    stage.serve(with_model("/models/SmolLM2-135M-Instrct"))


@case("model.safetensors ends after 100 MB on the worker", "hf-cache-partial", node=2, ray=True)
def vllm_weights_truncated(stage: Stage) -> None:
    folder = own_model(stage, stage.head, stage.worker)
    whole = (folder / "model.safetensors").read_bytes()
    replaced(folder, "model.safetensors", whole[:100_000_000])
    stage.serve(with_model())


@case("model.safetensors is a Git LFS pointer on both nodes", "hf-cache-partial", node=None, ray=True)
def vllm_weights_are_a_pointer(stage: Stage) -> None:
    own_model(stage, stage.head, stage.worker)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 269060552\n"
    for node in stage.lab.hosts:
        replaced(node.root / PATH.lstrip("/"), "model.safetensors", pointer.encode())
    stage.serve(with_model())


@case(
    "config.json names an architecture that vLLM does not have",
    "other:architecture unknown",
    node=1,
    acceptable=("model-arch-unsupported",),
    ray=True,
)
def vllm_architecture_unknown(stage: Stage) -> None:
    own_model(stage, stage.worker)
    folder = own_model(stage, stage.head)
    changed_config(folder, architectures=["SmolLM9ForCausalLM"])
    stage.serve(with_model())


@case(
    "no tokenizer files in the model's folder",
    "other:tokenizer missing",
    node=1,
    acceptable=(
        "hf-cache-partial",
        "tokenizer-missing",
    ),
    ray=True,
)
def vllm_tokenizer_missing(stage: Stage) -> None:
    folder = own_model(stage, stage.head)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    stage.serve(with_model())


@case(
    "config.json with auto_map, without trust_remote_code",
    "other:trust_remote_code missing",
    node=1,
    acceptable=("trust-remote-code",),
    ray=True,
)
def vllm_remote_code(stage: Stage) -> None:
    folder = own_model(stage, stage.head)
    (folder / "configuration_smol.py").write_text("class SmolConfig: ...\n")
    changed_config(folder, model_type="smol", auto_map={"AutoConfig": "configuration_smol.SmolConfig"})
    stage.serve(with_model())


@case(
    "a Hugging Face id that is in no cache, with HF_HUB_OFFLINE=1",
    "other:offline and not in the cache",
    node=1,
    acceptable=("model-path-missing", "hf-cache-partial"),
    ray=True,
)
def vllm_hub_offline(stage: Stage) -> None:
    stage.serve(with_model("HuggingFaceTB/SmolLM2-360M-Instruct"))


@case(
    "a flag that vLLM does not know",
    "other:unknown vLLM flag",
    node=1,
    acceptable=("vllm-unknown-argument",),
    ray=True,
)
def vllm_flag_unknown(stage: Stage) -> None:
    stage.write_scripts()
    stage.edit(stage.head, "serve.sh", "--max-num-seqs 8", "--max-num-seqs 8 --num-scheduler-steps 8")
    stage.serve_as_written()


@case(
    "--dtype fp16, which is no dtype of vLLM",
    "other:invalid value of a vLLM flag",
    node=1,
    acceptable=("vllm-unknown-argument",),
    ray=True,
)
def vllm_dtype_unknown(stage: Stage) -> None:
    stage.serve(with_arguments(dtype="fp16"))


@case("tensor parallel size 2 for a model of 9 heads", "tp-heads", node=1, ray=True)
def vllm_tp_does_not_divide(stage: Stage) -> None:
    def change(content: Content) -> None:
        content["serve"] |= {"tensor_parallel_size": 2, "pipeline_parallel_size": 1}

    stage.serve(change)


@case("pipeline parallel size 3 on a cluster of two GPUs", "ray-missing-nodes", None, ray=True)
def vllm_world_larger_than_cluster(stage: Stage) -> None:
    stage.write_scripts()
    stage.edit(stage.head, "serve.sh", "--pipeline-parallel-size 2", "--pipeline-parallel-size 3")
    stage.serve_as_written("Waiting for creating a placement group of specs for 40 seconds", timeout=150)


@case("a context of 8192 tokens with 16 MiB of KV cache", "kv-too-small", node=None, ray=True)
def vllm_context_over_kv_cache(stage: Stage) -> None:
    stage.serve(with_arguments(max_model_len=8192, kv_cache_memory_bytes="16M"))


@case("8 KiB of KV cache, less than one block", "kv-too-small", node=None, ray=True)
def vllm_kv_cache_of_nothing(stage: Stage) -> None:
    stage.serve(with_arguments(kv_cache_memory_bytes=8192))


@case(
    "a context longer than the model's 8192 tokens",
    "other:max_model_len above the model's",
    node=1,
    acceptable=("max-len-too-long",),
    ray=True,
)
def vllm_context_over_model(stage: Stage) -> None:
    stage.serve(with_arguments(max_model_len=131072))


@case(
    "another program listens on port 8000 of the head", "api-port-in-use", node=1, ray=True, keeps_ray=False
)
def vllm_api_port_taken(stage: Stage) -> None:
    stage.background(stage.head, "/usr/bin/python3 -m http.server 8000")
    stage.serve()
