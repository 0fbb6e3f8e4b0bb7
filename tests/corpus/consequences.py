"""How a failure looks in the driver's log, and what follows it: NCCL's lines, tracebacks of vLLM and Ray.

The form is that of NCCL 2.28 (src/debug.cc), of vLLM 0.32 and Ray 2.60 as the lab's captures in this folder
show it, and of PyTorch's torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.corpus.surroundings import COLOUR, ENGINE, PLAIN, Lines, Rank

SITE = "/opt/venv/lib/python3.12/site-packages"
API = "(APIServer pid=6349) "
Frames = tuple[tuple[str, str], ...]  # (place, code)

WORKER: Frames = (
    ("vllm/v1/executor/ray_executor_v2.py:188:initialize_worker", "super().__init__("),
    ("vllm/v1/executor/multiproc_executor.py:652:__init__", "self.worker.init_device()"),
)
FRAMES: dict[str, Frames] = {
    "none": (),
    "nccl": (
        ("vllm/v1/worker/gpu_worker.py:302:init_device", "init_worker_distributed_environment("),
        (
            "vllm/distributed/device_communicators/pynccl.py:139:__init__",
            "self.comm = self.nccl.ncclCommInitRank(",
        ),
        ("vllm/distributed/device_communicators/pynccl_wrapper.py:448:NCCL_CHECK", "raise RuntimeError("),
    ),
    "loading": (
        ("vllm/v1/executor/multiproc_executor.py:687:__init__", "self.worker.load_model()"),
        ("vllm/v1/worker/gpu_worker.py:594:load_model", "self.model_runner.load_model("),
    ),
}
ENGINE_STARTS: Frames = (
    ("vllm/v1/engine/core.py:1482:run_engine_core", "engine_core = EngineCoreProc(*args, **kwargs)"),
    ("vllm/v1/engine/core.py:144:__init__", "self.model_executor = executor_class(vllm_config)"),
)
ENGINE_WAITS: Frames = (
    ("vllm/v1/executor/ray_executor_v2.py:456:_init_executor", "ray.get(init_worker_refs)"),
    ("ray/_private/worker.py:1053:get_objects", "raise value.as_instanceof_cause()"),
)
API_STARTS: Frames = (
    ("vllm/v1/engine/async_llm.py:184:__init__", "self.engine_core = EngineCoreClient.make_async_mp_client("),
    ("vllm/v1/engine/utils.py:1431:wait_for_engine_startup", "raise RuntimeError("),
)
API_CONFIGURES: Frames = (
    (
        "vllm/entrypoints/launchers/api_server/entry.py:61:build_async_engine_client",
        "async with build_async(",
    ),
    ("vllm/engine/arg_utils.py:2017:create_engine_config", "parallel_config = ParallelConfig("),
)
ENGINE_SERVES: Frames = (
    ("vllm/v1/engine/core.py:1502:run_engine_core", "engine_core.run_busy_loop()"),
    ("vllm/v1/engine/core.py:1702:_handle_client_request", 'raise RuntimeError("Executor failed.")'),
)
API_SERVES: Frames = (
    ("vllm/v1/engine/async_llm.py:744:output_handler", "outputs = await engine_core.get_output_async()"),
    (
        "vllm/v1/engine/core_client.py:1207:get_output_async",
        "raise self._format_exception(outputs) from None",
    ),
)


def said_by(rank: Rank, text: str) -> Lines:
    return (rank.prefix + text,)


def said_by_driver(text: str) -> Lines:
    return (ENGINE + text,)


def nccl_info(rank: Rank, text: str) -> Lines:
    return (f"{rank.prefix}{rank.node}:{rank.pid}:{rank.pid} [{rank.device}] NCCL INFO {text}",)


def nccl_warn(rank: Rank, at: str, where: str, text: str) -> Lines:
    """An empty line, then time, place and text."""
    first, *more = text.split("\n")
    head = f"[2026-11-21 {at}] {rank.node}:{rank.pid}:{rank.pid} [{rank.device}] {where} NCCL WARN {first}"
    return (rank.prefix, rank.prefix + head, *(rank.prefix + line for line in more))


def nccl_trail(rank: Rank, code: int, *places: str) -> Lines:
    """The way that an error takes out of NCCL."""
    return tuple(line for place in places for line in nccl_info(rank, f"{place} -> {code}"))


def watchdog(rank: Rank, last: int = 40962) -> Lines:
    """A collective that timed out: checkTimeout and watchdogHandler."""
    head = f"{rank.prefix}[rank{rank.number}]:[E1121 06:26:41.42641{rank.number} ProcessGroupNCCL.cpp"
    who = f"[Rank {rank.number}]"
    work = (
        f"WorkNCCL(SeqNum={last + 1}, OpType=ALLREDUCE, NumelIn=131072, NumelOut=131072, Timeout(ms)=600000)"
    )
    return (
        f"{head}:629] {who} Watchdog caught collective operation timeout: {work} "
        "ran for 600081 milliseconds before timing out.",
        f"{head}:2168] [PG ID 2 PG GUID 3 Rank {rank.device}]  failure detected by watchdog at work sequence "
        f"id: {last + 1} PG status: last enqueued work: {last + 4}, last completed work: {last}",
        f"{head}:681] {who} Some NCCL operations have failed or timed out. Due to the asynchronous nature of "
        "CUDA kernels, subsequent GPU operations might run on corrupted/incomplete data.",
        f"{head}:695] {who} To avoid data inconsistency, we are taking the entire process down.",
    )


def rank_fails(rank: Rank, at: str, frames: str, error: str) -> Lines:
    """A rank's exception at the start: Ray raises it in the engine, the API server only sees that one die."""
    kind = error.split(":")[0].rpartition(".")[2]
    task = (
        f"ray.exceptions.RayTaskError({kind}): {COLOUR}ray::RayWorkerProc.initialize_worker(){PLAIN} "
        f"(pid={rank.pid}, ip={rank.address}, actor_id=89e1e7d24c94a7b68099a89101000000, "
        "repr=<vllm.v1.executor.ray_executor_v2.RayWorkerProc object at 0x7f3a1c0b5f10>)"
    )
    inside = (
        *traceback(ENGINE_STARTS + ENGINE_WAITS, task),
        *_frames(WORKER + FRAMES[frames]),
        *error.split("\n"),
    )
    return _engine_fails(at, inside)


def engine_fails(at: str, error: str) -> Lines:
    """The engine's own exception at the start."""
    return _engine_fails(at, traceback(ENGINE_STARTS, error))


def _engine_fails(at: str, inside: Iterable[str]) -> Lines:
    said = ("EngineCore failed to start.", *inside)
    log = tuple(f"{ENGINE}ERROR 11-21 {at} [core.py:1510] {line}" for line in said)
    error = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
    return (*log, *(API + line for line in traceback(API_STARTS, error)))


def api_server_fails(error: str) -> Lines:
    """An exception before there is an engine."""
    return tuple(API + line for line in traceback(API_CONFIGURES, error))


def ranks_die(at: str, ranks: list[int]) -> Lines:
    """What follows the death of ranks in a server that serves."""
    dead = "EngineCore encountered an issue. See stack trace (above) for the root cause."
    died = f"RayWorkerProc rank={ranks} died unexpectedly, shutting down executor."
    engine = traceback(ENGINE_SERVES, "RuntimeError: Executor failed.")
    output = traceback(API_SERVES, f"vllm.v1.engine.exceptions.EngineDeadError: {dead}")
    return (
        f"{ENGINE}ERROR 11-21 {at} [ray_executor_v2.py:521] {died}",
        *(
            f"{ENGINE}ERROR 11-21 {at} [core.py:1512] {line}"
            for line in ("EngineCore encountered a fatal error.", *engine)
        ),
        *(
            f"{API}ERROR 11-21 {at} [async_llm.py:787] {line}"
            for line in ("AsyncLLM output_handler failed.", *output)
        ),
        f'{API}INFO:     10.0.0.5:47580 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error',
        f"{API}INFO:     Shutting down",
        f"{API}INFO:     Finished server process [6349]",
    )


def traceback(frames: Frames, error: str) -> Iterator[str]:
    yield "Traceback (most recent call last):"
    yield from _frames(frames)
    yield from error.split("\n")


def _frames(frames: Frames) -> Iterator[str]:
    for place, code in frames:
        file, line, function = place.split(":")
        yield f'  File "{SITE}/{file}", line {line}, in {function}'
        yield f"    {code}"
