#!/bin/sh
# vLLM of cluster qwen-72b on gpu-01, in the foreground.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# vLLM reads from here which variables of the head its Ray workers must not inherit.
mkdir -p "$CLUSTERCTL_TMP/vllm"
cp "$here/vllm/ray_non_carry_over_env_vars.json" "$CLUSTERCTL_TMP/vllm/"
export VLLM_CONFIG_ROOT="$CLUSTERCTL_TMP/vllm"
exec sh "$here/enter.sh" \
  vllm serve /models/Qwen2.5-72B-Instruct-GPTQ-Int4 \
    --host 0.0.0.0 \
    --port 8000 \
    --served-model-name qwen2.5-72b \
    --tensor-parallel-size 2 \
    --pipeline-parallel-size 1 \
    --distributed-executor-backend mp \
    --max-model-len 32768 \
    --gpu-memory-utilization 0.92 \
    --enable-prefix-caching
