"""One line of a log as a person would read it, and the node that it speaks of."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cluster.log_lines import LogLine

COLOUR = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]{0,256}\x07|[@-Z\\-_])")
LONGEST = 16_384

# `(EngineCore pid=6618) (RayWorkerProc pid=7750, ip=10.0.0.2) ERROR 11-21 07:20:36 [core.py:1510] `
TAG = re.compile(r"(?:\([^()\n]{1,80}\)\s*){1,4}")
HEADER = re.compile(r"\s*(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]\n]{1,80}\] ?")
REPEATED = re.compile(r"\s*\[repeated \d+x across cluster\].*$")

RAY_NODE = re.compile(r"\([^()\n]{0,80}\bip=([0-9A-Fa-f.:]+)\)")
NCCL_NODE = re.compile(r"(?:^|[\s)\]])([A-Za-z][\w.-]{0,80}):\d+:\d+ \[\d+\] ")
# `Nov 21 05:24:26 gpu-02 kernel: `; of known programs without its time, as journalctl -o short-iso leaves it.
SYSLOG_NODE = re.compile(
    r"\w{3} +\d{1,2} \d\d:\d\d:\d\d ([A-Za-z][\w.-]{0,80}) [\w./-]{1,80}(?:\[\d+\])?: "
    r"|([A-Za-z][\w.-]{0,80}) (?:kernel|dockerd|containerd|podman|systemd|sshd)(?:\[\d+\])?: "
)


def cleaned(text: str) -> str:
    """Without colours and carriage returns; of a line beyond all measure, the beginning and the end."""
    if "\x1b" in text:
        text = COLOUR.sub("", text)
    if "\r" in text:
        text = text.replace("\r", " ")
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} {text[-LONGEST // 2 :]}"


def split_tag(text: str) -> tuple[str, str]:
    """(which process speaks, what it says): Ray's and vLLM's prefixes apart from the message."""
    found = TAG.match(text)
    tag, rest = (found[0].strip(), text[found.end() :]) if found else ("", text)
    header = HEADER.match(rest)
    if header:
        rest = rest[header.end() :]
    return tag, REPEATED.sub("", rest)


def node_of(line: LogLine, names: Mapping[str, str]) -> str:
    """The node of a line: Ray's `ip=`, NCCL's host, syslog's, else where the log is from.

    `names` are {address or hostname: node name}; an address that it lacks stays what it is.
    """
    if ray := RAY_NODE.search(line.text):
        return names.get(ray[1], ray[1])
    found = NCCL_NODE.search(line.text) or SYSLOG_NODE.match(line.text)
    if found is None:
        return line.node
    host = str(found[found.lastindex or 1])
    if line.node and host not in names and names:
        return line.node  # a hostname that says nothing to the reader of the inventory
    return names.get(host, host)
