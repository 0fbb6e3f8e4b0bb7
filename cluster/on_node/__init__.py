"""The programs that clusterctl puts on nodes as files: nothing but the standard library.

The engine "process" is several, which import each other by relative names. collectives.py and environments.py
import what lies beside them, as a module of this package or as the program that they are on a node; and
collectives.py starts collectives_rank.py, which needs the torch that is there.

They run on the node (in its container, or beside it with the "process" engine), where clusterctl is not
installed and Python may be as old as 3.9. On the operator's side they are text; this module hands it out.
"""

from importlib.resources import files

# `python3 -m on_node.processes`, run in the folder that on_node/ lies in: the program, then what it imports.
PROCESS_ENGINE = ("processes.py", "process_log.py", "process_state.py", "process_table.py", "supervisor.py")
# What proves the network: two programs, the one that the first starts, and what they import.
PROOF = (
    "collectives.py",
    "collectives_alone.py",
    "collectives_process.py",
    "collectives_rank.py",
    "collectives_sizes.py",
    "environments.py",
    "packed_log.py",
)
# Where importlib.metadata looks for entry points: any `NAME-VERSION.dist-info` folder on PYTHONPATH.
DIST_INFO = "clusterctl_cpu_platform-1.dist-info"
METADATA = """\
Metadata-Version: 2.1
Name: clusterctl-cpu-platform
Version: 1
Summary: vLLM's CPU platform on Ray nodes, for rehearsals without GPUs
"""
ENTRY_POINTS = """\
[vllm.platform_plugins]
clusterctl_cpu = clusterctl_cpu_platform:activate
"""


def program(name: str) -> str:
    """The source text of one of the programs here, e.g. program("completion.py")."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def plugin_files() -> tuple[tuple[str, str], ...]:
    """(relative path, content) of what goes into the folder `plugins/` that is on the node's PYTHONPATH."""
    return (
        ("clusterctl_cpu_platform.py", program("cpu_platform.py")),
        ("clusterctl_cpu_communicator.py", program("cpu_communicator.py")),
        ("clusterctl_cpu_worker.py", program("cpu_worker.py")),
        (f"{DIST_INFO}/METADATA", METADATA),
        (f"{DIST_INFO}/entry_points.txt", ENTRY_POINTS),
    )
