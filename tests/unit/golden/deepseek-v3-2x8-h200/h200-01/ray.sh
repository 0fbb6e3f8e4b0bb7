#!/bin/sh
# Ray head of cluster deepseek-v3 on h200-01, in the foreground.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec sh "$here/enter.sh" \
  ray start \
    --head \
    --port 6379 \
    --include-dashboard=false \
    --node-ip-address 10.0.1.11 \
    --node-name h200-01 \
    --num-gpus 8 \
    --object-store-memory 1000000000 \
    --disable-usage-stats \
    --block
