"""Opening SSH connections: sockets, jump hosts, whom to trust, and paramiko's exceptions as reasons."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ConnectionLost
from cluster.ssh_target import Target

if TYPE_CHECKING:
    import paramiko

# Seconds after which a line without an answer counts as broken: a node that lost power says nothing.
DEAD_AFTER = 15


class Jumps:
    """Open connections to jump hosts, one for all nodes behind it: sshd's MaxStartups counts them."""

    def __init__(self) -> None:
        self._open: dict[tuple[Target, ...], paramiko.SSHClient] = {}
        self._lock = threading.Lock()

    def through(self, chain: tuple[Target, ...]) -> paramiko.SSHClient:
        """The client of the last jump host of a chain, opened once."""
        with self._lock:
            return self._client(chain)

    def _client(self, chain: tuple[Target, ...]) -> paramiko.SSHClient:
        if chain not in self._open:
            *before, last = chain
            sock = _tunnel(self._client(tuple(before)), before[-1], last) if before else _tcp(last)
            self._open[chain] = _authenticated(last, sock)
        return self._open[chain]

    def close(self) -> None:
        for client in self._open.values():
            client.close()


def connect(target: Target, jumps: Jumps) -> paramiko.SSHClient:
    """An authenticated client for a target. Raises ConnectionLost with the reason."""
    return _authenticated(target, _socket(target, jumps))


def _socket(target: Target, jumps: Jumps) -> Any:
    if target.jumps:
        return _tunnel(jumps.through(target.jumps), target.jumps[-1], target)
    if target.proxy_command:
        import paramiko

        return paramiko.ProxyCommand(target.proxy_command)
    return _tcp(target)


def _tunnel(client: paramiko.SSHClient, jump: Target, target: Target) -> Any:
    import paramiko

    transport = client.get_transport()
    try:
        assert transport is not None
        return transport.open_channel(
            "direct-tcpip", (target.host, target.port), ("127.0.0.1", 0), timeout=target.timeout
        )
    except (paramiko.SSHException, EOFError, OSError, AssertionError) as error:
        raise ConnectionLost(
            f"the jump host {jump} cannot reach {target.host}:{target.port}: {error or 'no answer'}"
        ) from error


def _tcp(target: Target) -> socket.socket:
    place = f"{target.host}:{target.port}"
    try:
        sock = socket.create_connection((target.host, target.port), timeout=target.timeout)
    except TimeoutError as error:
        raise ConnectionLost(
            f"no answer from {place} within {target.timeout:g} s: is the node up?"
        ) from error
    except ConnectionRefusedError as error:
        raise ConnectionLost(f"nothing listens on {place}: is sshd running there?") from error
    except socket.gaierror as error:
        raise ConnectionLost(f"{target.host} is no name that this machine can resolve") from error
    except OSError as error:
        raise ConnectionLost(f"cannot reach {place}: {error.strerror or error}") from error
    _notice_death(sock)
    return sock


def _notice_death(sock: socket.socket) -> None:
    """Let the kernel break the connection when the other side has not acknowledged for DEAD_AFTER seconds."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": DEAD_AFTER * 1000}
    for name, value in options.items():
        if hasattr(socket, name):  # macOS has not all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _authenticated(target: Target, sock: Any) -> paramiko.SSHClient:
    import paramiko

    # A background thread of paramiko's would print a traceback for what we report ourselves.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
    client = paramiko.SSHClient()
    _trust(client, target)
    files = [str(Path(file).expanduser()) for file in target.identity_files]
    try:
        with renamed(target):
            client.connect(
                target.host,
                port=target.port,
                username=target.user,
                key_filename=[file for file in files if Path(file).exists()] or None,  # type: ignore[arg-type]
                sock=sock,
                timeout=target.timeout,
                banner_timeout=target.timeout,
                auth_timeout=target.timeout,
                channel_timeout=target.timeout,
            )
    except BaseException:
        client.close()
        sock.close()
        raise
    return client


def _trust(client: paramiko.SSHClient, target: Target) -> None:
    import paramiko

    for file in target.known_hosts:
        _load_known_hosts(client, Path(file).expanduser())
    if not target.accept_new:
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        return

    class AcceptNew(paramiko.MissingHostKeyPolicy):
        def missing_host_key(self, _: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            _append_known_host(Path(target.known_hosts[0]).expanduser(), hostname, key)

    client.set_missing_host_key_policy(AcceptNew())


def _load_known_hosts(client: paramiko.SSHClient, file: Path) -> None:
    """Line by line: paramiko's own loader gives up at the first `@cert-authority`, which it cannot use."""
    from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(InvalidHostKey, ValueError):
            entry = HostKeyEntry.from_line(line.strip(), number) if not line.startswith(("#", "@")) else None
            if entry is not None and entry.key is not None:
                for name in entry.hostnames or ():
                    client.get_host_keys().add(name, entry.key.get_name(), entry.key)


_appending = threading.Lock()


def _append_known_host(file: Path, hostname: str, key: paramiko.PKey) -> None:
    """One line at the end, as ssh(1) does it: what else stands in the file is the user's."""
    with _appending:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.open("a") as known:
            known.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")


@contextlib.contextmanager
def renamed(target: Target) -> Iterator[None]:
    """paramiko's exceptions as reasons that a person can act on."""
    import paramiko

    try:
        yield
    except paramiko.BadHostKeyException as error:
        raise ConnectionLost(_changed_host_key(target, error)) from error
    except paramiko.PasswordRequiredException as error:
        raise ConnectionLost(
            f"the key {_keys(target)} has a passphrase: `ssh-add` it to the agent"
        ) from error
    except paramiko.AuthenticationException as error:
        raise ConnectionLost(_permission_denied(target)) from error
    except paramiko.SSHException as error:
        raise ConnectionLost(_ssh_reason(target, error)) from error
    except (EOFError, OSError) as error:
        raise ConnectionLost(f"the connection to {target} broke: {error or 'end of file'}") from error


def _permission_denied(target: Target) -> str:
    return f"permission denied for {target} with {_keys(target)}: check ssh.user and ssh.identity_file"


def _keys(target: Target) -> str:
    missing = [file for file in target.identity_files if not Path(file).expanduser().exists()]
    if missing:
        return f"{', '.join(missing)} (no such file)"
    return ", ".join(target.identity_files) or "the agent's keys"


def _changed_host_key(target: Target, error: paramiko.BadHostKeyException) -> str:
    name = target.host if target.port == 22 else f"[{target.host}]:{target.port}"
    return (
        f"the host key of {name} has changed: {error.key.get_name()} {error.key.fingerprint}, "
        f"expected {error.expected_key.fingerprint}\n"
        f"If the node was installed anew: ssh-keygen -R '{name}' -f {target.known_hosts[0]}"
    )


def _ssh_reason(target: Target, error: Exception) -> str:
    text = str(error)
    if "not found in known_hosts" in text:
        name = target.host if target.port == 22 else f"-p {target.port} {target.host}"
        return (
            f"the host key of {target.host} is unknown\n"
            f"Compare it and add it: ssh-keyscan {name} >> {target.known_hosts[0]}, "
            "or set ssh.host_key_policy: accept-new"
        )
    if "No authentication methods" in text:
        return _permission_denied(target)
    if "Timeout opening channel" in text:
        return f"the connection to {target} broke: no answer within {DEAD_AFTER} s"
    if "banner" in text:
        return f"{target.host}:{target.port} does not speak SSH, or did not within {target.timeout:g} s"
    return f"SSH to {target}: {text or type(error).__name__}"
