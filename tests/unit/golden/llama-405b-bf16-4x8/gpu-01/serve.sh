#!/bin/sh
# vLLM of cluster llama-405b-bf16 on gpu-01, in the foreground.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# vLLM reads from here which variables of the head its Ray workers must not inherit.
mkdir -p "$CLUSTERCTL_TMP/vllm"
cp "$here/vllm/ray_non_carry_over_env_vars.json" "$CLUSTERCTL_TMP/vllm/"
export VLLM_CONFIG_ROOT="$CLUSTERCTL_TMP/vllm"
exec sh "$here/enter.sh" \
  vllm serve /models/Llama-3.1-405B-Instruct \
    --host 0.0.0.0 \
    --port 8000 \
    --served-model-name llama-405b \
    --tensor-parallel-size 8 \
    --pipeline-parallel-size 4 \
    --distributed-executor-backend ray \
    --max-model-len 131072 \
    --enable-prefix-caching \
    --distributed-timeout-seconds 3600
