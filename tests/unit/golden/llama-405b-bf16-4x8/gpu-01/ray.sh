#!/bin/sh
# Ray head of cluster llama-405b-bf16 on gpu-01, in the foreground.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/enter.sh" \
  ray start \
    --head \
    --port 6379 \
    --include-dashboard=false \
    --node-ip-address 10.0.0.11 \
    --node-name gpu-01 \
    --num-gpus 8 \
    --object-store-memory 1000000000 \
    --disable-usage-stats \
    --block
