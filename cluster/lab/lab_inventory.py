"""The text of lab.yaml: the inventory that reaches the lab's hosts."""

from __future__ import annotations

import json

from cluster.lab.environment import MODEL_TARGET
from cluster.lab.spec import IMAGE, Lab


def inventory_text(lab: Lab) -> str:
    """Values are quoted as JSON strings, which are YAML strings too."""
    nodes = "".join(
        f"  - {{name: {host.name}, address: {host.address}, gpus: {lab.gpus}}}\n" for host in lab.hosts
    )
    return f"""\
# Written by `clusterctl lab up`: real hosts on this machine.
# `clusterctl lab down --name {lab.name}` removes them.
cluster: {lab.name}
ssh:
  user: root
  identity_file: {json.dumps(str(lab.client_key))}
  known_hosts: {json.dumps(str(lab.known_hosts))}
runtime:
{_runtime(lab)}\
network: {{interface: auto}}
model: {{source: {json.dumps(_model(lab))}, served_name: smollm2}}
serve:
  port: 8000
  args:
    dtype: bfloat16
    enforce_eager: true
    max_model_len: 1024
    max_num_seqs: 8
    kv_cache_memory_bytes: 256M
env: {{OMP_NUM_THREADS: "1", HF_HUB_OFFLINE: "1"}}
nodes:
{nodes}"""


def _runtime(lab: Lab) -> str:
    if not lab.engine:
        return f"""\
  engine: process # these hosts have no container engine
  device: cpu
  venv: {json.dumps(lab.venv)}
"""
    mounts = "".join(f"    - {json.dumps(mount)}\n" for mount in lab.mounts)
    return f"""\
  engine: docker
  device: cpu
  image: {IMAGE} # a few KB: directories and links; what runs in it is mounted
  pull: never
  shm_size: 1g
  mounts:
{mounts}"""


def _model(lab: Lab) -> str:
    """Without containers no mount gives the model its usual path: it is where this machine has it."""
    source = next((mount.split(":")[0] for mount in lab.mounts if mount.split(":")[1] == MODEL_TARGET), None)
    return MODEL_TARGET if lab.engine or source is None else source
