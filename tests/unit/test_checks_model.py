"""The model's folder on one node: there, and whole."""

from __future__ import annotations

from typing import Any

import pytest
from findings import complete, found_inside, is_mended, model, told
from samples import plan

from cluster.checks import preflight
from cluster.facts.model_files import ModelFile, ModelFiles

FROM_A_PATH = plan({"model.source": "/models/llama"})
ABSENT: dict[str, Any] = {"there": False, "config": None, "files": (), "shards": (), "index_bytes": None}
ERROR = [("hf-cache-partial", "gpu-02", "error")]


def with_model(one: ModelFiles | None) -> list[Any]:
    """Of a node with this model; without what only the comparison with the other node says."""
    problems = found_inside(FROM_A_PATH, model=one)
    return [problem for problem in problems if problem.expected != "the same files on all nodes"]


def test_a_path_that_is_not_there() -> None:
    (problem,) = with_model(model(**ABSENT))
    assert told([problem]) == [("model-path-missing", "gpu-02", "error")]
    assert "`rsync -a --checksum /models/llama/ gpu-02:/models/llama/`" in problem.remedy
    assert "runtime.mounts" in problem.remedy


@pytest.mark.parametrize(
    ("env", "fires"),
    [
        ({}, False),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"TRANSFORMERS_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "0"}, False),
    ],
)
def test_a_model_to_be_fetched_is_missing_only_where_it_may_not_be_fetched(
    env: dict[str, str], fires: bool
) -> None:
    problems = found_inside(plan({"env": env}), model=model(cached=True, **ABSENT))
    assert told(problems) == ([("model-path-missing", "gpu-02", "error")] if fires else [])
    for problem in problems:
        assert "`hf download meta-llama/Llama-3.1-8B` on gpu-02" in problem.remedy


def test_a_folder_without_a_config() -> None:
    (problem,) = with_model(model(config=None))
    assert told([problem]) == [("model-path-missing", "gpu-02", "error")]
    assert problem.found == "/models/llama has no config.json that can be read"


def test_a_shard_that_is_missing_is_named() -> None:
    (problem,) = with_model(model(files=model().files[:2]))
    assert told([problem]) == ERROR
    assert problem.found.startswith("model-00002-of-00002.safetensors of 2 shards are missing")
    assert is_mended(problem)


def test_of_many_missing_shards_the_first_are_named() -> None:
    shards = tuple(f"model-{number:05}-of-00163.safetensors" for number in range(1, 164))
    (problem,) = with_model(model(shards=shards, files=()))
    assert problem.found.startswith(
        "model-00001-of-00163.safetensors, model-00002-of-00163.safetensors, "
        "model-00003-of-00163.safetensors and 160 more of 163 shards are missing"
    )


def test_an_index_without_shards_and_shards_without_an_index_are_silent() -> None:
    assert with_model(model(shards=(), index_bytes=None)) == []
    assert with_model(model(shards=())) == []


@pytest.mark.parametrize(
    ("name", "size", "broken", "fires"),
    [
        ("model-00002-of-00002.safetensors", 100, "has 100 bytes, and its header says 3000000000", True),
        ("model-00002-of-00002.safetensors", 134, "is no safetensors file (a Git LFS pointer?)", True),
        ("model-00002-of-00002.safetensors", 0, "is empty", True),
        ("model-00002-of-00002.safetensors", None, "cannot be read", True),
        ("tokenizer.json", None, "cannot be read", True),
        (".gitattributes", 0, "is empty", False),
        ("__init__.py", 0, "is empty", False),
    ],
)
def test_a_file_that_is_broken_by_itself(name: str, size: int | None, broken: str, fires: bool) -> None:
    problems = with_model(model(ModelFile(name, size, None, broken)))
    assert told(problems) == (ERROR if fires else [])
    for problem in problems:
        assert problem.found == f"{name} {broken}"


def test_downloads_that_have_not_ended() -> None:
    (problem,) = with_model(model(cached=True, incomplete=("ab.incomplete", "cd.incomplete")))
    assert told([problem]) == [("hf-cache-partial", "gpu-02", "warning")]
    assert problem.found == "2 downloads into the cache have not ended"


def test_where_no_folder_was_looked_at_nothing_is_said() -> None:
    assert with_model(None) == []
    facts = complete(FROM_A_PATH, inside=None)
    assert preflight(FROM_A_PATH, facts) == ()
