#!/bin/sh
# gpu-01 (10.0.0.11): node rank 0, head of cluster llama-405b.
# Rendered by clusterctl 0.1.0. It works by hand on this node too:
#   sh run_cluster.sh ray      start Ray here; the head first, then the workers
#   sh run_cluster.sh nodes    which nodes and GPUs have joined
#   sh run_cluster.sh serve    start vLLM, once every node has joined
#   sh run_cluster.sh ask      have the model answer
#   sh run_cluster.sh observe  what the server says of itself: /health and its counters
#   sh run_cluster.sh verify   measure what the GPUs of all nodes carry, on every node at once
#   sh run_cluster.sh attest   with which environment Ray's and vLLM's processes run
#   sh run_cluster.sh logs ray|serve
#   sh run_cluster.sh exec COMMAND...
#   sh run_cluster.sh down     stop and remove what this script started
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ray=clusterctl-llama-405b-ray
serve=clusterctl-llama-405b-serve

die() {
  echo "run_cluster.sh on gpu-01: $*" >&2
  exit 1
}

# Exit code 3 says that waiting is in vain.
dead() {
  echo "$1 is not running: $(state_of "$1")" >&2
  exit 3
}

# Which one is being started, as clusterctl numbers them; by hand and without the file it is 0.
generation() {
  cat "$here/generation" 2>/dev/null || echo 0
}

# What has to be there before anything is started.
prepare() {
  # The interface that carries this node's address.
  interface=$(ip -o -4 addr show 2>/dev/null |
    awk -v a=10.0.0.11 '{ split($4, b, "/"); if (b[1] == a) { print $2; exit } }')
  [ -n "$interface" ] || die "no interface carries 10.0.0.11: correct the node's address, or set its interface"
}

mounted=/clusterctl

start_ray() {
  set -- \
    --detach \
    --name clusterctl-llama-405b-ray \
    --label clusterctl.cluster=llama-405b \
    --label clusterctl.node=gpu-01 \
    --label clusterctl.role=ray \
    --label clusterctl.port=6379 \
    --network host \
    --entrypoint sh \
    --ipc shareable \
    --volume /tmp \
    --shm-size 16g \
    --mount type=bind,source=/data/models,target=/models,readonly \
    --gpus all
  prepare
  set -- "$@" --volume "$here:$mounted:ro" --env-file "$here/env" --env CLUSTERCTL_TMP=/tmp/clusterctl
  set -- "$@" --env "NCCL_SOCKET_IFNAME==$interface"
  set -- "$@" --env "GLOO_SOCKET_IFNAME=$interface"
  set -- "$@" --env "TP_SOCKET_IFNAME=$interface"
  # What clusterctl chose from this node's facts; without the file NCCL chooses by itself.
  if [ -f "$here/network.env" ]; then
    set -- "$@" --env-file "$here/network.env"
  fi
  if [ -d /dev/infiniband ] && [ -n "$(ls /sys/class/infiniband 2>/dev/null)" ]; then
    set -- "$@" --device /dev/infiniband --cap-add IPC_LOCK --ulimit memlock=-1:-1
  fi

  docker run "$@" --label clusterctl.digest=84889e45d4f1b6f6 \
    --label "clusterctl.generation=$(generation)" registry.local/vllm-ray:v0.33.0 "$mounted/ray.sh"
}

start_serve() {
  set -- \
    --detach \
    --name clusterctl-llama-405b-serve \
    --label clusterctl.cluster=llama-405b \
    --label clusterctl.node=gpu-01 \
    --label clusterctl.role=serve \
    --label clusterctl.port=8000 \
    --network host \
    --entrypoint sh \
    --ipc container:clusterctl-llama-405b-ray \
    --pid container:clusterctl-llama-405b-ray \
    --volumes-from clusterctl-llama-405b-ray \
    --gpus all
  prepare
  set -- "$@" --volume "$here:$mounted:ro" --env-file "$here/env" --env CLUSTERCTL_TMP=/tmp/clusterctl
  set -- "$@" --env "NCCL_SOCKET_IFNAME==$interface"
  set -- "$@" --env "GLOO_SOCKET_IFNAME=$interface"
  set -- "$@" --env "TP_SOCKET_IFNAME=$interface"
  # What clusterctl chose from this node's facts; without the file NCCL chooses by itself.
  if [ -f "$here/network.env" ]; then
    set -- "$@" --env-file "$here/network.env"
  fi
  if [ -d /dev/infiniband ] && [ -n "$(ls /sys/class/infiniband 2>/dev/null)" ]; then
    set -- "$@" --device /dev/infiniband --cap-add IPC_LOCK --ulimit memlock=-1:-1
  fi

  docker run "$@" --label clusterctl.digest=09c645effe65f0dd \
    --label "clusterctl.generation=$(generation)" registry.local/vllm-ray:v0.33.0 "$mounted/serve.sh"
}

running() {
  [ "$(docker inspect --format '{{.State.Running}}' "$1" 2>/dev/null)" = true ]
}

state_of() {
  docker inspect --format \
    '{{.State.Status}}, exit code {{.State.ExitCode}}, out of memory: {{.State.OOMKilled}}' "$1" 2>/dev/null ||
    echo "no such container"
}

inside() {
  name=$1
  shift
  docker exec "$name" sh "$mounted/enter.sh" "$@"
}

# Before Docker 23 `exec` may hang for ever where its container ends beside it (moby#44892).
ask_inside() {
  name=$1
  shift
  timeout 90 docker exec "$name" sh "$mounted/enter.sh" "$@"
}

logs_of() {
  name=$1
  shift
  docker logs --timestamps "$@" "$name" 2>&1
}

down() {
  [ $# -gt 0 ] || set -- "$serve" "$ray"
  for name in "$@"; do
    docker stop -t 10 "$name" >/dev/null 2>&1 || :
    docker rm --force --volumes "$name" >/dev/null 2>&1 || :
  done
}

verb=${1:-help}
[ $# -eq 0 ] || shift
case $verb in
  ray) start_ray ;;
  nodes)
    running "$ray" || dead "$ray"
    ask_inside "$ray" python3 "$mounted/on_node/ray_nodes.py" 10.0.0.11:6379
    ;;
  serve) start_serve ;;
  ask)
    running "$serve" || dead "$serve"
    ask_inside "$serve" python3 "$mounted/on_node/completion.py" \
      --url http://10.0.0.11:8000 --model llama-405b "$@"
    ;;
  observe)
    running "$serve" || dead "$serve"
    ask_inside "$serve" python3 "$mounted/on_node/observe.py" http://10.0.0.11:8000 "$@"
    ;;
  ready)
    sh "$0" ask "$@" && exit 0 || code=$?
    # A server dies of a node that is gone, or waits half an hour for its GPUs: which one is it?
    sh "$0" nodes 2>/dev/null || :
    logs_of "$serve" --tail 300
    exit "$code"
    ;;
  verify)
    running "$ray" || dead "$ray"
    inside "$ray" python3 "$mounted/on_node/collectives.py" \
      --head 10.0.0.11 \
    --port 29511 \
    --node-rank 0 \
    --gpus 8,8 \
    --backend nccl \
    --stride 8 \
    --start-limit 60 \
    --stage-limit 20 \
    --total-limit 120
    ;;
  attest)
    running "$ray" || dead "$ray"
    inside "$ray" python3 "$mounted/on_node/environments.py" --wait 20 "$mounted" NCCL_SOCKET_IFNAME GLOO_SOCKET_IFNAME TP_SOCKET_IFNAME
    ;;
  logs)
    case ${1:-serve} in
      ray) name=$ray ;;
      *) name=$serve ;;
    esac
    [ $# -eq 0 ] || shift
    logs_of "$name" "$@"
    ;;
  running)
    case ${1:-} in
      ray) running "$ray" ;;
      *) running "$serve" ;;
    esac
    ;;
  exec) inside "$ray" "$@" ;;
  down) down "$@" ;;
  *)
    sed -n '2,/^set -eu/{ s/^# \{0,1\}//p; }' "$0"
    exit 2
    ;;
esac
