"""Idle, busy, slow, wedged, dead: what a served model is doing, judged from outside. Pure.

What may be believed of vLLM (0.32, v1 engine):

- `/health` answers 503 where the engine process is gone (EngineDeadError), and 200 where it is there and
  stands still: vllm/v1/engine/async_llm.py, check_health.
- The series in `counters.MARKS` are set by what the engine sends after a step, and by nothing else; those of
  the HTTP server (http_requests_total, vllm:admission_rejections) move also where the engine stands still.
- A chunk of a prompt moves no token counter: prompt_tokens and iteration_tokens_total are counted with the
  first token of the answer (vllm/v1/metrics/stats.py, update_from_output). But every step sends the
  scheduler's state, also where no request has an output (vllm/v1/core/sched/scheduler.py,
  update_from_output), and kv_cache_usage_perc grows with each chunk. So it is among the marks. What stays
  hidden is a single step that takes longer than `watch.wedged_after`, or a prompt in chunks on a model whose
  KV cache does not grow (sliding windows, state space models).
- A request that its client gives up moves no counter by itself (output_processor.abort_requests), so that
  our own question cannot be what moves them, unless it was answered.

Wedged therefore needs both, for `watch.wedged_after` seconds that were watched: no mark moved, and a
completion that was asked for meanwhile got no answer. A question that waits behind a long queue is no sign:
marks move.

Questions are rare: at once where requests are there and no mark moved since the last look, or where a node
cannot be reached; else one each `wedged_after` seconds. An idle server that wedges is found within twice
that.
"""

from cluster.liveness.counters import Counters, counters
from cluster.liveness.history import History, Settings
from cluster.liveness.judge import ask_due, heal_due, judge
from cluster.liveness.look import completion, observation
from cluster.liveness.model import SERVING, Completion, Liveness, Observation, State

__all__ = [
    "SERVING",
    "Completion",
    "Counters",
    "History",
    "Liveness",
    "Observation",
    "Settings",
    "State",
    "ask_due",
    "completion",
    "counters",
    "heal_due",
    "judge",
    "observation",
]
