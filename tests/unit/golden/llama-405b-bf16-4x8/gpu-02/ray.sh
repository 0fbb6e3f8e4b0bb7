#!/bin/sh
# Ray worker of cluster llama-405b-bf16 on gpu-02, in the foreground.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/enter.sh" \
  ray start \
    --address 10.0.0.11:6379 \
    --node-ip-address 10.0.0.12 \
    --node-name gpu-02 \
    --num-gpus 8 \
    --object-store-memory 1000000000 \
    --disable-usage-stats \
    --block
