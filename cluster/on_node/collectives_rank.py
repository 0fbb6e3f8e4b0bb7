"""One rank of the collectives; collectives.py starts it, with what it has to know as JSON in its argument.

Says on stdout, a JSON object a line, which stage it enters and what it found there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import collectives_sizes as sizes
else:  # as a program on a node
    import collectives_sizes as sizes

PAIRS_S = 8.0  # for all rounds of pairs
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Transfer = Callable[[int], None]
Agree = Callable[[float], float]


def main() -> None:
    die_with_the_parent()
    task = SimpleNamespace(**json.loads(sys.argv[1]))
    said = own_stdout()

    def say(**content: Any) -> None:
        print(json.dumps(content), file=said, flush=True)

    try:
        Ranks(task, say).run()
        say(state="done")
    except Missing as error:
        say(state="failed", error=str(error), missing=error.ranks)
    except Exception as error:  # torch and NCCL raise dozens of kinds; each is this rank's answer
        say(state="failed", error=f"{type(error).__name__}: {error}")
    # Not sys.exit: NCCL's threads may wait for a peer that is gone.
    os._exit(0)


def die_with_the_parent() -> None:
    """And leave no core: a folder full of them is a poor thank-you for a measurement."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def own_stdout() -> Any:
    """What NCCL and others print goes to stderr; only ours goes to the parent."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return said


class Missing(Exception):
    """Ranks that never came."""

    def __init__(self, ranks: list[int], seconds: float) -> None:
        self.ranks = ranks
        super().__init__(f"ranks {', '.join(map(str, ranks))} did not come within {seconds:g} s")


class Ranks:
    """All ranks together, seen from one of them."""

    def __init__(self, task: SimpleNamespace, say: Callable[..., None]) -> None:
        self.task, self.say, self.started = task, say, time.monotonic()
        self.first = [sum(task.gpus[:node]) for node in range(len(task.gpus))]
        self.world = sum(task.gpus)
        self.node = max(node for node, first in enumerate(self.first) if first <= task.rank)

    def run(self) -> None:
        import torch
        import torch.distributed as distributed

        self.torch, self.distributed = torch, distributed
        self.say(torch=str(torch.__version__), stage="joining the others")
        store = self.join()
        self.say(stage="making the communicator")
        self.begin(store)
        self.say(sweep_end=self.sweep())
        self.message = sizes.largest_message(self.task.backend, -self.agreed(-self.free_memory()))
        self.pipeline()
        self.pairs()
        self.say(stage="ending")
        self.distributed.destroy_process_group()
        self.leave(store)

    # --- coming and going ---

    def join(self) -> Any:
        """The store of all ranks, once all have come. Raises Missing."""
        task, deadline = self.task, time.monotonic() + self.task.start_limit
        limit = timedelta(seconds=task.start_limit)
        first = task.rank == 0
        # Otherwise the first rank would wait in here, without a way to say for whom.
        store = self.distributed.TCPStore(
            task.head, task.port, self.world, first, limit, wait_for_workers=False
        )
        store.set(f"come/{task.rank}", "")
        left = timedelta(seconds=max(0.1, deadline - time.monotonic()))
        come = [f"come/{rank}" for rank in range(self.world)]
        try:
            store.wait(come, left)
        except RuntimeError:
            raise Missing(
                [r for r, key in enumerate(come) if not store.check([key])], task.start_limit
            ) from None
        return store

    def leave(self, store: Any) -> None:
        """The first rank holds the store, and goes last."""
        store.set(f"gone/{self.task.rank}", "")
        if self.task.rank == 0:
            with contextlib.suppress(RuntimeError):
                store.wait([f"gone/{rank}" for rank in range(self.world)], timedelta(seconds=2))

    def begin(self, store: Any) -> None:
        """The communicator of all ranks, and a first sum that has to be right."""
        torch, task = self.torch, self.task
        self.on_gpu = task.backend == "nccl"
        if self.on_gpu:
            torch.cuda.set_device(task.local_rank)
        self.device = torch.device("cuda", task.local_rank) if self.on_gpu else torch.device("cpu")
        # Gloo names the peer that it waited for. NCCL's watchdog only aborts: the parent is better at that.
        limit = task.total_limit if self.on_gpu else 0.75 * task.stage_limit
        self.distributed.init_process_group(
            task.backend,
            store=self.distributed.PrefixStore("group", store),
            rank=task.rank,
            world_size=self.world,
            timeout=timedelta(seconds=limit),
        )
        ones = torch.ones(1024, device=self.device)
        self.distributed.all_reduce(ones)
        if not bool((ones == self.world).all()):
            raise ValueError(f"an all-reduce of ones gave {ones[0].item():g} instead of {self.world}")

    # --- the measurements ---

    def sweep(self) -> str:
        """Sizes from small to large; why it has no larger one: largest, time or memory."""
        seconds = 0.0
        steps = sizes.SWEEP[self.task.backend]
        for size, smaller in zip(steps, (0, *steps)):
            self.say(stage=f"all-reduce of {sizes.in_words(size)}")
            if self.agreed(float(size * sizes.SHARE > self.free_memory())):
                return "memory"
            if (sizes.needed(size, smaller, seconds) if smaller else 0.0) > self.time_left():
                return "time"
            seconds = self.all_reduce(size)
        return "largest"

    def all_reduce(self, size: int) -> float:
        """Seconds of one of a size."""
        content = self.zeros(size).view(self.torch.float32)
        _, seconds, iterations = self.paced(
            lambda _: self.distributed.all_reduce(content), self.agreed, size, size
        )
        seconds = self.agreed(seconds)
        self.say(sweep={"bytes": size, "seconds": seconds, "iterations": iterations})
        return seconds

    def time_left(self) -> float:
        """Seconds for a measurement: half of what it has before it counts as hung, with some for pairs."""
        left: float = self.task.total_limit - self.spent() - PAIRS_S
        return min(left, float(self.task.stage_limit) / 2)

    def spent(self) -> float:
        """Seconds since the first rank began; the same for all."""
        return self.agreed(time.monotonic() - self.started)

    def pipeline(self) -> None:
        """Every rank sends to its peer in the next pipeline stage, all at once."""
        rank, stride = self.task.rank, self.task.stride
        if stride >= self.world:
            return
        self.say(stage="sending to the next pipeline stage")
        following, previous = rank + stride, rank - stride
        destinations = [following] if following < self.world else []
        sources = [previous] if previous >= 0 else []
        size, seconds, _ = self.paced(self.exchange(sources, destinations), self.agreed, *self.messages)
        if destinations:
            self.say(stages={"src": rank, "dst": following, "bytes": size, "seconds": seconds})

    def pairs(self) -> None:
        """Every node with every other, in rounds in which each has part once, until the time is over."""
        last = min(self.spent() + PAIRS_S, self.task.total_limit - self.task.stage_limit / 2)
        for number, peer in enumerate(sizes.rounds(len(self.task.gpus), self.node)):
            if self.spent() > last:
                return
            self.say(stage=f"pairs of nodes, round {number + 1}")
            self.pair(peer)

    def pair(self, node: int | None) -> None:
        """To and from the rank of another node that has the same local rank."""
        task = self.task
        if node is None or task.local_rank >= min(task.gpus[node], task.gpus[self.node]):
            return
        peer = self.first[node] + task.local_rank
        size, seconds, _ = self.paced(
            self.exchange([peer], [peer]), lambda value: self.agreed_with(peer, value), *self.messages
        )
        seconds = self.agreed_with(peer, seconds)
        self.say(pair={"src": task.rank, "dst": peer, "bytes": size, "seconds": seconds})

    # --- what they are made of ---

    def paced(self, transfer: Transfer, agree: Agree, smallest: int, largest: int) -> tuple[int, float, int]:
        """(bytes, this rank's seconds of one transfer, iterations), of a size and number for about SECONDS.

        All that have part in it have to come to the same numbers, hence `agree`: the longest time counts.
        """
        self.clock(transfer, smallest, 1)  # it makes the connections
        once, size = agree(self.clock(transfer, smallest, 1)), smallest
        while (larger := sizes.within(size, largest, size * sizes.SECONDS / 10 / once)) > size:
            size = larger
            self.clock(transfer, size, 1)
            once = agree(self.clock(transfer, size, 1))
        iterations = sizes.iterations_for(once)
        if not iterations:
            return size, once, 1
        return size, self.clock(transfer, size, iterations) / iterations, iterations

    def clock(self, transfer: Transfer, size: int, iterations: int) -> float:
        self.synchronize()
        started = time.perf_counter()
        for _ in range(iterations):
            transfer(size)
        self.synchronize()
        return max(time.perf_counter() - started, 1e-9)

    def exchange(self, sources: list[int], destinations: list[int]) -> Transfer:
        """At once, as one group of NCCL's."""
        sent, received = self.zeros(self.message), self.zeros(self.message)
        one_way = self.distributed.P2POp

        def transfer(size: int) -> None:
            operations = [one_way(self.distributed.isend, sent[:size], peer) for peer in destinations]
            operations += [one_way(self.distributed.irecv, received[:size], peer) for peer in sources]
            for work in self.distributed.batch_isend_irecv(operations) if operations else ():
                work.wait()

        return transfer

    def agreed(self, value: float) -> float:
        """The largest of all ranks' values."""
        found = self.torch.tensor([value], dtype=self.torch.float64, device=self.device)
        self.distributed.all_reduce(found, self.distributed.ReduceOp.MAX)
        return float(found.item())

    def agreed_with(self, peer: int, value: float) -> float:
        """The larger of two ranks' values."""
        own = self.torch.tensor([value], dtype=self.torch.float64, device=self.device)
        other = self.torch.zeros_like(own)
        operations = [
            self.distributed.P2POp(self.distributed.isend, own, peer),
            self.distributed.P2POp(self.distributed.irecv, other, peer),
        ]
        for work in self.distributed.batch_isend_irecv(operations):
            work.wait()
        return max(value, float(other.item()))

    @property
    def messages(self) -> tuple[int, int]:
        return sizes.SMALLEST_MESSAGE, self.message

    def zeros(self, size: int) -> Any:
        return self.torch.zeros(size, dtype=self.torch.uint8, device=self.device)

    def free_memory(self) -> float:
        """Bytes; what an earlier measurement has left to torch counts as free."""
        if not self.on_gpu:
            return float("inf")
        self.torch.cuda.empty_cache()
        return float(self.torch.cuda.mem_get_info()[0])

    def synchronize(self) -> None:
        if self.on_gpu:
            self.torch.cuda.synchronize()


if __name__ == "__main__":
    main()
