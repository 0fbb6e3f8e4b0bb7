"""The network devices of a process, by the index that a channel's line names."""

from __future__ import annotations

from dataclasses import replace

from cluster.nccl.events import Device, Via
from cluster.nccl.state import Speech


def device_of(speech: Speech, via: Via) -> Device | None:
    """The one that a channel goes through, None for what has none; its index where no line names it."""
    if via.device is None:
        return None
    kind = "IB" if via.transport.startswith("NET/IB") else via.transport.removeprefix("NET/")
    return with_link(speech.devices.get(kind, {}).get(via.device) or Device(str(via.device)), speech, kind)


def with_link(device: Device, speech: Speech, kind: str = "IB") -> Device:
    """With the link layer that its line lacks: that of its parts (since 2.24 `Made virtual device [2]
    name=mlx5_0+mlx5_1` names them alone), else the one that all listed devices have."""
    if device.link:
        return device
    parts = set(device.name.split("+"))
    rated = speech.rates.values() if kind == "IB" else ()
    listed = (*speech.devices.get(kind, {}).values(), *rated)
    links = {other.link for other in listed if other.name in parts and other.link}
    links = links or {other.link for other in listed if other.link}
    return replace(device, link=links.pop()) if len(links) == 1 else device
