"""A node in memory that behaves as a real one where a command ends half-way; its home folder is real.

What docker, Ray and vLLM do is modelled; a script for sh is given to a real sh, in the node's home folder.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fakes import IMAGE_ID, OK, FakeNode, uptime
from lockmodel import Guarded, ModelNode, Written
from samples import sha256
from trees import tree

from cluster import records
from cluster.steps import Argv, Result

if TYPE_CHECKING:
    from world import World

LABEL = "clusterctl."
PORTS = {"ray": 6379, "serve": 8000}
BROKEN = "--no-such-flag"
Container = dict[str, Any]


@dataclass
class WorldNode(FakeNode):
    """`home` is its home folder, `.containers` what its engine has: {id: as `docker inspect` prints it}."""

    home: Path = Path()
    made: int = 0

    def __post_init__(self) -> None:
        self.lock = ModelNode(lambda: uptime() + 100 * self.world.seconds)

    @property
    def folder(self) -> Path:
        return self.home / f".clusterctl/demo/{self.name}"

    # --- the Connection ---

    def run(
        self,
        argv: Argv,
        stdin: str | Iterable[str] = "",
        timeout: float | None = None,  # noqa: ARG002  as a Connection has it
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        if not isinstance(stdin, str):
            return self._measure(iter(stdin), on_line)
        self.files = self._files()
        heard = self.hear(argv)
        if isinstance(heard, Result):
            return heard
        if isinstance(heard, Written):
            self.put(heard.path, stdin, heard.mode)
            return OK
        if isinstance(heard, Guarded):
            argv = heard.argv
        if argv == ("sh", "-s"):
            return self._said(Result(0, self._facts(stdin), ""), on_line)
        return self._said(self.special(argv) or self._answer(argv, stdin), on_line)

    def hear(self, argv: Argv) -> Result | Guarded | Written | None:
        """What the lock makes of the words; its state lies where a node has it."""
        before, heard = self.lock.text, self.lock.hear(argv)
        if self.lock.text != before:
            self.put(f"{records.folder('demo', self.name)}/lock", self.lock.text, 0o600)
        return heard

    def _said(self, result: Result, on_line: Callable[[str], None] | None) -> Result:
        if on_line is None:
            return result
        for line in result.stdout.splitlines():
            on_line(line)
        return Result(result.exit_code, "", result.stderr)

    def put(self, path: str, content: str, mode: int) -> None:
        target = self.home / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.write_text(str.__str__(content))
        target.chmod(mode)

    # --- what is left where a command ended half-way ---

    def put_half(self, path: str, content: str, part: str = "4711.part") -> bool:
        """The line broke, or the writer died, before the file had its name."""
        target = self.home / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.with_name(f".{target.name}.{part}").write_text(str.__str__(content)[:40])
        return True

    def run_half(self, argv: Argv, stdin: str) -> bool:
        """Whether the command has a half that could be left; it is left."""
        self.files = self._files()
        heard = self.lock.hear(argv) if argv[2:3] in (("guard",), ("put",)) else None
        if isinstance(heard, Written):
            return self.put_half(heard.path, stdin, "part")
        return self._half(heard.argv if isinstance(heard, Guarded) else argv)

    def _half(self, argv: Argv) -> bool:
        if argv[:1] == ("docker",) and argv[1] == "rm":
            return self._docker("stop", argv[-1]).exit_code == 0
        if self._is_script(argv) and argv[2] in ("ray", "serve"):
            return self._create(argv[2]) is not None
        if argv[:2] == ("sh", "-c") and "rm -rf .clusterctl" in argv[2] and self.folder.exists():
            for file in sorted(self.folder.rglob("*"))[::2]:
                file.unlink() if file.is_file() else None
            return True
        return False

    # --- commands ---

    def _answer(self, argv: Argv, stdin: str) -> Result:
        if argv[0] == "docker":
            return self._docker(argv[1], argv[-1])
        if self._is_script(argv):
            return self._script(argv[2], *argv[3:])
        return self.shell(argv, stdin)

    def _is_script(self, argv: Argv) -> bool:
        return argv[0] == "sh" and argv[1].endswith("/run_cluster.sh")

    def shell(self, argv: Argv, stdin: str = "") -> Result:
        """By this machine's own sh."""
        environment = {"HOME": str(self.home), "PATH": f"{self.world.programs}:/usr/bin:/bin"}
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, cwd=self.home, env=environment, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def _script(self, verb: str, *rest: str) -> Result:
        if "run_cluster.sh" not in self.files:
            return Result(127, "", "sh: 0: cannot open run_cluster.sh: No such file\n")
        if verb in PORTS:
            made = self._create(verb)
            if made is None:
                return Result(125, "", f'docker: Conflict. The name "/clusterctl-demo-{verb}" is in use.\n')
            return self._begin(made, verb)
        if verb == "logs":
            return Result(0, self.logs.get(rest[0] if rest else "serve", ""), "")
        if verb in ("verify", "attest"):
            return self._prove(verb)
        return self._nodes() if verb == "nodes" else self._ask()

    def _docker(self, verb: str, id_: str) -> Result:
        found = next(
            (c for c in self.containers.values() if id_ in (c["Id"], c["Id"][:12], c["Name"][1:])), None
        )
        if verb == "pull":
            return OK
        if found is None:
            return Result(1, "", f"Error response from daemon: No such container: {id_}\n")
        if verb in ("stop", "rm"):
            found["State"] |= {"Running": False, "ExitCode": 137 if found["State"]["Running"] else 0}
        if verb == "rm":
            del self.containers[found["Id"]]
        self.world.settle()
        return OK

    # --- containers ---

    @property
    def world(self) -> World:
        return cast("World", self.fleet)

    def kept_files(self) -> dict[str, str]:
        folder = self.home / records.folder("demo", self.name)
        return {path: text for path, (text, _) in tree(folder).items()} if folder.exists() else {}

    def container(self, role: str) -> Container | None:
        """Ours, of this role, in whatever state."""
        name = f"/clusterctl-demo-{role}"
        return next((c for c in self.containers.values() if c["Name"] == name), None)

    def running(self, role: str) -> Container | None:
        found = self.container(role)
        return found if found is not None and found["State"]["Running"] else None

    def add(self, name: str, labels: dict[str, str], running: bool = True) -> Container:
        self.made += 1
        id_ = sha256(f"{self.name} {name} {self.made}")
        self.containers[id_] = {
            "Id": id_,
            "Name": f"/{name}",
            "Image": IMAGE_ID,
            "State": {"Running": running, "ExitCode": 0, "StartedAt": self.world.now()},
            "Config": {"Labels": {f"{LABEL}{key}": value for key, value in labels.items()}},
        }
        return self.containers[id_]

    def _create(self, role: str) -> Container | None:
        """As `docker create`; None where the name is taken."""
        if self.container(role):
            return None
        start = self.files["run_cluster.sh"].partition(f"start_{role}()")[2].partition("\n}")[0]
        labels = {"cluster": "demo", "node": self.name, "role": role}
        for label in ("digest", "port"):
            found = re.search(rf"clusterctl\.{label}=(\w+)", start)
            assert found
            labels[label] = found[1]
        if "generation" in start and "generation" in self.files:
            labels["generation"] = self.files["generation"].strip()
        return self.add(f"clusterctl-demo-{role}", labels, running=False)

    def _begin(self, made: Container, role: str) -> Result:
        made["State"]["Running"] = True
        if role == "ray":
            made["Head"] = "--head" in self.files["ray.sh"]
            made["Joined"] = made["Id"] if made["Head"] else self.world.head_for(self.files["ray.sh"])
        else:
            made["Ranks"] = sorted(c["Id"] for c in self.world.joined(self).values())
            made["Wants"] = prod(
                int(size) for size in re.findall(r"parallel-size (\d+)", self.files["serve.sh"])
            )
            if BROKEN in self.files["serve.sh"]:
                made["State"] |= {"Running": False, "ExitCode": 2}
        self.world.settle()
        return Result(0, f"{made['Id']}\n", "")

    def _nodes(self) -> Result:
        if self.running("ray") is None:
            return Result(3, "", "clusterctl-demo-ray is not running: no such container\n")
        nodes = [self.world.nodes[name] for name in self.world.joined(self)]
        found = [{"address": n.address, "name": n.name, "alive": True, "gpus": n.gpus} for n in nodes]
        return Result(0, json.dumps({"nodes": found}) + "\n", "")

    def _prove(self, verb: str) -> Result:
        if self.running("ray") is None:
            return Result(3, "", "clusterctl-demo-ray is not running: no such container\n")
        shown = {f"{c['Name'].rpartition('-')[2]}-{self.name}": c for c in self.containers.values()}
        own, self.containers = self.containers, shown
        try:
            return super()._prove(verb)
        finally:
            self.containers = own

    def _ask(self) -> Result:
        server = self.running("serve")
        if server is None:
            return Result(3, "", "clusterctl-demo-serve is not running: no such container\n")
        if not self.world.has_gpus(server):
            return Result(1, '{"error": "Connection refused"}\n', "Connection refused\n")
        return Result(0, '{"answer": " Paris.", "seconds": 0.2}\n', "")

    def _last_words(self) -> Result:
        return (
            Result(0, "the server ended\n", "")
            if self.container("serve") and not self.running("serve")
            else OK
        )

    # --- facts ---

    def _files(self) -> dict[str, str]:
        there = (file for file in self.folder.rglob("*") if file.is_file()) if self.folder.exists() else ()
        return {str(file.relative_to(self.folder)): file.read_text() for file in there}

    def _facts(self, script: str) -> str:
        ours = [c for c in self.containers.values() if c["Config"]["Labels"].get(f"{LABEL}cluster") == "demo"]
        said = "".join(
            f"LISTEN 0 4096 0.0.0.0:{port} 0.0.0.0:*\n" for role, port in PORTS.items() if self.running(role)
        )
        self.world.facts[self.name] = {
            "containers": Result(0, json.dumps(ours), ""),
            "listening": Result(0, said, ""),
            "name_conflicts": Result(
                0,
                "".join(
                    f"{c['Name'][1:]} {c['Config']['Labels'].get(f'{LABEL}cluster', '')}\n"
                    for c in self.containers.values()
                ),
                "",
            ),
        }
        return super()._facts(script)
