"""Write the cases of format_strings.yaml as logs.

    .venv/bin/python -m tests.corpus.generate [DIR]

The same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.corpus import consequences as then
from tests.corpus import surroundings
from tests.corpus.split import held_out
from tests.corpus.surroundings import RANKS, Lines

HERE = Path(__file__).parent
CASES = HERE / "format_strings.yaml"
PREFIX = "made-"
RAY_STARTED = surroundings.START - timedelta(seconds=77)
LARGEST_PLAIN = 30_000  # bytes

Content = dict[str, Any]
# What a step of `then` says, from its arguments.
STEPS: dict[str, Callable[[Any], Lines]] = {
    "rank": lambda step: then.said_by(RANKS[step[0]], step[1]),
    "driver": then.said_by_driver,
    "info": lambda step: then.nccl_info(RANKS[step[0]], step[1]),
    "nccl": lambda step: then.nccl_warn(RANKS[step[0]], *step[1:]),
    "trail": lambda step: then.nccl_trail(RANKS[step[0]], step[1], *_flat(step[2])),
    "watchdog": lambda step: tuple(line for number in step for line in then.watchdog(RANKS[number])),
    "failed": lambda step: then.rank_fails(RANKS[step[0]], *step[1:]),
    "engine": lambda step: then.engine_fails(*step),
    "api": then.api_server_fails,
    "dies": lambda step: then.ranks_die(*step),
}


def main() -> None:
    base = Path(sys.argv[1]) if sys.argv[1:] else HERE
    for name, case in yaml.safe_load(CASES.read_text()).items():
        write(base / f"{PREFIX}{name}", case)


def write(folder: Path, case: Content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for program, text in logs(case).items():
        write_log(folder / f"{program}.log", text)
    label = {
        "of": case["of"],
        "provenance": "format-string",
        "cause": case.get("cause"),
        "node": case.get("node"),
        "acceptable": case.get("acceptable", []),
        "held_out": held_out(folder.name),
    }
    (folder / "label.yaml").write_text(yaml.safe_dump(label, sort_keys=False, width=110))


def logs(case: Content) -> dict[str, str]:
    """{NODE.PROGRAM: text}. Where gpu-02's container does not start, there is no Ray of it and no server."""
    files = {"gpu-01.ray": surroundings.stamped(surroundings.ray_log("head"), RAY_STARTED)}
    if "genuine" in case:
        files["gpu-02.ray"] = surroundings.stamped(surroundings.ray_log("worker"), RAY_STARTED)
        files["gpu-01.serve"] = surroundings.stamped(server_log(case))
    return files | case.get("files", {})


def server_log(case: Content) -> Lines:
    lines = surroundings.until(case["genuine"])
    if "link" in case:
        lines = surroundings.with_infiniband(lines, case["link"])
    for old, new in case.get("replace", {}).items():
        where = surroundings.ADDRESSES[case["replace_on"]] if "replace_on" in case else ""
        lines = tuple(line.replace(old, new) if where in line else line for line in lines)
    steps = [item for step in case.get("then", ()) for item in step.items()]
    return (*lines, *(line for kind, arguments in steps for line in STEPS[kind](arguments)))


def _flat(places: Iterable[str | list[str]]) -> list[str]:
    """YAML's anchors give lists inside lists."""
    return [name for place in places for name in ([place] if isinstance(place, str) else place)]


def write_log(file: Path, text: str) -> None:
    """Compressed where it is large, without a time in it."""
    if len(text) > LARGEST_PLAIN:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        file.write_text(text)


if __name__ == "__main__":
    main()
