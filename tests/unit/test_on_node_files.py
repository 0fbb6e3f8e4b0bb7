"""What clusterctl puts on nodes as files."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path

import pytest

from cluster import on_node

TOGETHER = (on_node.PROOF, on_node.PROCESS_ENGINE)
PROGRAMS = ("completion.py", "ray_nodes.py", *(name for names in TOGETHER for name in names))
PLUGIN = ("cpu_communicator.py", "cpu_platform.py", "cpu_worker.py")


@pytest.mark.parametrize("name", [*PROGRAMS, *PLUGIN])
def test_files_for_nodes_are_python_3_9(name: str) -> None:
    text = on_node.program(name)
    ast.parse(text, feature_version=(3, 9))
    assert "from __future__ import annotations" in text  # or `X | None` in a signature ends the program there
    assert (
        "datetime.UTC" not in text
    )  # Python 3.11; an automatic "upgrade" of the code has put it there before


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_import_nothing_of_clusterctl_but_what_lies_beside_them(name: str) -> None:
    absolute, beside = set(), set()
    for statement in ast.walk(ast.parse(on_node.program(name))):
        if isinstance(statement, ast.Import):
            absolute |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
            absolute.add((statement.module or "").partition(".")[0])
        elif isinstance(statement, ast.ImportFrom):
            names = [statement.module] if statement.module else [alias.name for alias in statement.names]
            beside |= {f"{one}.py" for one in names}
    assert "cluster" not in absolute
    assert beside <= {one for names in TOGETHER if name in names for one in names}


def test_the_plugin_is_found_as_an_installed_package_would_be(tmp_path: Path) -> None:
    for path, content in on_node.plugin_files():
        target = tmp_path / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(content)
    (distribution,) = importlib.metadata.distributions(path=[str(tmp_path)])
    (entry_point,) = distribution.entry_points
    assert distribution.metadata["Name"] == "clusterctl-cpu-platform"
    assert entry_point.group == "vllm.platform_plugins"
    module, function = entry_point.value.split(":")
    assert f"def {function}(" in (tmp_path / f"{module}.py").read_text()


def test_every_class_that_the_plugin_names_by_path_is_in_it() -> None:
    files = dict(on_node.plugin_files())
    named = [
        str(constant.value)
        for constant in ast.walk(ast.parse(files["clusterctl_cpu_platform.py"]))
        if isinstance(constant, ast.Constant) and str(constant.value).startswith("clusterctl_cpu_")
    ]
    assert len(named) == 2
    for path in named:
        module, _, name = path.rpartition(".")
        assert f"class {name}(" in files[f"{module}.py"]
