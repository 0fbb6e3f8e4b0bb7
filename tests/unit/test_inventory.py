"""Bad input gets one line each: file, line, key path, what. Nothing but InventoryError ever comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import GOOD, PROCESS

from cluster.errors import InventoryError
from cluster.inventory import Inventory, load, parse
from cluster.inventory.secrets import read_secrets
from cluster.plan import make_plan

SECRET = "hf_verysecret"


def complaints(text: str) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        parse(text, "inventory.yaml")
    return str(caught.value).splitlines()


NODE_1, NODE_2 = "{name: gpu-01, address: 10.0.0.11, gpus: 2}", "{name: gpu-02, address: 10.0.0.12, gpus: 2}"
MODEL = "model: {source: meta-llama/Llama-3.1-8B, served_name: llama}"
IMAGE = 'runtime: {engine: docker, image: "registry.local/vllm-ray:v0.33.0"}'

# (what stands in GOOD, what is written instead, the complaint)
BAD = [
    # unknown keys, with the nearest known one
    ("ssh: {user: ops}", "ssh: {usr: ops}", "2: ssh.usr: unknown key; did you mean 'user'?"),
    ("ssh: {user: ops}", "shh: {user: ops}", "2: shh: unknown key; did you mean 'ssh'?"),
    ("gpus: 2}\n", "gpu: 2}\n", "7: nodes[0].gpu: unknown key; did you mean 'gpus'?"),
    (
        "ssh: {user: ops}",
        "ssh: {'x[y]': 1}",
        "2: ssh.x[y]: unknown key; known here: connect_timeout, host, host_key_policy, "
        "identity_file, jump, known_hosts, port, user",
    ),
    # wrong types
    (NODE_1, NODE_1.replace("2}", "eight}"), "7: nodes[0].gpus: expected a whole number, got 'eight'"),
    (NODE_1, NODE_1.replace("2}", "2.0}"), "7: nodes[0].gpus: expected a whole number, got 2.0"),
    (NODE_1, NODE_1.replace("2}", "true}"), "7: nodes[0].gpus: expected a whole number, got true"),
    (NODE_1, "gpu-01", "7: nodes[0]: expected a mapping, got 'gpu-01'"),
    (MODEL, "model: null", "4: model: expected a mapping, got nothing"),
    (MODEL, "model: {source: 5}", "4: model.source: expected text, got 5 (quote it)"),
    (MODEL, "model: {}", "4: model.source: is required"),
    ("port: 8000", "port: '8000'", "5: serve.port: expected a whole number, got '8000'"),
    ("engine: docker,", "mounts: /a:/b,", "3: runtime.mounts: expected a list, got '/a:/b'"),
    (
        "engine: docker,",
        "mounts: [models],",
        "3: runtime.mounts[0]: expected '/on/the/node:/in/the/container[:ro]', got 'models'",
    ),
    (
        "engine: docker,",
        "mounts: ['/a,readonly:/b'],",
        "3: runtime.mounts[0]: expected '/on/the/node:/in/the/container[:ro]', got '/a,readonly:/b'",
    ),
    ("engine: docker,", "privileged: 1,", "3: runtime.privileged: expected true or false, got 1"),
    (
        "engine: docker,",
        "engine: containerd,",
        "3: runtime.engine: expected 'docker', 'podman' or 'process', got 'containerd'",
    ),
    ("ssh: {user: ops}", "network: {hcas: 5}", "2: network.hcas: expected 'auto' or 'none', got 5"),
    ("ssh: {user: ops}", "env: {A: true}", "2: env.A: expected text or a number, got True (quote it)"),
    # names and addresses
    ("gpu-02", "gpu-01", "8: nodes[1].name: 'gpu-01' is already nodes[0].name"),
    ("10.0.0.12", "10.0.0.11", "8: nodes[1].address: '10.0.0.11' is already nodes[0].address"),
    (
        "10.0.0.12",
        "gpu-02.example.com",
        "8: nodes[1].address: expected an IPv4 address or 'local', got 'gpu-02.example.com': "
        "Ray and NCCL compare addresses, not names (a name for SSH alone goes into ssh.host)",
    ),
    (
        "10.0.0.12",
        "local",
        "8: nodes[1].address: 'local' stands alone: other nodes could not reach this one by it",
    ),
    (
        "gpu-02",
        "gpu;reboot",
        "8: nodes[1].name: expected letters, digits, '.', '_' and '-', starting with a letter or digit, "
        "got 'gpu;reboot'",
    ),
    (
        "cluster: demo",
        "cluster: $(reboot)",
        "1: cluster: expected at most 32 lower-case letters, digits, '_' and '-', got '$(reboot)'",
    ),
    (
        "ssh: {user: ops}",
        "head: gpu-03",
        "2: head: no node is named 'gpu-03'; the nodes are gpu-01, gpu-02",
    ),
    # numbers
    (NODE_1, NODE_1.replace("2}", "0}"), "7: nodes[0].gpus: expected at least 1, got 0"),
    ("port: 8000", "port: 70000", "5: serve.port: expected at most 65535, got 70000"),
    ("port: 8000", "port: 0", "5: serve.port: expected at least 1, got 0"),
    ("port: 8000", "port: 6379", "5: serve.port: 6379 is already ray.port"),
    # parallel sizes
    (
        NODE_1,
        NODE_1.replace("2}", "4}"),
        "5: serve.tensor_parallel_size: 'auto' is the GPUs per node, and they differ "
        "(gpu-01 has 4, gpu-02 has 2); set it, or make them equal",
    ),
    (
        "port: 8000",
        "tensor_parallel_size: 2, pipeline_parallel_size: 3",
        "5: serve.tensor_parallel_size: tensor × pipeline parallel size is 2 × 3 = 6, "
        "but the nodes have 4 GPUs",
    ),
    (
        "port: 8000",
        "pipeline_parallel_size: 3",
        "5: serve.pipeline_parallel_size: tensor × pipeline parallel size is 1 × 3 = 3, "
        "but the nodes have 4 GPUs",
    ),
    (
        "port: 8000",
        "tensor_parallel_size: many",
        "5: serve.tensor_parallel_size: expected a whole number or 'auto', got 'many'",
    ),
    # secrets
    (
        "ssh: {user: ops}",
        f"secrets: {{HF_TOKEN: {SECRET}}}",
        "2: secrets.HF_TOKEN: a secret is not written down: expected {env: NAME} or {file: PATH}",
    ),
    (
        "ssh: {user: ops}",
        f"env: {{HF_TOKEN: {SECRET}}}",
        "2: env.HF_TOKEN: a secret is not written down: secrets: {HF_TOKEN: {env: HF_TOKEN}}",
    ),
    (
        "max_model_len: 4096",
        f"api_key: {SECRET}",
        "5: serve.args.api_key: clusterctl sets --api-key itself: a key does not belong on a command line: "
        "secrets: {VLLM_API_KEY: {env: VLLM_API_KEY}}",
    ),
    # vLLM's flags
    (
        "max_model_len: 4096",
        "max_model_len: 2020-01-01",
        "5: serve.args.max_model_len: expected text, a number, true, false, a list or a mapping, "
        "got datetime.date(2020, 1, 1) (quote it)",
    ),
    (
        "max_model_len: 4096",
        "hf_overrides: {x: 2020-01-01}",
        "5: serve.args.hf_overrides: expected text, numbers, true, false, lists and mappings in it, "
        "as in JSON (quote dates)",
    ),
    # the engine
    (IMAGE, "runtime: {}", "3: runtime.image: the engine 'docker' needs an image with vLLM and Ray"),
    (
        "engine: docker,",
        "engine: process,",
        "3: runtime.image: the engine 'process' has no containers; leave this out",
    ),
    # YAML
    ("ssh: {user: ops}", "cluster: demo2", "2: cluster: this key stands here twice"),
    ("user: ops", "user: ops, user: root", "2: ssh.user: this key stands here twice"),
    (
        "max_model_len: 4096",
        "hf_overrides: &a {x: *a}",
        "5: serve.args.hf_overrides.x: an alias stands inside what it names",
    ),
    ("user: ops", 'user: "a\\0b"', "2: ssh.user: a character that is no text"),
]


@pytest.mark.parametrize(("good", "bad", "complaint"), BAD, ids=[what[:60] for _, _, what in BAD])
def test_bad_input_gets_one_line(good: str, bad: str, complaint: str) -> None:
    assert good in GOOD
    assert complaints(GOOD.replace(good, bad, 1)) == [f"inventory.yaml:{complaint}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "inventory.yaml: the inventory is empty"),
        ("# nothing but this\n", "inventory.yaml: the inventory is empty"),
        ("just text", "inventory.yaml:1: expected a mapping, got 'just text'"),
        ("- a\n- b\n", "inventory.yaml:1: expected a mapping, got a list"),
        ("a: [1\n", "inventory.yaml:2: YAML syntax: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c", "inventory.yaml:1: YAML syntax: mapping values are not allowed here"),
        ("\ta: 1", "inventory.yaml:1: YAML syntax: found character '\\t' that cannot start any token"),
        (f"{GOOD}x: *y", "inventory.yaml:9: YAML syntax: found undefined alias 'y'"),
        (f"{GOOD}x: !!bool maybe", "inventory.yaml: YAML syntax: 'maybe'"),
        (f"{GOOD}---\n", "inventory.yaml:9: YAML syntax: but found another document"),
    ],
)
def test_a_text_that_is_no_inventory(text: str, complaint: str) -> None:
    assert complaints(text) == [complaint]


def test_all_wrong_places_are_named_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("user: ops", "usr: ops").replace("port: 8000", "port: 0").replace("gpus", "gpu", 1)
    assert complaints(text) == [
        "inventory.yaml:2: ssh.usr: unknown key; did you mean 'user'?",
        "inventory.yaml:5: serve.port: expected at least 1, got 0",
        "inventory.yaml:7: nodes[0].gpu: unknown key; did you mean 'gpus'?",
    ]


def test_what_a_node_over_ssh_has_to_say() -> None:
    assert complaints(GOOD.replace(NODE_2, "{address: 10.0.0.12}")) == [
        "inventory.yaml:8: nodes[1].gpus: is required",
        "inventory.yaml:8: nodes[1].name: is required",
    ]


def test_aliases_and_merge_keys_work_and_complaints_find_their_lines() -> None:
    text = GOOD.replace(NODE_1, f"&first {NODE_1}").replace(
        NODE_2, "{<<: *first, name: gpu-02, address: 10.0.0.12}"
    )
    assert [node.gpus for node in parse(text, "inventory.yaml").nodes] == [2, 2]
    assert complaints(text.replace("10.0.0.12", "10.0.0.11")) == [
        "inventory.yaml:8: nodes[1].address: '10.0.0.11' is already nodes[0].address"
    ]


@pytest.mark.parametrize(
    ("written", "understood"),
    [("auto", "auto"), ("none", "none"), ("mlx5_0", ("mlx5_0",)), ("[mlx5_0, mlx5_1]", ("mlx5_0", "mlx5_1"))],
)
def test_hcas_are_words_or_names(written: str, understood: object) -> None:
    text = GOOD.replace("ssh: {user: ops}", f"network: {{hcas: {written}}}")
    assert parse(text, "inventory.yaml").network.hcas == understood


def test_a_local_inventory_needs_no_ssh_and_no_image() -> None:
    (node,) = parse(PROCESS, "inventory.yaml").nodes
    assert (node.name, node.is_local, node.gpus) == ("local", True, 1)


@pytest.mark.parametrize(
    "place",
    [
        f"secrets: {{HF_TOKEN: {SECRET}}}",
        f"secrets: {SECRET}",
        f"secrets: [{SECRET}]",
        f"secrets: {{HF_TOKEN: {{env: '{SECRET} '}}}}",
        f"secrets: {{HF_TOKEN: {{env: [{SECRET}]}}}}",
        f"secrets: {{HF_TOKEN: {{file: [{SECRET}]}}}}",
        f"env: {{HF_TOKEN: {SECRET}}}",
        f"env: {{HF_TOKEN: [{SECRET}]}}",
        f"network: {{nccl_env: {{MY_API_KEY: {SECRET}}}}}",
        f"serve: {{args: {{hf_token: {SECRET}}}}}",
        f"serve: {{args: {{api-key: [{SECRET}]}}}}",
    ],
)
def test_a_secret_is_never_echoed(place: str) -> None:
    key = place.partition(":")[0]
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key}:")]
    found = complaints("\n".join([place, *lines]))
    assert found and SECRET not in "\n".join(found)


# --- files and secrets ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "no such file"), (b"\xff\xfe", "not a text file in UTF-8"), (b"", "the inventory is empty")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, what: str) -> None:
    file = tmp_path / "inventory.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InventoryError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: {what}"


def test_local_paths_start_at_the_inventory(tmp_path: Path) -> None:
    file = tmp_path / "inventory" / "local.yaml"
    file.parent.mkdir()
    file.write_text(PROCESS.replace("/opt/venv", "../.venv").replace("/models/", "./models/"))
    inventory = load(file)
    assert inventory.runtime.venv == str(tmp_path / ".venv")
    assert inventory.model.source == str(tmp_path / "inventory/models/SmolLM2-135M-Instruct")


def with_secrets(written: str) -> Inventory:
    return parse(GOOD.replace("ssh: {user: ops}", f"secrets: {written}"), "inventory.yaml")


def test_secrets_come_from_the_environment_and_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", SECRET)
    (tmp_path / "key").write_text("sk-1\n")
    inventory = with_secrets(
        f"{{HF_TOKEN: {{env: TOKEN_OF_MINE}}, VLLM_API_KEY: {{file: {tmp_path / 'key'}}}}}"
    )
    values = read_secrets(inventory, "inventory.yaml")
    assert [(name, value[:]) for name, value in values] == [("HF_TOKEN", SECRET), ("VLLM_API_KEY", "sk-1")]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("{env: NOT_SET}", "secrets.HF_TOKEN: the environment variable NOT_SET is not set"),
        ("{file: /no/such}", "secrets.HF_TOKEN: cannot read /no/such: No such file or directory"),
        ("{file: /dev/null}", "secrets.HF_TOKEN: /dev/null is empty"),
    ],
)
def test_a_secret_that_is_not_there(source: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(InventoryError) as caught:
        read_secrets(with_secrets(f"{{HF_TOKEN: {source}}}"), "inventory.yaml")
    assert str(caught.value) == f"inventory.yaml: {what}"


# --- whatever a person may write -------------------------------------------------------------------


def only_inventory_errors(text: str) -> None:
    """What parses can also be planned and shown; what does not is an InventoryError."""
    try:
        make_plan(parse(text, "inventory.yaml"))
    except InventoryError as error:
        shown = str(error).encode()
    else:
        shown = b"fine"
    assert shown


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    only_inventory_errors(text)


YAML_BITS = st.sampled_from(
    [
        *(
            "[",
            "]",
            "{",
            "}",
            ": ",
            "- ",
            "\n",
            "  ",
            "'",
            '"',
            "|",
            "&a ",
            "*a",
            "<<: *a",
            "!!bool x",
            "!!set",
        ),
        *(
            "null",
            "true",
            "-1",
            "1e400",
            "0x",
            "1:2",
            "2020-13-01",
            ".nan",
            '"\\0"',
            '"\\ud800"',
            "é",
            "#",
            "?",
        ),
    ]
)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_mutation_of_a_good_inventory(data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(YAML_BITS | st.text(max_size=4)) + text[end:]
    only_inventory_errors(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "address", "gpus", "env", "args", "port", "x[y]"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
SECTIONS = sorted(Inventory.model_fields)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(SECTIONS), JSON)
def test_any_value_in_any_section(section: str, value: object) -> None:
    import json

    lines = [line for line in GOOD.splitlines() if not line.startswith((f"{section}:", "  - "))]
    nodes = [] if section == "nodes" else GOOD.splitlines()[-2:]
    only_inventory_errors("\n".join([*lines, *nodes, f"{section}: {json.dumps(value)}"]))
