"""vLLM's CPU platform, made known to vLLM's Ray executor; lands on a node as the plugin
`clusterctl_cpu_platform`.

vLLM refuses Ray on CPUs for one reason only: CpuPlatform names no Ray resource ("current platform cpu does
not support ray."). With one, the real Ray executor places real ranks over real nodes that have no GPU, which
is how a deployment is rehearsed on a laptop. The Ray nodes are started with `--num-gpus N`: N ranks, each of
them a "GPU" to Ray.

It is a platform plugin (https://docs.vllm.ai/en/latest/design/plugin_system/) and not a general plugin,
because the latter is loaded too late for Ray's workers. vLLM finds it through the entry point in the
.dist-info folder beside it, wherever both are on PYTHONPATH. It must stay inert elsewhere: it is active only
if the environment asks for it.
"""

from __future__ import annotations

import os
from typing import Any

from vllm.platforms.cpu import CpuPlatform

# Not VLLM_...: vLLM warns about every variable with its own prefix that it does not know.
SWITCH = "CLUSTERCTL_CPU_PLATFORM"


def activate() -> str | None:
    """The entry point: the platform to use instead of vLLM's own choice, or None for "not mine"."""
    return f"{__name__}.RayCpuPlatform" if os.environ.get(SWITCH) == "1" else None


class RayCpuPlatform(CpuPlatform):
    """vLLM's CPU platform on Ray nodes that were started with `--num-gpus`."""

    ray_device_key = "GPU"

    # The two classes are named by path, because their modules need the platform that is being resolved while
    # this module is imported.

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        return "clusterctl_cpu_communicator.HostAwareCpuCommunicator"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        super().check_and_update_config(vllm_config)
        parallel = vllm_config.parallel_config
        if parallel.worker_cls == "vllm.v1.worker.cpu_worker.CPUWorker":
            parallel.worker_cls = "clusterctl_cpu_worker.PipelineCpuWorker"
        if parallel.distributed_executor_backend == "ray":
            # CpuPlatform asks for "spawn" to bind OpenMP threads. Here the ranks, which have them, are Ray's
            # children; the one child is the engine core, and forking it saves importing vLLM a second time (9
            # s on 2 cores).
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
