"""`clusterctl doctor`: over a fleet that answers, over files, and the archive."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes import FakeFleet, Outcome
from samples import GOOD

from cluster import cli
from cluster.collect import explain
from cluster.connection import Connection
from cluster.errors import ConnectionLost
from cluster.inventory import parse
from cluster.plan import make_plan
from cluster.steps import Result

Doctor = Callable[..., Outcome]
TEXT, TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
FINDING = {
    "id": TEXT,
    "kind": {"enum": ["root", "symptom", "info"]},
    "layer": TEXT,
    "node": TEXT,
    "evidence": {**TEXTS, "minItems": 1},
    "cause": TEXT,
    "remedy": TEXT,
    "link": TEXT,
    "consequences": TEXTS,
}
SCHEMA = {
    "type": "object",
    "required": ["ok", "findings", "unreachable"],
    "properties": {
        "ok": {"type": "boolean"},
        "unreachable": {"type": "object"},
        "findings": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": FINDING,
                "required": list(FINDING),
                "additionalProperties": False,
            },
        },
    },
}
STATE = "/clusterctl-demo-ray {0} {1} {2} 2026-11-21T05:20:00.1Z 2026-11-21T05:24:26.5Z sha256:{3} \n"
RUNNING = STATE.format("running", 0, "false", "aaa")
OOM = STATE.format("exited", 137, "true", "aaa")
FULL = "OSError: [Errno 24] Too many open files\n"
DEAD = (
    "2026-11-21T05:24:30.1Z (EngineCore pid=1) ERROR 11-21 05:24:30 [ray_executor_v2.py:522] "
    "RayWorkerProc rank=[1] died unexpectedly, shutting down executor.\n"
)


class Stdin:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    monkeypatch.setenv("HOME", str(tmp_path))

    def call(*words: object) -> Outcome:
        code = cli.main(["doctor", *(str(word) for word in words)])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


def report(outcome: Outcome) -> dict[str, Any]:
    (content,) = outcome.events
    jsonschema.validate(content, SCHEMA)
    return content


# --- files ----------------------------------------------------------------------------------------


def test_nothing_to_look_at(doctor: Doctor) -> None:
    outcome = doctor()
    assert outcome.code == 2
    assert "an inventory" in outcome.err and "log files" in outcome.err


def test_several_files_are_put_in_time_order(doctor: Doctor, tmp_path: Path) -> None:
    head, worker = tmp_path / "gpu-01.log", tmp_path / "gpu-02.log.gz"
    head.write_text(DEAD)
    worker.write_bytes(
        gzip.compress(b"[2026-11-21 05:24:20,000 E 1 1] (raylet) OSError: [Errno 24] Too many open files\n")
    )
    outcome = doctor("--json", head, worker)
    content = report(outcome)
    assert (outcome.code, content["ok"]) == (1, False)
    first, second = content["findings"]
    assert (first["id"], first["node"], first["consequences"]) == ("nofile-low", "gpu-02", ["engine-dead"])
    assert (second["id"], second["node"], second["kind"]) == ("engine-dead", "gpu-01", "symptom")


def test_one_node_of_several(doctor: Doctor, tmp_path: Path) -> None:
    for name, text in (("gpu-01", DEAD), ("gpu-02", "OSError: [Errno 24] Too many open files\n")):
        (tmp_path / f"{name}.log").write_text(text)
    content = report(doctor("--json", "--node", "gpu-01", tmp_path / "gpu-01.log", tmp_path / "gpu-02.log"))
    assert [finding["id"] for finding in content["findings"]] == ["engine-dead"]


def test_stdin(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b"/bin/bash: line 1: ray: command not found\n\xff\xfe\n"))
    outcome = doctor("-")
    assert outcome.code == 1
    assert outcome.lines[0] == "image-no-ray"
    assert "    /bin/bash: line 1: ray: command not found" in outcome.lines


def test_a_healthy_log(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    file.write_text("INFO 11-21 07:20:36 [a.py:1] Application startup complete.\n")
    assert (doctor(file).code, doctor(file).out) == (0, "no known failure in these logs\n")
    assert report(doctor("--json", file)) == {"ok": True, "findings": [], "unreachable": {}}


def test_an_error_that_no_signature_knows(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "gpu-01.log"
    header = "(EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:1] "
    said = ["Traceback (most recent call last):", '  File "x.py", line 1, in f', "    g()", "FrobError: odd"]
    file.write_text("".join(f"{header}{line}\n" for line in said) + "something else: x\n")
    outcome = doctor("--json", file)
    (finding,) = report(outcome)["findings"]
    assert (outcome.code, finding["id"], finding["kind"]) == (1, "unknown-error", "root")
    assert finding["evidence"] == [header + "FrobError: odd"]
    file.write_text(file.read_text() + "OSError: [Errno 24] Too many open files\n")
    assert [one["id"] for one in report(doctor("--json", file))["findings"]] == ["nofile-low"]


def test_what_is_told_to_stop_need_not_end_well(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "gpu-01.log"
    for before, code in (("INFO: Shutting down\n", 0), ("", 1)):
        file.write_text(f"{before}Traceback (most recent call last):\n    g()\nFrobError: odd\n")
        assert doctor(file).code == code


@pytest.mark.parametrize("end", ["KeyboardInterrupt", "FrobError: odd\nINFO Application startup complete."])
def test_an_exception_that_is_no_failure(doctor: Doctor, tmp_path: Path, end: str) -> None:
    file = tmp_path / "gpu-01.log"
    file.write_text(f"Traceback (most recent call last):\n    g()\n{end}\n")
    assert (doctor(file).code, doctor(file).out) == (0, "no known failure in these logs\n")


def test_evidence_has_no_secrets(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "gpu-01.log"
    file.write_text("OSError: [Errno 24] Too many open files, HF_TOKEN=hunter2\n")
    for outcome in (doctor(file), doctor("--json", file)):
        assert "hunter2" not in outcome.out and "Too many open files" in outcome.out


def test_infos_alone_are_no_failure(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    file.write_text("vm:1:1 [0] NCCL INFO NET/IB : No device found.\n")
    outcome = doctor("--json", file)
    content = report(outcome)
    assert (outcome.code, content["ok"], content["findings"][0]["kind"]) == (0, True, "info")


@pytest.mark.parametrize("content", [b"\x1f\x8bbroken", b"\x1f\x8b\x08\x00"])
def test_a_broken_gzip(doctor: Doctor, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gz").write_bytes(content)
    outcome = doctor(tmp_path / "x.gz")
    assert (outcome.code, "x.gz: " in outcome.err) == (2, True)


def test_a_file_that_is_not_there(doctor: Doctor, tmp_path: Path) -> None:
    outcome = doctor(tmp_path / "none.log")
    assert (outcome.code, "no such file" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    "content",
    [bytes(range(256)) * 40, FULL.encode("utf-16"), FULL.encode("utf-16-le"), b"PK\x03\x04" + b"x" * 99],
    ids=["binary", "utf-16", "utf-16 without its mark", "zip"],
)
def test_what_is_no_text_is_not_healthy(doctor: Doctor, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.log").write_bytes(content)
    outcome = doctor(tmp_path / "x.log")
    assert (outcome.code, "x.log: is not text" in outcome.err) == (2, True)


def test_odd_bytes_are_no_error(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"\0" * 20_000 + b"\x1b[31m\xff\xfe " + FULL.encode())
    assert doctor(tmp_path / "x.log").code == 1


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_packed_logs(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "gpu-07.log.xz").write_bytes(pack(FULL.encode()))
    (finding,) = report(doctor("--json", tmp_path / "gpu-07.log.xz"))["findings"]
    assert (finding["id"], finding["node"]) == ("nofile-low", "gpu-07")
    monkeypatch.setattr("sys.stdin", Stdin(pack(FULL.encode())))
    assert report(doctor("--json", "-"))["findings"][0]["id"] == "nofile-low"


def test_a_folder_a_device_and_a_pipe(doctor: Doctor, tmp_path: Path) -> None:
    outcome = doctor(tmp_path)
    assert (outcome.code, "is a folder: name the files in it" in outcome.err) == (2, True)
    assert doctor("/dev/null").code == 0
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(FULL))
    writer.start()
    assert doctor(tmp_path / "pipe").code == 1
    writer.join()


def test_a_node_that_no_line_is_of(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "gpu-01.log").write_text(FULL)
    outcome = doctor("--node", "gpu-09", tmp_path / "gpu-01.log")
    assert (outcome.code, "--node gpu-09" in outcome.err, "gpu-01" in outcome.err) == (2, True, True)
    assert doctor("--node", "gpu-01", tmp_path / "gpu-01.log").code == 1


def test_the_node_of_a_line_of_syslog(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "messages.log").write_text(
        "Nov 21 05:24:26 gpu-02 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=4211, name=python3, GPU has "
        "fallen off the bus.\n"
    )
    (finding,) = report(doctor("--json", tmp_path / "messages.log"))["findings"]
    assert (finding["id"], finding["node"]) == ("xid-error", "gpu-02")
    assert doctor("--node", "gpu-02", tmp_path / "messages.log").code == 1


def test_files_of_one_name_are_of_two_nodes(doctor: Doctor, tmp_path: Path) -> None:
    files = [tmp_path / folder / "vllm.log" for folder in ("A", "B")]
    for file, text in zip(files, (FULL, DEAD), strict=True):
        file.parent.mkdir()
        file.write_text(text)
    found = report(doctor("--json", *files))["findings"]
    assert {one["id"]: one["node"] for one in found} == {"nofile-low": "A/vllm", "engine-dead": "B/vllm"}


def test_signatures_of_ones_own(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = tmp_path / "own/own.yaml"
    own.write_text("- {id: ours, layer: host, kind: root, patterns: [foo bar], cause: c, remedy: r}\n")
    (tmp_path / "x.log").write_text("a foo bar b\n")
    outcome = doctor("--json", "--signatures", own.parent, tmp_path / "x.log")
    assert report(outcome)["findings"][0]["id"] == "ours"
    own.write_text("- {id: ours, layer: host, kind: root, patterns: ['('], cause: c, remedy: r}\n")
    outcome = doctor("--signatures", own.parent, tmp_path / "x.log")
    assert outcome.code == 2
    assert f"error: {own}:1: ours.patterns.0: is no regular expression" in outcome.err


def test_an_inventory_with_a_mistake(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "inventory.yaml"
    file.write_text(GOOD.replace("gpus: 2", "gpus: two"))
    assert doctor(file).code == 3
    assert doctor(file, file).code == 2
    file.write_text("cluster: demo\n")
    outcome = doctor(file)
    assert (outcome.code, "nodes" in outcome.err) == (3, True)


# --- a fleet --------------------------------------------------------------------------------------


def test_a_fleet(doctor: Doctor, fleet: FakeFleet) -> None:
    fleet.facts = {
        "gpu-01": {"log_serve": Result(0, DEAD, ""), "state": Result(0, RUNNING, "")},
        "gpu-02": {"state": Result(0, OOM, ""), "hostname": Result(0, "node-b\n", "")},
    }  # fmt: skip
    outcome = doctor("--json", fleet.file)
    content = report(outcome)
    first, second, *_ = content["findings"]
    assert (outcome.code, first["id"], first["node"]) == (1, "host-oom", "gpu-02")
    assert first["evidence"] == ["container clusterctl-demo-ray: exited, exit code 137, out of memory: true"]
    assert (second["id"], "engine-dead" in first["consequences"]) == ("engine-dead", True)
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}
    assert sorted(fleet.closed) == ["gpu-01", "gpu-02"]


def test_a_healthy_fleet(doctor: Doctor, fleet: FakeFleet) -> None:
    assert (doctor(fleet.file).code, doctor(fleet.file).out) == (
        0,
        "no known failure in these logs\n",
    )


def test_a_node_that_cannot_be_reached_is_a_cause(doctor: Doctor, fleet: FakeFleet) -> None:
    fleet.nodes["gpu-02"].unreachable = "no answer from 10.0.0.12:22 within 10 s: is the node up?"
    outcome = doctor("--json", fleet.file)
    content = report(outcome)
    assert (outcome.code, content["unreachable"]) == (4, {"gpu-02": fleet.nodes["gpu-02"].unreachable})
    assert (content["findings"][0]["id"], content["findings"][0]["node"]) == ("ssh-unreachable", "gpu-02")


def test_one_node_of_a_fleet(doctor: Doctor, fleet: FakeFleet) -> None:
    doctor("--node", "gpu-02", fleet.file)
    assert fleet.opened == ["gpu-02"]
    assert doctor("--node", "gpu-09", fleet.file).code == 2


def test_different_images_and_one_hostname(doctor: Doctor, fleet: FakeFleet) -> None:
    fleet.facts = {
        name: {
            "state": Result(0, STATE.format("running", 0, "false", image), ""),
            "hostname": Result(0, "localhost\n", ""),
        }
        for name, image in (("gpu-01", "aaa"), ("gpu-02", "bbb"))
    }
    content = report(doctor("--json", fleet.file))
    assert {finding["id"] for finding in content["findings"]} == {"image-drift", "duplicate-hostname"}
    assert all(finding["node"] == "gpu-02" for finding in content["findings"])


def test_what_the_kernel_said_before_the_cluster_was_started_is_somebody_elses(
    doctor: Doctor, fleet: FakeFleet
) -> None:
    killed = "{}+00:00 Out of memory: Killed process 4211 (python3)\n"
    for time, code in (("2026-11-21T05:10:00,0", 0), ("2026-11-21T05:23:00,0", 1)):
        fleet.facts = {
            "gpu-01": {
                "state": Result(0, STATE.format("running", 0, "false", "aaa"), ""),
                "kernel": Result(0, killed.format(time), ""),
            }
        }
        assert doctor(fleet.file).code == code


def test_clock_skew_is_taken_out(doctor: Doctor, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """gpu-02 is an hour ahead: what it says of 06:24 happened before what gpu-01 says of 05:25."""
    monkeypatch.setattr("cluster.collect.time.time", lambda: 1795238700.0)
    fleet.facts = {
        "gpu-01": {
            **{f"clock_{end}": Result(0, "1795238700.000000000\n", "") for end in ("began", "ended")},
            "log_ray": Result(0, "2026-11-21T05:25:00Z OSError: [Errno 24] Too many open files\n", ""),
        },
        "gpu-02": {
            **{f"clock_{end}": Result(0, "1795242300.000000000\n", "") for end in ("began", "ended")},
            "log_ray": Result(0, "2026-11-21T06:24:00Z /bin/sh: 1: ray: not found\n", ""),
        },
    }
    content = report(doctor("--json", fleet.file))
    assert [finding["id"] for finding in content["findings"]] == ["image-no-ray", "nofile-low", "clock-skew"]
    assert content["findings"][2]["evidence"] == ["the clock of gpu-02 is 3600.0 s ahead"]


def test_files_beside_an_inventory(doctor: Doctor, fleet: FakeFleet, tmp_path: Path) -> None:
    (tmp_path / "gpu-07.log").write_text("OSError: [Errno 24] Too many open files\n")
    (finding,) = report(doctor("--json", fleet.file, tmp_path / "gpu-07.log"))["findings"]
    assert (finding["id"], finding["node"]) == ("nofile-low", "gpu-07")


# --- for `up` -------------------------------------------------------------------------------------


def test_explain_never_raises(fleet: FakeFleet) -> None:
    plan = make_plan(parse(GOOD, "inventory.yaml"))

    class Broken:
        def run(self, *_: object, **__: object) -> Result:
            raise RuntimeError("a bug")

    class Lost:
        def run(self, *_: object, **__: object) -> Result:
            raise ConnectionLost("the connection to gpu-01 broke: end of file")

    broken: dict[str, Connection] = {"gpu-01": Broken()}  # type: ignore[dict-item]
    lost: dict[str, Connection] = {"gpu-01": Lost()}  # type: ignore[dict-item]
    assert explain(plan, broken, {}) == ()
    assert [finding.id for finding in explain(plan, lost, {})] == ["ssh-connection-lost"]
    fleet.facts = {"gpu-02": {"state": Result(0, OOM, "")}}
    first, *_ = explain(plan, fleet.nodes, {})
    assert (first.id, first.node) == ("host-oom", "gpu-02")


# --- the archive ----------------------------------------------------------------------------------


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }


def test_the_archive(
    doctor: Doctor, fleet: FakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_VALUE", "rather-unusual-value")
    fleet.write(GOOD + "secrets: {OUR_VALUE: {env: OUR_VALUE}, GONE: {env: NOT_SET}}\n")
    said = "2026-11-21T05:24:26Z token is rather-unusual-value, HF_TOKEN=hf_" + "abcdefgh12345678\n" + DEAD
    fleet.facts = {"gpu-01": {"log_serve": Result(0, said, "")}}
    path = tmp_path / "report.tar.gz"
    outcome = doctor(fleet.file, "--collect", "-o", path)
    assert (outcome.code, str(path) in outcome.lines[-1]) == (1, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = unpacked(path)
    assert {
        "README.txt",
        "findings.json",
        "nodes.json",
        "inventory.yaml",
        "gpu-01/log_serve.log",
    } <= files.keys()
    everything = "".join(files.values())
    assert "rather-unusual-value" not in everything and "abcdefgh12345678" not in everything
    assert json.loads(files["findings.json"])[0]["id"] == "engine-dead"
    assert "RayWorkerProc rank=[1] died" in files["gpu-01/log_serve.log"]
    assert json.loads(files["nodes.json"])["unreachable"] == {}


def test_the_archives_default_name(
    doctor: Doctor, fleet: FakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpu-07.log").write_text("password=hunter2\n")
    doctor(fleet.file, "gpu-07.log", "--collect", "--json")
    (path,) = tmp_path.glob("clusterctl-demo-2*Z.tar.gz")
    assert unpacked(path)["files/gpu-07.log"] == "password=[redacted]"


def test_logs_of_one_name_and_stdin_are_in_the_archive(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b"from stdin\n" + DEAD.encode()))
    files = [tmp_path / folder / "vllm.log" for folder in ("A", "B", "C")]
    for file in files:
        file.parent.mkdir()
        file.write_text(f"of {file.parent.name}\n")
    path = tmp_path / "report.tgz"
    outcome = doctor("--json", "-o", path, "-", *files)
    assert [one["id"] for one in report(outcome)["findings"]] == ["engine-dead"]
    found = unpacked(path)
    assert found["files/stdin.log"].startswith("from stdin\n")
    said = {found[name].strip() for name in found if name.startswith("files/") and "vllm.log" in name}
    assert said == {"of A", "of B", "of C"}
    with tarfile.open(path) as archive:
        assert {member.name.partition("/")[0] for member in archive.getmembers()} == {"report"}


def test_what_the_inventory_itself_names_secret_is_gone(
    doctor: Doctor, fleet: FakeFleet, tmp_path: Path
) -> None:
    own = "gpus: 2, env: {SMTP_PASS: plainsecret, WANDB_KEY: othersecret}"
    fleet.write(GOOD.replace("gpus: 2", own))
    said = "2026-11-21T05:24:26Z OSError: [Errno 24] Too many open files, plainsecret othersecret\n"
    fleet.facts = {"gpu-01": {"log_serve": Result(0, said, "")}}
    path = tmp_path / "report.tar.gz"
    outcome = doctor("-o", path, fleet.file)
    everything = "".join(unpacked(path).values()) + outcome.out
    assert "Too many open files, [redacted] [redacted]" in everything
    assert "plainsecret" not in everything and "othersecret" not in everything


def test_the_archive_is_written_before_anything_is_said(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "gpu-01.log").write_text(DEAD)
    outcome = doctor("--json", "-o", tmp_path / "none" / "x.tar.gz", tmp_path / "gpu-01.log")
    assert (outcome.code, outcome.out, "cannot write" in outcome.err) == (2, "", True)


def test_an_archive_that_cannot_be_written(doctor: Doctor, fleet: FakeFleet, tmp_path: Path) -> None:
    outcome = doctor(fleet.file, "-o", tmp_path / "none" / "x.tar.gz")
    assert (outcome.code, "cannot write" in outcome.err) == (2, True)
