"""vLLM's CPU communicator, for groups of ranks that span nodes; a part of the plugin in cpu_platform.py.

vLLM's own takes its shared-memory path whenever all ranks of a group agree on a name for it, which ranks on
different nodes do as well, and there it waits for ever for segments that the others made elsewhere. With this
one, a group takes shared memory only if its ranks share a node, and otherwise gloo, which carries the tensors
over the network that GLOO_SOCKET_IFNAME names.
"""

from __future__ import annotations

import os

import torch
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
from vllm.utils.network_utils import get_ip


def memory_domain() -> str:
    """What two ranks have in common if they can, and are meant to, share memory.

    Two containers of one machine may well have one address and two /dev/shm. Two nodes of one machine (the
    lab) may have one /dev/shm and two addresses: they could share memory, but then a rehearsal would not
    touch the network.
    """
    return f"{get_ip()} {os.stat('/dev/shm').st_dev}"  # get_ip() is VLLM_HOST_IP where that is set


class HostAwareCpuCommunicator(CpuCommunicator):
    """Shared memory within a node, gloo between nodes."""

    def _all_group_ranks_share_shm_group_name(self) -> bool:
        domains = [""] * self.world_size
        torch.distributed.all_gather_object(domains, memory_domain(), group=self.device_group)
        # Every rank gets the same list, so either all of them go on to the next collective call or none does.
        return len(set(domains)) == 1 and bool(super()._all_group_ranks_share_shm_group_name())
