"""vLLM flags that an inventory may not carry: those that are gone, and those that clusterctl sets itself.

Source of the gone ones: `vllm serve --help=all` of 0.33 against the flags of 0.6 to 0.32.
"""

from __future__ import annotations

GONE: dict[str, str] = {
    "swap-space": "the V1 engine recomputes instead of swapping; see kv-offloading-size",
    "disable-log-requests": "logging requests is off by default; enable-log-requests turns it on",
    "worker-use-ray": "set serve.executor_backend: ray",
    "engine-use-ray": "set serve.executor_backend: ray",
    "device": "set runtime.device",
    "task": "use runner and convert",
    "rope-scaling": "use hf-overrides: {rope_scaling: ...}",
    "rope-theta": "use hf-overrides: {rope_theta: ...}",
    "guided-decoding-backend": "use structured-outputs-config: {backend: ...}",
    "use-v2-block-manager": "it is the only one now",
    "num-scheduler-steps": "the V1 engine has no multi-step scheduling; see async-scheduling",
    "multi-step-stream-outputs": "the V1 engine has no multi-step scheduling; see async-scheduling",
    "max-seq-len-to-capture": "use max-cudagraph-capture-size",
    "max-context-len-to-capture": "use max-cudagraph-capture-size",
    "cuda-graph-sizes": "use cudagraph-capture-sizes",
    "num-lookahead-slots": "use speculative-config",
    "speculative-model": "use speculative-config: {model: ...}",
    "num-speculative-tokens": "use speculative-config: {num_speculative_tokens: ...}",
    "ngram-prompt-lookup-max": "use speculative-config: {prompt_lookup_max: ...}",
    "preemption-mode": "the V1 engine always recomputes",
    "scheduler-delay-factor": "the V1 engine's scheduler has none",
    "tokenizer-pool-size": "use renderer-num-workers",
    "disable-frontend-multiprocessing": "the V1 engine always runs in a process of its own",
    "enable-reasoning": "reasoning-parser alone turns it on",
    "lora-extra-vocab-size": "LoRA adapters can no longer add vocabulary",
    "long-lora-scaling-factors": "it was removed without a successor",
    "disable-async-output-proc": "the V1 engine always processes output asynchronously",
    "max-num-partial-prefills": "it was removed without a successor; see max-num-batched-tokens",
    "max-long-partial-prefills": "it was removed without a successor; see max-num-batched-tokens",
    "calculate-kv-scales": "put the scales into the checkpoint",
    "quantization-param-path": "put the scales into the checkpoint",
    "disable-mm-preprocessor-cache": "use mm-processor-cache-gb: 0",
    "override-neuron-config": "use additional-config",
    "override-pooler-config": "use pooler-config",
    "num-redundant-experts": "use eplb-config: {num_redundant_experts: ...}",
}

OURS: dict[str, str] = {
    "model": "set model.source",
    "served-model-name": "set model.served_name",
    "revision": "set model.revision",
    "host": "set serve.host",
    "port": "set serve.port",
    "tensor-parallel-size": "set serve.tensor_parallel_size",
    "tp": "set serve.tensor_parallel_size",
    "pipeline-parallel-size": "set serve.pipeline_parallel_size",
    "pp": "set serve.pipeline_parallel_size",
    "distributed-executor-backend": "set serve.executor_backend",
    "nnodes": "it follows from nodes",
    "node-rank": "it follows from nodes and head",
    "master-addr": "it is the head's address",
    "headless": "it follows from serve.executor_backend",
    "api-key": "a key does not belong on a command line: secrets: {VLLM_API_KEY: {env: VLLM_API_KEY}}",
    "hf-token": "a token does not belong on a command line: secrets: {HF_TOKEN: {env: HF_TOKEN}}",
}

UNSUPPORTED: dict[str, str] = {
    "uds": "clients and clusterctl itself come over TCP; leave it out",
    "config": "write its keys into serve.args",
    "ssl-certfile": "it asks over http; put TLS into a proxy before it",
    "ssl-keyfile": "it asks over http; put TLS into a proxy before it",
}


def flag(key: str) -> str:
    """The flag of a YAML key, without the leading dashes: `max_model_len` -> `max-model-len`."""
    head, dot, rest = key.partition(".")
    return head.replace("_", "-") + dot + rest


def why_not(key: str) -> str | None:
    """Why `serve.args` may not have this key, or None."""
    name = flag(key)
    if name in GONE:
        return f"vLLM no longer has --{name}: {GONE[name]}"
    if name.startswith("no-") and name[3:] in GONE:
        return f"vLLM no longer has --{name}: {GONE[name[3:]]}"
    if name in UNSUPPORTED:
        return f"clusterctl does not work with --{name}: {UNSUPPORTED[name]}"
    if name in OURS:
        return f"clusterctl sets --{name} itself: {OURS[name]}"
    return None
