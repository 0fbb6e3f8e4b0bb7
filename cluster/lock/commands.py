"""The words with which a controller speaks to fence.sh on a node. Pure.

Each is an argv for the home folder; some also bring the script, as their stdin.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cluster.steps import Argv

REFUSED = 91  # fence.sh's exit code where it does not carry out what was asked
SAYS = "clusterctl fence: "  # what stands before its reason, on stderr

# Writes nothing: `lock status` asks so too.
SHOW = (
    "IFS='. ' read -r seconds hundredths _ </proc/uptime\n"
    "read -r boot </proc/sys/kernel/random/boot_id\n"
    'printf \'answer=ok\\nnow=%s\\nboot_now=%s\\n\' "$seconds$hundredths" "$boot"\n'
    '[ ! -f "$1" ] || cat "$1"'
)
# Its name holds its digest: controllers of two versions do not change it under each other.
INSTALL = (
    "path=$1 size=$2\n"
    "shift 2\n"
    'if [ ! -f "$path" ]; then\n'
    "  umask 077\n"
    "  part=${path%/*}/.${path##*/}.$$.part\n"
    '  mkdir -p "${path%/*}" && cat >"$part" && [ "$(wc -c <"$part")" -eq "$size" ] &&\n'
    '    mv "$part" "$path" || { rm -f "$part"; exit 1; }\n'
    "fi\n"
    'exec sh "$path" "$@"'
)


@dataclass(frozen=True)
class Fence:
    """The lock's side on one node: which script, in which folder (relative to the home folder)."""

    folder: str
    script: str

    @property
    def path(self) -> str:
        return f"{self.folder}/fence-{hashlib.sha256(self.script.encode()).hexdigest()[:12]}.sh"

    def show(self) -> Argv:
        """Reads the lock and the node's clock."""
        return ("sh", "-c", SHOW, "lock", f"{self.folder}/lock")

    def acquire(
        self, epoch: int, token: str, expires: int, boot: str, ttl: float, over: str, about: str
    ) -> Argv:
        """`over` is the token of a holder that is known to be gone, or ""; stdin is `script`."""
        return self._installed("acquire", str(epoch), token, str(expires), boot, f"{ttl:g}", over, about)

    def renew(self, epoch: int, token: str, expires: int) -> Argv:
        return ("sh", self.path, "renew", str(epoch), token, str(expires))

    def release(self, epoch: int, token: str, settled: bool) -> Argv:
        return ("sh", self.path, "release", str(epoch), token, str(int(settled)))

    def release_by_force(self, epoch: int, token: str) -> Argv:
        """By another than its holder, whose version of the script may be another; stdin is `script`."""
        return self._installed("release", str(epoch), token, "0")

    def guard(self, epoch: int, token: str, argv: Argv) -> Argv:
        """`argv` with its own streams and exit code, or REFUSED with a reason."""
        return ("sh", self.path, "guard", str(epoch), token, *argv)

    def put(self, epoch: int, token: str, path: str, mode: int, size: int) -> Argv:
        """Writes stdin, `size` bytes, to a file: whole or not at all."""
        return ("sh", self.path, "put", str(epoch), token, path, f"{mode:04o}", str(size))

    def _installed(self, *words: str) -> Argv:
        return ("sh", "-c", INSTALL, "lock", self.path, str(len(self.script.encode())), *words)
