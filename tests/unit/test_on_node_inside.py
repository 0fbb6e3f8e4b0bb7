"""inside.py, run as it is run on nodes, on folders of models in all states."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.facts.inside import parse_inside
from cluster.facts.model_files import ModelFiles, parse_model
from cluster.on_node import program
from cluster.steps import Result

SOURCE = program("inside.py")
COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"
GIBIBYTE = 1024**3


def run(model: str | Path, *more: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Any:
    """The JSON that the program prints, as for root in a container; -S for speed alone."""
    result = subprocess.run(
        (sys.executable, "-S", "-c", SOURCE, str(model), "main", *more),
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return json.loads(result.stdout)


def look(model: str | Path, *more: str, **options: Any) -> ModelFiles:
    found = parse_model(run(model, *more, **options)["model"])
    assert found is not None
    return found


def look_at_all(*folders: Path, first: str = "") -> list[ModelFiles]:
    """As `look`, with their files hashed: several by one run of the program, for a start takes its time."""
    for_all = "for model in sys.argv[2:]: print(json.dumps(program['look_at'](model, 'main', True)))"
    load = "import json, sys; program = {'__name__': 'inside'}; exec(sys.argv[1], program)"
    code = "\n".join((load, first, for_all))
    result = subprocess.run(
        (sys.executable, "-S", "-c", code, SOURCE, *map(str, folders)),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    found = [parse_model(json.loads(line)) for line in result.stdout.splitlines()]
    return [model for model in found if model is not None]


def safetensors(content: bytes, *, size: int | None = None) -> bytes:
    """A file of one tensor; `size` is what its header promises."""
    ends = [0, len(content) if size is None else size]
    header = json.dumps({"__metadata__": {}, "weight": {"dtype": "U8", "shape": [1], "data_offsets": ends}})
    return struct.pack("<Q", len(header)) + header.encode() + content


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 4976698672\n"


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"num_attention_heads": 9}')
    (folder / "model.safetensors.index.json").write_text(json.dumps(INDEX))
    for shard in SHARDS:
        (folder / shard).write_bytes(safetensors(shard.encode()))
    return folder


def test_a_model_that_is_whole(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "llama")
    (folder / ".cache").mkdir()
    (folder / "original").mkdir()
    model = look(folder, "hash")
    assert (model.path, model.cached, model.there) == (str(folder), False, True)
    assert model.config == {"num_attention_heads": 9}
    assert (model.index_bytes, model.shards, model.incomplete) == (8, SHARDS, ())
    assert [file.name for file in model.files] == ["config.json", *SHARDS, "model.safetensors.index.json"]
    for file in model.files:
        content = (folder / file.name).read_bytes()
        assert (file.size, file.digest, file.broken) == (
            len(content),
            f"sha256:{hashlib.sha256(content).hexdigest()}",
            "",
        )


def test_without_hash_no_file_is_read(tmp_path: Path) -> None:
    model = look(write_model(tmp_path))
    assert {file.digest for file in model.files} == {None}
    assert {file.broken for file in model.files} == {""}


def test_a_missing_shard_is_seen_from_the_index(tmp_path: Path) -> None:
    (write_model(tmp_path) / SHARDS[1]).unlink()
    model = look(tmp_path)
    assert set(model.shards) - {file.name for file in model.files} == {SHARDS[1]}


def broken_files(folder: Path) -> dict[str, str]:
    """Files that are broken each in its own way, and what is said of them."""
    whole = safetensors(b"x" * 1000)
    contents = {
        "cut.safetensors": (whole[:-1], f"has {len(whole) - 1} bytes, and its header says {len(whole)}"),
        "long.safetensors": (whole + b"x", f"has {len(whole) + 1} bytes, and its header says {len(whole)}"),
        "header.safetensors": (whole[:20], "is no safetensors file (a Git LFS pointer?)"),
        "pointer.safetensors": (POINTER, "is no safetensors file (a Git LFS pointer?)"),
        "short.safetensors": (b"\0\0", "is no safetensors file (a Git LFS pointer?)"),
        "list.safetensors": (struct.pack("<Q", 2) + b"[]", "is no safetensors file (a Git LFS pointer?)"),
        "odd.safetensors": (
            struct.pack("<Q", 14) + b'{"a": {"b": 1}',
            "is no safetensors file (a Git LFS pointer?)",
        ),
        "empty.safetensors": (b"", "is empty"),
        "tokenizer.json": (b"", "is empty"),
        "whole.safetensors": (whole, ""),
        "no-tensors.safetensors": (struct.pack("<Q", 2) + b"{}", ""),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "link.safetensors").symlink_to("../nowhere")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    said = {name: text for name, (_, text) in contents.items()}
    return {**said, "link.safetensors": "cannot be read", "loop.safetensors": "cannot be read"}


def test_what_is_wrong_with_a_file_by_itself(tmp_path: Path) -> None:
    expected = broken_files(tmp_path)
    model = look(tmp_path, "hash")
    assert {file.name: file.broken for file in model.files} == expected
    assert {file.name for file in model.files if file.size is None} == {
        "link.safetensors",
        "loop.safetensors",
    }
    assert model.config is None


NOT_UNDERSTOOD = (
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"a": ' * 5000,
    b"null",
    b'{"metadata": 1, "weight_map": []}',
)


def test_a_config_or_an_index_that_cannot_be_understood(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(len(NOT_UNDERSTOOD))]
    for folder, content in zip(folders, NOT_UNDERSTOOD, strict=True):
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_bytes(content)
        (folder / "config.json").write_bytes(content.removeprefix(b'{"metadata": 1, "weight_map": '))
    for model in look_at_all(*folders):
        assert (model.there, model.config, model.index_bytes, model.shards) == (True, None, None, ())


def test_an_empty_folder_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    empty, none, file, long = look_at_all(
        tmp_path / "empty", tmp_path / "none", tmp_path / "file", tmp_path / ("x" * 300)
    )
    assert (empty.there, empty.config, empty.files) == (True, None, ())
    assert (none.there, none.cached, none.path) == (False, False, str(tmp_path / "none"))
    assert file.there and file.config is None and [one.name for one in file.files] == ["file"]
    assert not long.there


def test_a_folder_that_may_not_be_entered_is_not_there(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "closed" / "llama")
    folder.parent.chmod(0)
    as_nobody = "import os; os.setuid(65534)" if os.geteuid() == 0 else ""
    (model,) = look_at_all(folder, first=as_nobody)
    folder.parent.chmod(0o700)
    assert (model.path, model.there) == (str(folder), False)


# --- the Hugging Face cache -------------------------------------------------------------------------


def write_cache(hub: Path, complete: bool = True) -> Path:
    """As huggingface_hub lays it out: refs, snapshots of links, blobs named by sha256 or git's sha1."""
    repository = hub / "models--meta-llama--Llama-3.1-8B"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (blobs / ("b" * 40)).write_text("{}")
    (snapshot / "config.json").symlink_to(f"../../blobs/{'b' * 40}")
    (blobs / ("a" * 64)).write_bytes(safetensors(b"weights"))
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{'a' * 64}")
    if not complete:
        (blobs / f"{'c' * 64}.incomplete").write_bytes(b"half")
        (snapshot / "tokenizer.json").symlink_to(f"../../blobs/{'c' * 64}")
    return snapshot


@pytest.mark.parametrize(
    ("hub", "env"),
    [
        ("home/.cache/huggingface/hub", {"HOME": "home"}),
        ("cache/huggingface/hub", {"XDG_CACHE_HOME": "cache", "HOME": "home"}),
        ("hf/hub", {"HF_HOME": "hf", "HOME": "home"}),
        ("other", {"HF_HUB_CACHE": "other", "HF_HOME": "hf"}),
        ("home/mine/hub", {"HF_HOME": "~/mine", "HOME": "home"}),
    ],
)
def test_a_model_is_found_in_the_cache_wherever_it_is(tmp_path: Path, hub: str, env: dict[str, str]) -> None:
    snapshot = write_cache(tmp_path / hub)
    absolute = {name: value if value[0] == "~" else str(tmp_path / value) for name, value in env.items()}
    model = look("meta-llama/Llama-3.1-8B", "hash", env=absolute)
    assert (model.path, model.cached, model.there, model.incomplete) == (str(snapshot), True, True, ())
    digests = {file.name: file.digest for file in model.files}
    assert digests["model.safetensors"] == f"sha256:{'a' * 64}"  # by its name, without reading it
    assert digests["config.json"] == f"sha256:{hashlib.sha256(b'{}').hexdigest()}"


def test_a_download_that_did_not_end(tmp_path: Path) -> None:
    write_cache(tmp_path, complete=False)
    model = look("meta-llama/Llama-3.1-8B", env={"HF_HUB_CACHE": str(tmp_path)})
    assert model.incomplete == (f"{'c' * 64}.incomplete",)
    assert {file.name: file.broken for file in model.files}["tokenizer.json"] == "cannot be read"


def test_a_model_that_was_never_fetched(tmp_path: Path) -> None:
    model = look("meta-llama/Llama-3.1-8B", env={"HF_HUB_CACHE": str(tmp_path)})
    assert (model.there, model.cached, model.path) == (False, True, "meta-llama/Llama-3.1-8B")


def test_a_relative_folder_is_a_path_as_vllm_takes_it(tmp_path: Path) -> None:
    write_model(tmp_path / "org" / "name")
    model = look("org/name", cwd=tmp_path)
    assert (model.path, model.cached, model.there) == ("org/name", False, True)


# --- large files ------------------------------------------------------------------------------------


def write_huge(folder: Path) -> Path:
    """8 GiB of zeros, which take no room, behind a header that fits them."""
    file = folder / "model.safetensors"
    head = safetensors(b"", size=8 * GIBIBYTE)
    file.write_bytes(head)
    os.truncate(file, len(head) + 8 * GIBIBYTE)
    return file


def change(file: Path, at: int) -> None:
    with file.open("r+b") as content:
        content.seek(at)
        content.write(b"x")


def test_of_a_large_file_blocks_all_over_it_are_compared(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("same", "as it was", "first", "middle", "last", "between")]
    files = []
    for folder in folders:
        folder.mkdir()
        files.append(write_huge(folder))
    size = files[0].stat().st_size
    step = (size - 64 * 1024) // 31
    for file, at in zip(files[2:], (100, 17 * step + 5, size - 1000, 17 * step + 1024**2), strict=True):
        change(file, at)
    found = [file for model in look_at_all(*folders) for file in model.files]
    assert {file.size for file in found} == {size}
    same, usual, *seen, unseen = (file.digest for file in found)
    assert same == usual == unseen and len({usual, *seen, None}) == 5


def test_small_files_beside_large_ones_are_hashed_whole(tmp_path: Path) -> None:
    write_huge(tmp_path)
    content = b"".join(number.to_bytes(4, "big") for number in range(50_000))
    (tmp_path / "tokenizer.json").write_bytes(content)
    digests = {file.name: file.digest for file in look(tmp_path, "hash").files}
    assert digests["tokenizer.json"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


# --- the rest ---------------------------------------------------------------------------------------


def test_the_password_of_a_proxy_is_not_printed(tmp_path: Path) -> None:
    shown = {
        "http_proxy": ("http://proxy.example:3128", "http://proxy.example:3128"),
        "HTTP_PROXY": ("http://alice:s3cret@proxy.example:3128", "http://***@proxy.example:3128"),
        "https_proxy": ("http://alice:s3c@ret@proxy.example:3128/", "http://***@proxy.example:3128/"),
        "HTTPS_PROXY": ("alice:s3cret@proxy.example:3128", "***@proxy.example:3128"),
        "all_proxy": ("socks5h://alice:s3cret@[fd00::1]:1080", "socks5h://***@[fd00::1]:1080"),
        "no_proxy": ("localhost,10.0.0.0/8", "localhost,10.0.0.0/8"),
    }
    values = {name: value for name, (value, _) in shown.items()}
    proxies = run(tmp_path, env=values | {"PROXYLESS": "x"})["proxies"]
    assert proxies == {name: text for name, (_, text) in shown.items()}


def test_all_that_it_prints_is_understood(tmp_path: Path) -> None:
    content = run(write_model(tmp_path), "hash")
    found = parse_inside(Result(0, f"a warning before\n{json.dumps(content)}\nand one after", ""))
    assert found["versions"].python == content["python"] == sys.version.split()[0]
    inside = found["inside"]
    assert inside.nofile == content["nofile"] and inside.shm_bytes == content["shm_bytes"]
    assert set(content) == {
        *("python", "ray", "vllm", "nccl", "memlock", "nofile", "shm_bytes", "proxies", "infiniband"),
        *("resolves_to", "cuda", "model"),
    }


def test_it_runs_on_the_oldest_python_of_a_node() -> None:
    ast.parse(SOURCE, feature_version=(3, 9))
