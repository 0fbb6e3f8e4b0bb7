"""The first cause first: precedence, false-positive traps, time and place."""

# ruff: noqa: E501 (log lines are as long as they are)

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.diagnose import diagnose
from cluster.doctor.finding import Finding, finding_json
from cluster.doctor.load import packaged
from cluster.doctor.report import first_cause, report
from cluster.doctor.signature import parse_signatures
from cluster.doctor.words import needed_words, words_of
from cluster.log_lines import LogLine

SIGNATURES = packaged()
SAMPLE = {signature.id: signature.samples[0] for signature in SIGNATURES}


def log(*texts: str, node: str = "gpu-01", role: str = "serve", time: str = "") -> list[LogLine]:
    return [LogLine(time, node, role, line) for text in texts for line in text.splitlines()]


def found(lines: Iterable[LogLine]) -> tuple[Finding, ...]:
    return diagnose(lines, SIGNATURES)


def ids(lines: Iterable[LogLine]) -> list[str]:
    return [finding.id for finding in found(lines)]


def wrong(lines: Iterable[LogLine]) -> list[str]:
    return [finding.id for finding in found(lines) if finding.kind != "info"]


# --- precedence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        ("ssh-key-perms", "ssh-auth-denied"),
        ("nccl-wrong-iface", "firewall-ports"),
        ("ray-ip-mismatch", "ray-missing-nodes"),
        ("fabricmanager-down", "nvls-multicast"),
        ("xid-error", "nvls-multicast"),
        ("nvls-multicast", "nccl-cuda-error"),
        ("xid-error", "nccl-cuda-error"),
        ("host-oom", "ray-node-dead"),
        ("shm-small", "disk-full"),
        ("model-arch-unsupported", "vllm-bad-argument"),
        ("ray-version-mismatch", "ray-missing-nodes"),
        ("image-no-ray", "ray-head-not-up"),
        ("firewall-ports", "nccl-system-error"),
        ("shm-small", "nccl-peer-closed"),
        ("kv-too-small", "engine-dead"),
        ("ib-memlock", "nccl-watchdog"),
    ],
)
def test_the_left_one_is_the_answer_whatever_comes_first(answer: str, other: str) -> None:
    for order in ((answer, other), (other, answer)):
        assert ids(log(*(SAMPLE[name] for name in order)))[0] == answer


def test_any_root_beats_any_symptom_beats_any_info() -> None:
    kinds = [finding.kind for finding in found(log(*SAMPLE.values()))]
    assert kinds == sorted(kinds, key=("root", "symptom", "info").index)
    assert set(kinds) == {"root", "symptom", "info"}


def test_what_follows_is_folded_under_the_first_cause() -> None:
    first, *rest = found(log(SAMPLE["engine-dead"], SAMPLE["nccl-peer-closed"], SAMPLE["host-oom"]))
    assert first.id == "host-oom"
    assert set(first.consequences) == {"engine-dead", "nccl-peer-closed"} == {one.id for one in rest}
    assert all(one.consequences == () for one in rest)


def test_two_causes_that_have_nothing_to_do_with_each_other_stay_two() -> None:
    first, second = found(log(SAMPLE["tp-heads"], SAMPLE["ssh-dns"]))
    assert (first.id, second.id, first.consequences) == ("tp-heads", "ssh-dns", ())


# --- time -----------------------------------------------------------------------------------------


def test_the_earlier_of_two_causes_comes_first_whatever_the_order_of_the_files() -> None:
    early = log(SAMPLE["ib-memlock"], node="gpu-02", time="2026-11-21T05:24:26.000000000")
    late = log(SAMPLE["tp-heads"], node="gpu-01", time="2026-11-21T05:24:27.000000000")
    assert ids([*late, *early])[0] == ids([*early, *late])[0] == "ib-memlock"


def test_clock_skew_is_taken_out() -> None:
    """gpu-02's clock is an hour ahead: what it says of 06:24 happened before 05:25."""
    lines = [
        *log(SAMPLE["tp-heads"], node="gpu-01", time="2026-11-21T05:25:00.000000000"),
        *log(SAMPLE["ib-memlock"], node="gpu-02", time="2026-11-21T06:24:00.000000000"),
    ]
    assert [one.id for one in diagnose(lines, SIGNATURES)] == ["tp-heads", "ib-memlock"]
    assert [one.id for one in diagnose(lines, SIGNATURES, {"gpu-02": 3600.0})] == ["ib-memlock", "tp-heads"]


def test_lines_without_a_time_keep_their_order() -> None:
    assert ids(log(SAMPLE["tp-heads"], SAMPLE["ib-memlock"])) == ["tp-heads", "ib-memlock"]
    assert ids(log(SAMPLE["ib-memlock"], SAMPLE["tp-heads"])) == ["ib-memlock", "tp-heads"]


# --- place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("(RayWorkerProc pid=1, ip=10.0.0.2) torch.OutOfMemoryError: CUDA out of memory.", "gpu-02"),
        ("(EngineCore pid=9) \x1b[36m(RayWorkerProc pid=1, ip=10.0.0.2)\x1b[0m OutOfMemoryError: CUDA out of memory", "gpu-02"),
        ("(RayWorkerProc pid=1, ip=10.9.9.9) OutOfMemoryError: CUDA out of memory", "10.9.9.9"),
        ("(RayWorkerProc pid=1) torch.OutOfMemoryError: CUDA out of memory.", "gpu-01"),
        ("node-b:42:42 [0] include/alloc.h:181 NCCL WARN Cuda failure 2 'out of memory'", "gpu-02"),
        ("[2026-11-21 05:35:32] node-b:42:42 [0] x.cc:1 NCCL WARN Cuda failure 'out of memory'", "gpu-02"),
        ("stranger:42:42 [0] include/alloc.h:181 NCCL WARN Cuda failure 2 'out of memory'", "gpu-01"),
        ("gpu-02 (10.0.0.2) joined with 0 of 8 GPUs", "gpu-02"),
    ],
)  # fmt: skip
def test_the_node_is_that_of_the_line(text: str, node: str) -> None:
    names = {"10.0.0.2": "gpu-02", "node-b": "gpu-02", "10.0.0.1": "gpu-01"}
    assert diagnose(log(text), SIGNATURES, names=names)[0].node == node


def test_the_node_of_a_message_of_several_lines() -> None:
    mismatch = next(one.samples[-1] for one in SIGNATURES if one.id == "ray-version-mismatch")
    (finding,) = found(log(mismatch))
    assert finding.node == "10.0.0.2"
    assert diagnose(log(mismatch), SIGNATURES, names={"10.0.0.2": "gpu-02"})[0].node == "gpu-02"
    texts = " ".join(line.text for line in finding.evidence)
    assert "2.60.0" in texts and "2.48.0" in texts


def test_two_processes_that_speak_at_once() -> None:
    """The lines of one message, with those of another rank between them."""
    one, other = "(RayWorkerProc pid=1, ip=10.0.0.2) ", "(RayWorkerProc pid=2, ip=10.0.0.3) "
    lines = log(
        one + '  File "/vllm/utils.py", line 501, in get_ip',
        other + "INFO 11-21 07:20:36 [a.py:1] fine",
        one + '    s.connect(("8.8.8.8", 80))',
        other + "INFO 11-21 07:20:37 [a.py:1] fine",
        one + "OSError: [Errno 101] Network is unreachable",
    )
    (finding,) = found(lines)
    assert (finding.id, finding.node) == ("no-default-route", "10.0.0.2")
    assert all("fine" not in line.text for line in finding.evidence)


# --- false-positive traps -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        SAMPLE["ib-device-missing"],
        "gpu-01:1:1 [0] NCCL INFO Failed to open libibverbs.so[.1]",
        "[W1121 05:35:32.1 ProcessGroupGloo.cpp:1] Unable to resolve hostname to a (local) address. Using the loopback address as fallback.",
        "INFO 11-21 07:20:36 [ray_utils.py:467] Waiting for creating a placement group of specs for 10 seconds. specs=[{'GPU': 1.0}]",
        "INFO 11-21 07:20:36 [ray_utils.py:467] Waiting for creating a placement group of specs for 40 seconds. specs=[{'GPU': 1.0}]",
        SAMPLE["shm-broadcast-wait"],
        SAMPLE["gdr-off"],
        "[Sat Nov 21 05:24:26 2026] NVRM: Xid (PCI:0000:3b:00): 45, pid=1, name=python3, Ch 00000008",
        "[Sat Nov 21 05:24:26 2026] NVRM: Xid (PCI:0000:3b:00): 31, pid=1, name=python3, MMU Fault",
        "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: http://10.0.0.1:8000/v1/models",
        "status = StatusCode.UNAVAILABLE",
        "gpu-01:1:1 [0] NCCL INFO socketPollConnect: connect to 10.0.0.2<4> returned Connection refused, retrying (1/34) after sleep for 100 msec",
        "Python patch version mismatch: The cluster was started with:",
        "0 Workers (tasks / actors) killed due to memory pressure (OOM), 2 Workers crashed due to other reasons at node",
        "Some common causes include: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called",
        "WARNING 11-21 07:20:36 [x.py:1] Found ulimit of 1024 and failed to automatically increase. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n",
        "/tmp/ray/session_1 is over 95% full, available space: 12 GB; capacity: 250 GB. Object creation will fail if spilling is required.",
        "the clock of gpu-02 is 95.0 s ahead",
        "Unable to find image 'vllm-ray:1' locally",
        "container clusterctl-x-ray: running, exit code 0, out of memory: false",
        "container clusterctl-x-ray: exited, exit code 0, out of memory: false",
        "mlx5_3 port 1: 1: DOWN",
        "(EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:1]     raise EngineDeadError(suppress_context=True)",
        "[rank0]:     raise HFValidationError(",
    ],
)  # fmt: skip
def test_what_looks_bad_and_is_usual(text: str) -> None:
    assert wrong(log(text)) == []


@pytest.mark.parametrize(
    ("text", "context", "answer"),
    [
        (SAMPLE["ib-device-missing"], "mlx5_0 port 1: 4: ACTIVE", "ib-device-missing"),
        (SAMPLE["ib-device-missing"], "x:1:1 [0] NCCL INFO NCCL_IB_HCA set by environment to =mlx5_0", "ib-device-missing"),
        ("requests.exceptions.HTTPError: 401 Client Error.", "https://huggingface.co/meta-llama", "hf-gated"),
        ("status = StatusCode.UNAVAILABLE", "http_proxy=http://10.1.1.1:3128", "proxy-env"),
        ("NVRM: Xid (PCI:0000:3b:00): 45, pid=1", "NVRM: Xid (PCI:0000:3b:00): 79, pid=1", "xid-error"),
        ("the clock of gpu-02 is 95.0 s ahead", "x509: certificate has expired or is not yet valid", "clock-skew"),
    ],
)  # fmt: skip
def test_with_its_context_it_counts(text: str, context: str, answer: str) -> None:
    assert wrong(log(text, context))[0] == answer
    assert wrong(log(context, text))[0] == answer


def test_loopback_is_harmless_on_one_node_and_not_on_two() -> None:
    using = "gpu-01:1:1 [0] NCCL INFO Bootstrap : Using lo:127.0.0.1<0>"
    assert wrong(log(using)) == []
    assert wrong(log(using, "gpu-01:1:1 [0] NCCL INFO comm 0x1 rank 0 nRanks 4 nNodes 1 localRanks 4")) == []
    on_two = log(using, "gpu-01:1:1 [0] NCCL INFO comm 0x1 rank 0 nRanks 4 nNodes 2 localRanks 2")
    assert wrong(on_two) == ["nccl-wrong-iface"]


def test_a_communicator_that_never_came_about() -> None:
    start = "gpu-0{0}:7:7 [0] NCCL INFO ncclCommInitRank comm 0xa{0} rank {0} nranks 2 cudaDev 0 - Init START"
    done = [start.format(rank).replace("START", "COMPLETE") for rank in (0, 1)]
    begun = [start.format(rank) for rank in (0, 1)]
    assert wrong(log(*begun, *done)) == []
    (finding,) = found(log(*begun, done[0]))
    assert (finding.id, finding.node) == ("nccl-init-hang", "gpu-01")
    assert wrong(log(*begun)) == ["nccl-init-hang"]


def test_a_worker_that_joins_late_is_no_failure() -> None:
    waiting = "WARNING [ray_utils.py:613] The number of required GPUs exceeds the total number of available GPUs in the placement group."
    assert wrong(log(waiting)) == ["ray-missing-nodes"]
    assert wrong(log(waiting, "INFO GPU KV cache size: 643,232 tokens, Maximum concurrency: 15.70x")) == []


def test_a_head_that_answers_late_is_no_failure() -> None:
    tried = "[2026-11-21 05:24:26,654 W 1 1] gcs_rpc_client.h:151: Failed to connect to GCS at address 10.0.0.1:6379 within 5 seconds."
    worker = log(tried, node="gpu-02", role="ray")
    assert wrong(worker) == ["ray-head-not-up"]
    assert wrong([*worker, *log("Ray runtime started.", node="gpu-02", role="ray")]) == []
    assert wrong([*worker, *log("Ray runtime started.", node="gpu-01", role="ray")]) == ["ray-head-not-up"]


# --- robustness -----------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=300), max_size=30))
def test_any_text_is_read_without_an_error(texts: list[str]) -> None:
    for finding in found([LogLine("", "n", "log", text) for text in texts]):
        finding_json(finding)


@given(st.text(max_size=40), st.sampled_from(sorted(SAMPLE)), st.text(max_size=40))
def test_a_failure_is_found_between_any_text(before: str, name: str, after: str) -> None:
    lines = [LogLine("", "n", "log", text) for text in (before, *SAMPLE[name].splitlines(), after)]
    assert name in [finding.id for finding in found(lines)] or name == "nccl-init-hang"


def test_a_line_beyond_all_measure() -> None:
    assert wrong(log("x " * 500_000 + SAMPLE["tp-heads"])) == ["tp-heads"]


def test_memory_does_not_grow_with_the_log() -> None:
    lines = (LogLine("", f"n{number % 900}", "log", SAMPLE["engine-dead"]) for number in range(5_000))
    (finding,) = found(lines)
    assert len(finding.evidence) <= 6


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("Failed to connect to GCS", {"failed", "connect", "gcs"}),
        (r"rank \d+ version (?:\d+|x) end", {"rank", "version", "end"}),
        (r"device(?: \S+)? \(on startup", {"startup"}),
        ("Bootstrap ?: Using", {"bootstrap", "using"}),
        ("foo-?bar", set()),
        ("foo|bar", set()),
        (r"colou?r is (?:red)", set()),
        (r"abc[a|b]def ghi{2,3} jkl", {"jkl"}),
        (r"first line\n\s*second line here", {"line", "here"}),
        (r"\bBus error\b", {"bus", "error"}),
        (r"\[\[gpu", {"gpu"}),
        (r"[]abc] word", {"word"}),
    ],
)
def test_the_words_that_a_pattern_needs(pattern: str, words: set[str]) -> None:
    assert needed_words(pattern) == words


def test_every_sample_has_the_words_that_its_pattern_needs() -> None:
    for signature in SIGNATURES:
        said = words_of(" ".join(signature.samples))
        patterns = (*signature.patterns, *signature.weak)
        assert any(needed_words(pattern) <= said for pattern in patterns), signature.id


# --- words for a person ---------------------------------------------------------------------------


def test_the_report() -> None:
    own = parse_signatures(
        """
- {id: cause-a, layer: ray, kind: root, patterns: [aaa bbb], cause: A broke., remedy: "`mend a`", link: "https://a"}
- {id: cause-b, layer: ray, kind: root, patterns: [ccc ddd], cause: B broke., remedy: mend b}
- {id: effect, layer: ray, kind: symptom, patterns: [eee fff], cause: It died., remedy: look}
- {id: note, layer: ray, kind: info, patterns: [ggg hhh], cause: So it is., remedy: nothing}
""",
        "own.yaml",
    )
    findings = diagnose(log("aaa bbb", "eee fff", "ccc ddd", "ggg hhh"), own)
    assert report(findings, {"gpu-09": "no answer\nat all"}).splitlines() == [
        "cause-a on gpu-01",
        "    aaa bbb",
        "  A broke.",
        "  Run: `mend a`",
        "  See: https://a",
        "  consequences: effect",
        "",
        "also: cause-b on gpu-01",
        "    ccc ddd",
        "  Do: mend b",
        "",
        "by the way: note on gpu-01",
        "    ggg hhh",
        "  Do: nothing",
        "",
        "not asked: gpu-09: no answer",
    ]


def test_the_first_cause_alone() -> None:
    infos = found(log(SAMPLE["gdr-off"]))
    assert first_cause(()) == first_cause(infos) == ""
    assert first_cause(found(log(SAMPLE["tp-heads"], SAMPLE["gdr-off"]))).startswith(
        "tp-heads on gpu-01\n    "
    )


def test_the_report_of_nothing() -> None:
    assert report((), {}) == "no known failure in these logs"


# --- what looks like a failure and is none -------------------------------------------------------


def test_a_missed_heartbeat_is_no_dead_node() -> None:
    beat = "[2026-11-21 05:24:26,654 W 412 412] gcs_health_check_manager.cc:146: Health check failed for node ab12"
    assert wrong(log(f"{beat}, remaining checks 4, status 4, response status 0, msg:")) == []
    assert wrong(log(f"{beat}, remaining checks 0, status 4, response status 0, msg:")) == ["ray-node-dead"]
    assert wrong(log(f"{beat}.")) == ["ray-node-dead"]
    ended = "(raylet) Raylet is terminated. Termination is unexpected. Possible reasons include: (1) SIGKILL"
    assert wrong(log(f"{beat}, remaining checks 4, status 14", ended))[0] == "ray-node-dead"


def test_a_link_that_comes_up_again_is_no_port_down() -> None:
    card = "[Sat Nov 21 05:24:26 2026] mlx5_core 0000:3b:00.0 ens3f0np0: Link"
    nccl = SAMPLE["ib-retry-exceeded"]
    assert wrong(log(f"{card} down")) == []
    assert wrong(log(f"{card} down", nccl))[0] == "ib-port-down"
    assert wrong(log(f"{card} down", f"{card} up", nccl)) == ["ib-retry-exceeded"]
    other = card.replace("3b", "4c")
    assert wrong(log(f"{card} down", f"{other} up", nccl))[0] == "ib-port-down"


def test_a_spare_port_is_no_cause() -> None:
    assert wrong(log("mlx5_1 port 1: 1: DOWN", SAMPLE["ib-retry-exceeded"])) == ["ib-retry-exceeded"]


def test_no_internet_is_no_missing_path() -> None:
    said = "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the Hub and we cannot find the requested files in the local cache. Please check your connection and try again or make sure your Internet connection is on."
    assert ids(log(said))[0] == "hf-unreachable"
    assert wrong(log("socket.gaierror: [Errno -3] Temporary failure in name resolution")) == []


def test_a_repository_that_nobody_may_see_is_no_missing_path() -> None:
    text = "OSError: {} is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'"
    assert ids(log(text.format("our-company/private-llama")))[0] == "hf-repo-not-found"
    assert ids(log(text.format("/models/llama")))[0] == "model-path-missing"


def test_what_users_send_is_no_failure() -> None:
    said = "INFO 11-21 07:20:36 [logger.py:39] Received request cmpl-1: prompt: 'OSError: [Errno 24] Too many open files', params: x"
    assert wrong(log(said)) == []
    assert wrong(log(said.replace("Received request cmpl-1", "x"))) == ["nofile-low"]


def test_what_the_daemon_answers_to_whoever_asks_is_no_failure() -> None:
    said = 'level=error msg="Handler for GET /v1.47/images/x/json returned error: No such image: x"'
    assert wrong(log(said, role="engine")) == []
    assert wrong(log("Error response from daemon: No such image: x")) == ["image-missing"]


def test_who_scans_a_port_is_no_failure() -> None:
    said = "Received disconnect from 203.0.113.9 port 5555:2: Too many authentication failures"
    assert wrong(log(f"Nov 21 05:24:26 gpu-02 sshd[612]: {said} [preauth]")) == []
    assert wrong(log(said)) == ["ssh-auth-denied"]
