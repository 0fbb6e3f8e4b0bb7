"""fence.sh itself: it does what the model of it does, and what only a real one can show."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from lockmodel import ModelNode

from cluster.connection import LocalConnection
from cluster.lock.commands import REFUSED, Fence
from cluster.lock.state import parse_answer
from cluster.on_node import program
from cluster.steps import Argv, Result

FOLDER = ".local/state/clusterctl/demo/gpu-01"
ABOUT = "who=a@b\nmachine=\npid=1\nstarted=2\ncommand=up x.yaml = 3\nsince=2026-11-21T00:00:00Z\n"
EPOCHS = st.integers(1, 6)
TOKENS = st.sampled_from(("a", "b", "c"))


class RealNode:
    """A home folder with the real script in it, whose clock and boot are files of the test's."""

    def __init__(self, home: Path) -> None:
        self.home, self.line = home, LocalConnection()
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        script = program("fence.sh")
        for path in ("/proc/uptime", "/proc/sys/kernel/random/boot_id"):
            assert path in script
            script = script.replace(path, str(home / path.rpartition("/")[2]))
        self.fence = Fence(FOLDER, script)
        self.set_clock(100)
        self.set_boot("boot-1")

    def set_clock(self, now: int) -> None:
        (self.home / "uptime").write_text(f"{now // 100}.{now % 100:02} 12345.67\n")

    def set_boot(self, boot: str) -> None:
        (self.home / "boot_id").write_text(f"{boot}\n")

    def run(self, argv: Argv, stdin: str = "") -> Result:
        return self.line.run(argv, stdin, timeout=30)

    def state(self) -> str:
        file = self.home / FOLDER / "lock"
        return file.read_text() if file.exists() else ""

    def begin(self, argv: Argv, number: int) -> None:
        """A command that goes on until it is told to end, or killed."""
        process = subprocess.Popen(
            argv, cwd=self.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout and process.stdout.readline() == b"runs\n"
        self.running[number] = process

    def end(self, number: int) -> int:
        """Its exit code."""
        process = self.running.pop(number)
        with process:
            assert process.stdin
            process.stdin.close()
            process.stdin = None
            return process.wait(10)

    def kill(self, number: int) -> None:
        process = self.running.pop(number)
        os.killpg(process.pid, 9)
        with process:
            process.wait(10)


UNTIL_STDIN_ENDS = ("sh", "-c", "echo runs; cat; exit 7")


class Conformance(RuleBasedStateMachine):
    """The same words to both."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.before = os.environ["HOME"]
        os.environ["HOME"] = self.folder.name
        self.now = 100
        self.real, self.model = RealNode(Path(self.folder.name)), ModelNode(lambda: self.now)

    def teardown(self) -> None:
        os.environ["HOME"] = self.before
        for number in list(self.real.running):
            self.real.kill(number)
        self.folder.cleanup()

    @rule(
        epoch=EPOCHS, token=TOKENS, ahead=st.integers(-1, 40), over=st.just("") | TOKENS, same=st.booleans()
    )
    def acquire(self, epoch: int, token: str, ahead: int, over: str, same: bool) -> None:
        boot = self.model.boot if same or epoch > 2 else "boot-0"
        words = (epoch, token, self.now + ahead, boot, 0.3, over, ABOUT)
        running = set(self.model.running)
        mine = self.model.acquire(epoch, token, self.now + ahead, boot, "0.3", over, ABOUT)
        self._same(mine, self.real.run(self.real.fence.acquire(*words), self.real.fence.script))
        for number in running - set(self.model.running):
            process = self.real.running.pop(number)
            with process:
                assert process.wait(0) == -9, "it has to be gone before the acquire is answered"

    @rule(epoch=EPOCHS, token=TOKENS, ahead=st.integers(-1, 40), held=st.booleans())
    def renew(self, epoch: int, token: str, ahead: int, held: bool) -> None:
        epoch, token = self._held() if held else (epoch, token)
        words = (epoch, token, self.now + ahead)
        self._same(self.model.renew(*words), self._fenced(self.real.fence.renew(*words)))

    @rule(epoch=EPOCHS, token=TOKENS, settled=st.booleans(), held=st.booleans())
    def release(self, epoch: int, token: str, settled: bool, held: bool) -> None:
        epoch, token = self._held() if held else (epoch, token)
        words = (epoch, token, settled)
        self._same(self.model.release(*words), self._fenced(self.real.fence.release(*words)))

    @rule(epoch=EPOCHS, token=TOKENS, held=st.integers(0, 3), code=st.sampled_from((0, 3)))
    def guard(self, epoch: int, token: str, held: int, code: int) -> None:
        epoch, token = self._held() if held else (epoch, token)
        begun = self.model.begin(epoch, token)
        real = self._fenced(self.real.fence.guard(epoch, token, ("sh", "-c", f"cat; exit {code}")), "in")
        if isinstance(begun, str):
            assert real == Result(REFUSED, "", f"clusterctl fence: refused: {begun}\n")
        else:
            self.model.end(begun)
            assert real == Result(code, "in", "")

    @rule(epoch=EPOCHS, token=TOKENS, held=st.integers(0, 3))
    def put(self, epoch: int, token: str, held: int) -> None:
        epoch, token = self._held() if held else (epoch, token)
        begun, text = self.model.begin(epoch, token), f"{self.now}\n"
        real = self._fenced(self.real.fence.put(epoch, token, "d e/f", 0o640, len(text)), text)
        if isinstance(begun, str):
            assert real.exit_code == REFUSED and real.stderr.endswith(f"refused: {begun}\n")
        else:
            self.model.end(begun)
            assert real == Result(0, "", "")
            assert (self.real.home / "d e/f").read_text() == text

    @rule()
    def begin(self) -> None:
        epoch, token = self._held()
        begun = self.model.begin(epoch, token)
        if isinstance(begun, int):
            self.real.begin(self.real.fence.guard(epoch, token, UNTIL_STDIN_ENDS), begun)

    @rule()
    def end(self) -> None:
        for number in list(self.real.running)[:1]:
            self.model.end(number)
            assert self.real.end(number) == 7

    @rule(centiseconds=st.integers(1, 50))
    def time_goes_on(self, centiseconds: int) -> None:
        self.now += centiseconds
        self.real.set_clock(self.now)

    @rule(boot=st.sampled_from(("boot-2", "boot-3")))
    def reboot(self, boot: str) -> None:
        for number in list(self.real.running):
            self.real.kill(number)
        self.model.reboot(boot)
        self.real.set_boot(boot)

    def _held(self) -> tuple[int, str]:
        return self.model.state.epoch, self.model.state.token or "none"

    def _fenced(self, argv: Argv, stdin: str = "") -> Result:
        """The script has to be there first; with a lock that nobody takes."""
        if not (self.real.home / self.real.fence.path).exists():
            never = self.real.fence.acquire(1, "x", 0, "no boot", 1.0, "", "")
            self.real.run(never, self.real.fence.script)
        return self.real.run(argv, stdin)

    def _same(self, model: Result, real: Result) -> None:
        assert (real.exit_code, parse_answer(real.stdout)) == (model.exit_code, parse_answer(model.stdout))
        assert parse_answer(real.stdout) is not None, real
        assert self.real.state() == self.model.text


def test_it_does_what_the_model_does() -> None:
    run_state_machine_as_test(
        Conformance,
        settings=settings(
            max_examples=8 + int(os.environ.get("CLUSTERCTL_FUZZ") or 0) // 50,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- what only a real one can show ----------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealNode]:
    """Epoch 1 is held by token a, until 1000."""
    monkeypatch.setenv("HOME", str(tmp_path))
    real = RealNode(tmp_path)
    assert acquire(real, 1, "a").exit_code == 0
    yield real
    for number in list(real.running):
        real.kill(number)


def acquire(node: RealNode, epoch: int, token: str, over: str = "") -> Result:
    return node.run(node.fence.acquire(epoch, token, 1000, "boot-1", 9.0, over, ABOUT), node.fence.script)


def guarded(node: RealNode, *argv: str) -> Argv:
    return node.fence.guard(1, "a", argv)


def test_what_a_command_starts_in_the_background_lives_on_and_keeps_nobody_waiting(node: RealNode) -> None:
    """As an engine's daemon does: in a session of its own, with no stream of the command's."""
    daemon = "setsid sh -c 'echo $$ >pid; exec tail -f /dev/null' </dev/null >/dev/null 2>&1 &"
    assert node.run(guarded(node, "sh", "-c", f"{daemon} until [ -s pid ]; do :; done")).exit_code == 0
    pid = int((node.home / "pid").read_text())
    try:
        assert acquire(node, 2, "b", over="a").exit_code == 0
        os.kill(pid, 0)
    finally:
        os.kill(pid, 9)


def test_all_of_a_former_command_is_killed_also_what_ignores_other_signals(node: RealNode) -> None:
    stubborn = "trap '' TERM HUP INT; sh -c 'trap \"\" TERM; echo $$ >child; echo runs; cat'; cat"
    node.begin(guarded(node, "sh", "-c", stubborn), 1)
    child = int((node.home / "child").read_text())
    assert acquire(node, 2, "b", over="a").exit_code == 0
    assert not runs(child)
    with node.running.pop(1) as process:
        assert process.wait(10) == -9


def runs(pid: int) -> bool:
    """A zombie has ended; its parent has only not heard of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_command_whose_shell_was_killed_is_found_by_its_group(node: RealNode) -> None:
    node.begin(guarded(node, "sh", "-c", "echo $PPID >shell; echo runs; trap '' HUP; cat; cat"), 1)
    os.kill(int((node.home / "shell").read_text()), 9)
    assert acquire(node, 2, "b", over="a").exit_code == 0
    process = node.running.pop(1)
    with process:
        assert process.stdout and process.stdout.read() == b""  # nobody holds the pipe any more


def test_a_note_of_another_process_kills_nobody(node: RealNode) -> None:
    """A process id that was used again, and one of another boot."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as bystander:
        notes = node.home / FOLDER / "inflight"
        (notes / "77").write_text(f"{bystander.pid} 1 boot-1\n")
        (notes / "78").write_text(f"{bystander.pid} {started(bystander.pid)} boot-0\n")
        assert acquire(node, 2, "b", over="a").exit_code == 0
        assert bystander.poll() is None
        assert sorted(path.name for path in notes.iterdir()) == [".mutex", ".running"]
        (notes / "79").write_text(f"{bystander.pid} {started(bystander.pid)} boot-1\n")
        assert acquire(node, 3, "c", over="b").exit_code == 0
        assert bystander.wait(10) == -9  # and this is how it would have been found


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_many_at_once_are_granted_one_epoch_each(node: RealNode) -> None:
    answers: list[Result] = []
    threads = [
        threading.Thread(target=lambda token=token: answers.append(acquire(node, 2, token, over="a")))
        for token in "bcdefgh"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = sorted(answer.word for result in answers if (answer := parse_answer(result.stdout)))
    assert words == ["held"] * 6 + ["ok"]


def test_a_file_that_did_not_arrive_whole_is_not_there(node: RealNode) -> None:
    (node.home / "file").write_text("as it was")
    result = node.run(node.fence.put(1, "a", "file", 0o644, 100), "too short")
    assert result.exit_code == 1
    assert (node.home / "file").read_text() == "as it was"


def test_a_script_that_did_not_arrive_whole_leaves_nothing(node: RealNode) -> None:
    script = node.home / node.fence.path
    before = sorted(path.name for path in script.parent.iterdir() if path != script)
    script.unlink()
    words = node.fence.acquire(2, "b", 10_000, "boot-1", 30.0, "a", ABOUT)
    assert node.run(words, node.fence.script[:100]).exit_code == 1
    assert sorted(path.name for path in script.parent.iterdir()) == before
    assert node.run(words, node.fence.script).exit_code == 0


def test_streams_umask_and_words_arrive_as_they_are(node: RealNode) -> None:
    words = ("sh", "-c", 'umask; printf "<%s>" "$@"; echo oh >&2', "0", "a b", "", "$HOME", "*", "'\"")
    result = node.run(guarded(node, *words))
    assert result == Result(0, f"{node.run(('sh', '-c', 'umask')).stdout}<a b><><$HOME><*><'\">", "oh\n")


def test_a_damaged_lock_lets_nobody_pass(node: RealNode) -> None:
    (node.home / FOLDER / "lock").write_text("epoch=many\n")
    for result in (node.run(guarded(node, "true")), acquire(node, 9, "z")):
        assert result.exit_code == REFUSED
        assert "is damaged: look at it, and remove it if nobody is at work" in result.stderr


def test_a_lock_that_was_removed_is_nobodys(node: RealNode) -> None:
    (node.home / FOLDER / "lock").unlink()
    assert "refused: superseded" in node.run(guarded(node, "true")).stderr
    assert acquire(node, 1, "b").exit_code == 0


def test_its_shell_is_plain() -> None:
    script = Path(__file__).parents[2] / "cluster/on_node/fence.sh"
    subprocess.run(["sh", "-n", str(script)], check=True)
    shellcheck = Path(os.sys.executable).with_name("shellcheck")  # type: ignore[attr-defined]
    subprocess.run([str(shellcheck), str(script)], check=True)
