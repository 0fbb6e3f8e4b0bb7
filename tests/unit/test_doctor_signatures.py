"""The packaged signatures: each finds its own samples, and the reader of others' says what is wrong."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from cluster.doctor.diagnose import diagnose
from cluster.doctor.load import all_signatures, packaged
from cluster.doctor.signature import Signature, SignatureError, bounded, combined, parse_signatures
from cluster.doctor.words import needed_words
from cluster.log_lines import LogLine

SIGNATURES = packaged()
PARTS = ("patterns", "weak", "requires", "unless", "closed_by")
PATTERNS = [
    (signature, part, pattern)
    for signature in SIGNATURES
    for part in PARTS
    for pattern in getattr(signature, part)
]
SAMPLES = [
    pytest.param(signature, sample, id=f"{signature.id}-{number}")
    for signature in SIGNATURES
    for number, sample in enumerate(signature.samples)
]
# What stands before a message in real logs.
PREFIXES = (
    "2026-11-21T05:24:26.654017123Z ",
    "(EngineCore pid=6618) \x1b[36m(RayWorkerProc pid=7750, ip=10.0.0.2)\x1b[0m ",
    "(EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:1510] ",
    "\x1b[31m[rank0]: ",
)


def lines(text: str, prefix: str = "") -> list[LogLine]:
    return [LogLine("", "gpu-01", "log", prefix + line) for line in text.splitlines()]


@pytest.mark.parametrize(("signature", "sample"), SAMPLES)
def test_a_sample_is_diagnosed_as_its_failure(signature: Signature, sample: str) -> None:
    assert diagnose(lines(sample), SIGNATURES)[0].id == signature.id


@pytest.mark.parametrize("prefix", PREFIXES, ids=["docker", "ray", "vllm", "torch"])
def test_what_stands_before_a_message_does_not_matter(prefix: str) -> None:
    # Not those that say how a line begins or ends themselves.
    missed = [
        (signature.id, sample)
        for signature in SIGNATURES
        for sample in signature.samples
        if diagnose(lines(sample, prefix), SIGNATURES)[0].id != signature.id
    ]
    assert missed == []


@pytest.mark.parametrize("suffix", [" [repeated 15x across cluster]", "\r", "\x1b[0m"])
def test_what_stands_behind_a_message_does_not_matter(suffix: str) -> None:
    missed = [
        (signature.id, sample)
        for signature in SIGNATURES
        for sample in signature.samples
        if "\n" not in sample.strip()
        and (diagnose(lines(sample.strip() + suffix), SIGNATURES) or [signature])[0].id != signature.id
    ]
    assert missed == []


def test_every_signature_is_complete() -> None:
    for signature in SIGNATURES:
        assert signature.samples, signature.id
        assert signature.patterns or signature.weak, signature.id
        assert signature.link.startswith("https://"), signature.id


def test_precedence_names_signatures_that_there_are() -> None:
    ids = {signature.id for signature in SIGNATURES}
    assert [(one.id, other) for one in SIGNATURES for other in one.precedes if other not in ids] == []


def test_precedence_has_no_circle() -> None:
    after = {signature.id: set(signature.precedes) for signature in SIGNATURES}
    while free := [name for name, others in after.items() if not others & after.keys()]:
        for name in free:
            del after[name]
    assert after == {}


def test_every_pattern_compiles_and_has_words_to_be_found_by() -> None:
    for signature, part, pattern in PATTERNS:
        assert not re.compile(bounded(pattern), re.IGNORECASE).search(""), (signature.id, part, pattern)
        assert needed_words(pattern), (signature.id, part, pattern)


def test_no_line_takes_long() -> None:
    """Long lines of a pattern's own words, over and over: nothing backtracks for ever."""
    for signature, part, pattern in PATTERNS:
        regex = re.compile(bounded(pattern), re.IGNORECASE)
        literal = re.sub(r"\\[a-zA-Z]|[\\^$.|?*+(){}\[\]]", " ", pattern)
        for piece in (literal, literal[: len(literal) // 2], "/a:", "1.1 ", "[] ''"):
            text = (piece * (16_384 // max(1, len(piece)) + 1))[:16_384]
            started = time.process_time()
            regex.search(text)
            assert time.process_time() - started < 1.0, (signature.id, part, pattern, piece)


def test_the_catalogue_of_layers_and_kinds() -> None:
    by_id = {signature.id: signature for signature in SIGNATURES}
    assert (by_id["ray-version-mismatch"].layer, by_id["ray-version-mismatch"].kind) == ("ray", "root")
    assert by_id["engine-dead"].kind == by_id["nccl-peer-closed"].kind == "symptom"
    assert by_id["shm-broadcast-wait"].kind == by_id["gdr-off"].kind == "info"


# --- a user's own ---------------------------------------------------------------------------------

OWN = """\
- id: our-license-server
  layer: vllm
  kind: root
  patterns: ['license server (?P<node>\\S+) said no']
  cause: The license server is down.
  remedy: call Ann
"""


def test_a_signature_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    (finding,) = diagnose(lines("License server lic-1 said no"), all_signatures([tmp_path]))
    assert (finding.id, finding.node, finding.remedy) == ("our-license-server", "lic-1", "call Ann")


def test_the_same_id_replaces() -> None:
    own = parse_signatures(OWN.replace("our-license-server", "image-no-ray"), "own.yaml")
    both = combined(SIGNATURES, own)
    assert len(both) == len(SIGNATURES)
    assert diagnose(lines("ray: command not found"), both) == ()


def test_the_folder_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert all_signatures([]) == SIGNATURES
    folder = tmp_path / ".config/clusterctl/signatures"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(OWN)
    assert all_signatures([])[-1].id == "our-license-server"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            OWN.replace("kind: root", "kind: bad"),
            "own.yaml:3: our-license-server.kind: Input should be 'root'",
        ),
        (
            OWN.replace("said no", "said ("),
            "own.yaml:4: our-license-server.patterns.0: is no regular expression",
        ),
        (OWN.replace("license server (?P<node>\\S+) said no", ".*"), "matches everything"),
        (OWN.replace("cause:", "reason:"), "own.yaml:1: our-license-server.cause: Field required"),
        ("a: [", "own.yaml:2: YAML syntax"),
        ("a: b", "own.yaml:1: expected a list"),
        ("", "own.yaml:1: expected a list"),
        ("- 1", "own.yaml:1: [0]: Input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(text: str, message: str) -> None:
    with pytest.raises(SignatureError) as error:
        parse_signatures(text, "own.yaml")
    assert message in str(error.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="no such folder"):
        all_signatures([tmp_path / "none"])
