"""Command lines, word for word."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from samples import PROCESS, plan

from cluster.argv import docker, ray, vllm
from cluster.steps import Argv


def test_ray_head() -> None:
    assert ray.start(plan(), plan().head) == (
        *("ray", "start", "--head"),
        *("--port", "6379"),
        "--include-dashboard=false",
        *("--node-ip-address", "10.0.0.11"),
        *("--node-name", "gpu-01"),
        *("--num-gpus", "2"),
        *("--object-store-memory", "1000000000"),
        *("--disable-usage-stats", "--block"),
    )


def test_ray_worker() -> None:
    changed = plan({"ray": {"port": 6380, "dashboard": True}})
    assert ray.start(changed, changed.workers[0]) == (
        *("ray", "start"),
        *("--address", "10.0.0.11:6380"),
        *("--node-ip-address", "10.0.0.12"),
        *("--node-name", "gpu-02"),
        *("--num-gpus", "2"),
        *("--object-store-memory", "1000000000"),
        *("--disable-usage-stats", "--block"),
    )
    assert "--include-dashboard=true" in ray.start(changed, changed.head)


def test_vllm_over_ray() -> None:
    changed = plan({"model.revision": "abc"})
    assert vllm.serve(changed, changed.head) == (
        *("vllm", "serve", "meta-llama/Llama-3.1-8B"),
        *("--host", "0.0.0.0"),
        *("--port", "8000"),
        *("--served-model-name", "llama"),
        *("--revision", "abc"),
        *("--tensor-parallel-size", "2"),
        *("--pipeline-parallel-size", "2"),
        *("--distributed-executor-backend", "ray"),
        *("--max-model-len", "4096"),
    )


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        (0, ("--nnodes", "2", "--node-rank", "0", "--master-addr", "10.0.0.11")),
        (1, ("--nnodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.11", "--headless")),
    ],
)
def test_vllm_spans_the_nodes_itself_with_mp(rank: int, words: Argv) -> None:
    changed = plan({"serve.executor_backend": "mp"})
    argv = vllm.serve(changed, changed.members[rank])
    assert argv[argv.index("mp") + 1 : argv.index("--max-model-len")] == words


def test_mp_on_one_node_spans_nothing() -> None:
    one = plan({"nodes": [{"name": "n", "address": "10.0.0.1", "gpus": 2}], "serve.executor_backend": "mp"})
    assert "--nnodes" not in vllm.serve(one, one.head)


def test_vllm_on_the_cpu_is_a_module() -> None:
    local = plan(base=PROCESS)
    assert vllm.serve(local, local.head)[:5] == (
        *("python3", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", "/models/SmolLM2-135M-Instruct"),
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("max_model_len", 4096, ("--max-model-len", "4096")),
        ("gpu-memory-utilization", 0.9, ("--gpu-memory-utilization", "0.9")),
        ("quantization", "fp8", ("--quantization", "fp8")),
        ("enable_prefix_caching", True, ("--enable-prefix-caching",)),
        ("enable_prefix_caching", False, ("--no-enable-prefix-caching",)),
        (
            "hf_overrides",
            {"rope_scaling": {"factor": 4}},
            ("--hf-overrides", '{"rope_scaling":{"factor":4}}'),
        ),
        ("lora_modules", ["a=/a", "b=/b"], ("--lora-modules", "a=/a", "b=/b")),
        ("lora_modules", [{"name": "a", "path": "/a"}], ("--lora-modules", '{"name": "a", "path": "/a"}')),
        ("cc.cudagraph_mode", "NONE", ("--cc.cudagraph_mode", "NONE")),
        ("chat_template", "a'b; $(id)", ("--chat-template", "a'b; $(id)")),
    ],
    ids=str,
)
def test_any_flag_of_vllm(key: str, value: Any, words: Argv) -> None:
    assert vllm.option(key, value) == words


IDENTITY = (
    *("--label", "clusterctl.cluster=demo"),
    *("--label", "clusterctl.node=gpu-01"),
)


def test_the_ray_container() -> None:
    changed = plan({"runtime": {"image": "x", "mounts": ["/a:/b:ro"], "extra_args": ["--pids-limit=-1"]}})
    assert docker.ray_options(changed, changed.head) == (
        *("--detach", "--name", "clusterctl-demo-ray"),
        *IDENTITY,
        *("--label", "clusterctl.role=ray"),
        *("--label", "clusterctl.port=6379"),
        *("--network", "host"),
        *("--entrypoint", "sh"),
        *("--ipc", "shareable"),
        *("--volume", "/tmp"),
        *("--shm-size", "16g"),
        *("--mount", "type=bind,source=/a,target=/b,readonly"),
        *("--gpus", "all"),
        "--pids-limit=-1",
    )


def test_the_server_lives_in_rays_namespaces_and_sees_its_mounts() -> None:
    assert docker.serve_options(plan(), plan().head) == (
        *("--detach", "--name", "clusterctl-demo-serve"),
        *IDENTITY,
        *("--label", "clusterctl.role=serve"),
        *("--label", "clusterctl.port=8000"),
        *("--network", "host"),
        *("--entrypoint", "sh"),
        *("--ipc", "container:clusterctl-demo-ray"),
        *("--pid", "container:clusterctl-demo-ray"),
        *("--volumes-from", "clusterctl-demo-ray"),
        *("--gpus", "all"),
    )


def test_with_mp_the_server_has_a_container_of_its_own() -> None:
    changed = plan({"serve.executor_backend": "mp"})
    assert docker.serve_options(changed, changed.head) == (
        *("--detach", "--name", "clusterctl-demo-serve"),
        *IDENTITY,
        *("--label", "clusterctl.role=serve"),
        *("--label", "clusterctl.port=8000"),
        *("--network", "host"),
        *("--entrypoint", "sh"),
        *("--shm-size", "16g"),
        *("--gpus", "all"),
    )


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ({"engine": "podman"}, ("--device", "nvidia.com/gpu=all")),
        ({"device": "cpu"}, ()),
        ({"privileged": True}, ("--gpus", "all", "--privileged")),
    ],
    ids=str,
)
def test_gpus_and_privileges(runtime: dict[str, Any], words: Argv) -> None:
    changed = plan({f"runtime.{key}": value for key, value in runtime.items()})
    options = docker.ray_options(changed, changed.head)
    assert options[options.index("16g") + 1 :] == words


def test_the_rest_of_docker() -> None:
    assert docker.stop("docker", ("a", "b")) == ("docker", "stop", "-t", "10", "a", "b")
    assert docker.remove("podman", ("a",)) == ("podman", "rm", "--force", "--volumes", "a")
    assert docker.pull("docker", "x:1") == ("docker", "pull", "--quiet", "x:1")


def test_a_probe_is_gone_when_it_ends_and_sees_the_mounts() -> None:
    changed = plan({"runtime": {"image": "x", "mounts": ["/a:/b"]}, "nodes.1.mounts": ["/c:/d:ro"]})
    worker = changed.workers[0]
    assert docker.probe(changed, worker, ("-c", "import ray")) == (
        *("docker", "run", "--rm", "--network", "host", "--entrypoint", "python3"),
        *("--label", "clusterctl.cluster=demo"),
        *("--label", "clusterctl.role=probe"),
        *(word for name, value in worker.env for word in ("--env", f"{name}={value}")),
        *("--shm-size", "16g"),
        *("--mount", "type=bind,source=/a,target=/b"),
        *("--mount", "type=bind,source=/c,target=/d,readonly"),
        *("--gpus", "all"),
        *("x", "-c", "import ray"),
    )


def test_a_probe_gets_infiniband_where_the_node_has_some() -> None:
    script = docker.probe_on_node(plan(), plan().head, ("-c", "print('it')"))
    words = shlex.join(docker.INFINIBAND)
    assert script.startswith("set -- -c 'print('\"'\"'it'\"'\"')'\nif [ -d /dev/infiniband ]")
    assert script.count(words) == 1 and script.count('registry.local/vllm-ray:v0.33.0 "$@"') == 2
