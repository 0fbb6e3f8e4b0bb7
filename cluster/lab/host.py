"""What one can do to a running host: run a command in it, cut its cable, stop and start its services."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from cluster.errors import LabError
from cluster.lab import engine, files, processes
from cluster.lab.spec import Host

ENGINE_EXIT = "/run/docker.exit"
ENVIRONMENT = {"PATH": files.PATH, "HOME": "/root", "LANG": "C.UTF-8"}


def init_pid(host: Host) -> int | None:
    return processes.init_pid(processes.members([host.name])[host.name])


def start(host: Host) -> None:
    """Boot it: returns at once, the host goes on by itself."""
    with host.boot_log.open("ab") as log:
        subprocess.run(
            files.enter_argv(host.name, str(host.boot_script)),
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )


def run(host: Host, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """A command inside the host, as its root; `docker` speaks to the host's own engine."""
    init = init_pid(host)
    if init is None:
        raise LabError(f"{host.name} is not running")
    inside = ("nsenter", "--target", str(init), "--all", "--", *argv)
    return subprocess.run(
        inside,
        env=ENVIRONMENT,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def power_off(host: Host) -> None:
    """All of its processes are gone at once, those in containers too; what is on its disk stays."""
    processes.kill_all([host.name])


def boot(host: Host) -> None:
    """Start it and wait for its services."""
    start(host)
    wait_for_sshd(host)
    if host.engine:
        wait_for_engine(host)


def link_down(host: Host) -> None:
    """As if the cable were pulled: connections hang, nothing is refused."""
    _do(host, "ip", "link", "set", "eth0", "down")


def link_up(host: Host) -> None:
    """With its route: the kernel forgets the routes of an interface that goes down."""
    _do(host, "ip", "link", "set", "eth0", "up")
    _do(host, "ip", "route", "replace", "default", "via", host.gateway)


def stop_sshd(host: Host) -> None:
    """New connections are refused; open ones live on, as with a real sshd."""
    _stop(host, "/run/sshd.pid", "TERM")


def start_sshd(host: Host) -> None:
    _do(host, "sh", "-c", "exec setsid --fork /etc/lab/sshd >/dev/null 2>&1")
    wait_for_sshd(host)


def stop_engine(host: Host, signal: str = "TERM") -> None:
    """TERM stops its containers too; KILL is a crash, which they survive until the engine starts again."""
    _stop(host, "/run/docker.pid", signal)


def start_engine(host: Host) -> None:
    _do(host, "sh", "-c", f"rm -f {ENGINE_EXIT} && exec setsid --fork /etc/lab/engine >/dev/null 2>&1")
    wait_for_engine(host)


def sshd_answers(host: Host, timeout: float = 1) -> bool:
    try:
        with socket.create_connection((host.address, 22), timeout=timeout) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def engine_answers(host: Host) -> bool:
    init = init_pid(host)
    return init is not None and engine.answers(init)


def wait_for_boot(host: Host) -> None:
    """Until its init runs."""
    _wait(
        lambda: init_pid(host) is not None,
        10,
        lambda: f"{host.name} did not boot{_tail(host.boot_log)}",
        lambda: not (processes.NAMESPACES / host.name).exists(),
    )


def wait_for_sshd(host: Host, timeout: float = 20) -> None:
    """The first thing to wait for after start(): a host that failed to boot is found here."""
    wait_for_boot(host)
    _wait(
        lambda: sshd_answers(host),
        timeout,
        lambda: f"sshd on {host.name} does not answer{_tail(host.boot_log)}{_tail(host.sshd_log)}",
        lambda: init_pid(host) is None,
    )


def wait_for_engine(host: Host, timeout: float = 60) -> None:
    _wait(
        lambda: engine_answers(host),
        timeout,
        lambda: f"dockerd on {host.name} does not answer{_tail(host.engine_log)}",
        lambda: _engine_ended(host),
    )


def _engine_ended(host: Host) -> bool:
    init = init_pid(host)
    return init is None or Path(f"/proc/{init}/root{ENGINE_EXIT}").exists()


def _wait(
    ready: Callable[[], bool],
    timeout: float,
    reason: Callable[[], str],
    dead: Callable[[], bool] = lambda: False,
) -> None:
    def state() -> bool | None:
        return True if ready() else (False if dead() else None)

    retrying = Retrying(
        retry=retry_if_result(lambda result: result is None),
        stop=stop_after_delay(timeout),
        wait=wait_fixed(0.03),
    )
    try:
        done = retrying(state)
    except RetryError:
        done = False
    if not done:
        raise LabError(reason())


def _tail(log: Path, lines: int = 15) -> str:
    """Without dockerd's level=info, which buries the reason."""
    text = log.read_text(errors="replace") if log.exists() else ""
    last = [line for line in text.splitlines() if " level=info " not in line][-lines:]
    return "".join(f"\n  {line}" for line in (f"last lines of {log.name}:", *last)) if last else ""


def _stop(host: Host, pid_file: str, signal: str) -> None:
    """Signals the process the file names and waits until it has ended; one that has ended already is fine."""
    wait = "tail -s 0.05 -f /dev/null --pid"
    run(host, "sh", "-c", f'pid=$(cat {pid_file}) && kill -s {signal} "$pid" && {wait} "$pid"')


def _do(host: Host, *argv: str) -> None:
    done = run(host, *argv)
    if done.returncode:
        raise LabError(f"{host.name}: `{' '.join(argv)}` exited {done.returncode}: {done.stderr.strip()}")
