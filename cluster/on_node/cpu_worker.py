"""vLLM's CPU worker, for pipeline stages without compilation; a part of the plugin in cpu_platform.py.

The tensors in which a pipeline stage receives the output of the one before it are allocated by the first
dummy run. On the CPU that is the warm-up before compilation, which --enforce-eager skips, and the first
request ends in `assert self.intermediate_tensors is not None`. Tracing the model (`-cc.mode=1
-cc.backend=eager`) is the way round that needs no plugin; it costs 7 s of each start on 2 cores. Here the
tensors are allocated at the end of the warm-up, in the way the dummy run does it.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.parallel_state import get_pp_group
from vllm.v1.worker.cpu_worker import CPUWorker


class PipelineCpuWorker(CPUWorker):
    """Can be a later pipeline stage with --enforce-eager."""

    def compile_or_warm_up_model(self) -> Any:
        times = super().compile_or_warm_up_model()
        runner = self.model_runner
        if not get_pp_group().is_first_rank and getattr(runner, "intermediate_tensors", None) is None:
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=self.model_config.dtype, device=self.device
            )
        return times
