"""The commands of facts, really run by the shells that nodes have, with programs that say what is wanted."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from samples import plan

from cluster.facts import facts_of, gpu, node, rdma, script_of, system
from cluster.steps import Result

# Not busybox: as Debian builds it, its own programs come before all others.
SHELLS = [shell.split() for shell in ("dash", "bash --posix") if shutil.which(shell.split()[0]) is not None]
Run = Callable[..., Result]


@pytest.fixture(params=SHELLS, ids=" ".join)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a command with these programs first in the PATH: run(command, dmesg="echo ...")."""

    def run_in_shell(command: str, /, env: Mapping[str, str] | None = None, **programs: str) -> Result:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, script in programs.items():
            program = folder / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        done = subprocess.run(
            (*request.param, "-c", command),
            env={"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=20,
        )
        return Result(done.returncode, done.stdout, "")

    return run_in_shell


def answer(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND"


def test_processes_of_gpus_get_their_owners(run: Run) -> None:
    pid = os.getpid()
    listed = f"{pid}, GPU-5a89892e, 3682\n999999999, GPU-5a89892e, [N/A]"
    first, second = gpu.parse_gpu_processes(run(gpu.PROCESSES, nvidia_smi=answer(listed)))["gpu_processes"]
    assert (first.pid, first.gpu, first.memory_used) == (pid, "GPU-5a89892e", 3682 * 1024**2)
    assert first.user in (pwd.getpwuid(os.geteuid()).pw_name, str(os.geteuid()))
    assert first.command
    assert (second.pid, second.memory_used, second.user, second.command) == (999999999, 0, "", "")


XID = "[74889.644138] NVRM: Xid (PCI:0000:02:00): 79, GPU has fallen off the bus."


@pytest.mark.parametrize(
    ("dmesg", "journalctl", "xids"),
    [
        (answer(f"[1.0] usb 1-1: new\n{XID}\n{XID}"), "exit 1", (XID[15:],)),
        (
            "echo 'dmesg: read kernel buffer failed: Operation not permitted' >&2; exit 1",
            answer(XID),
            (XID[15:],),
        ),
        ("exit 1", "echo 'No journal files were opened' >&2; exit 1", ()),
        ("", "", ()),
    ],
)
def test_xids_come_from_dmesg_or_from_the_journal(
    run: Run, dmesg: str, journalctl: str, xids: tuple[str, ...]
) -> None:
    assert gpu.parse_xids(run(gpu.XIDS, dmesg=dmesg, journalctl=journalctl)) == {"xids": xids}


@pytest.mark.parametrize(
    ("said", "states"),
    [
        ("Completed, Success\nCompleted, Success", ("Completed", "Completed")),
        ("In Progress, N/A", ("In Progress",)),
        ("[N/A], [N/A]", ()),
        ('Field "fabric.state" is not a valid field to query.', ()),
    ],
)
def test_the_fabric_and_its_manager(run: Run, said: str, states: tuple[str, ...]) -> None:
    result = run(gpu.FABRIC, nvidia_smi=answer(said), systemctl="echo inactive; exit 3")
    assert gpu.parse_fabric(result) == {"fabric_states": states, "fabric_manager": "inactive"}


def write_tree(root: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")


ZEROS = ":".join(["0000"] * 8)
IPV4 = "0000:0000:0000:0000:0000:ffff:0a00:000c"


def test_hcas_of_a_tree_as_the_kernel_has_it(run: Run, tmp_path: Path) -> None:
    infiniband, roce, unplugged = "mlx5_2/ports/1/", "mlx5_10/ports/1/", "mlx5_2/ports/2/"
    write_tree(
        tmp_path / "infiniband",
        {
            "mlx5_2/device/numa_node": "1",
            f"{infiniband}state": "4: ACTIVE",
            f"{infiniband}link_layer": "InfiniBand",
            f"{infiniband}rate": "400 Gb/sec (4X NDR)",
            f"{infiniband}gids/0": "fe80:0000:0000:0000:a088:c203:00be:1b2c",
            f"{infiniband}gids/1": ZEROS,
            f"{unplugged}state": "1: DOWN",
            f"{unplugged}link_layer": "InfiniBand",
            f"{unplugged}rate": "2.5 Gb/sec (1X SDR)",
            "mlx5_10/device/numa_node": "-1",
            f"{roce}state": "4: ACTIVE",
            f"{roce}link_layer": "Ethernet",
            f"{roce}rate": "100 Gb/sec (4X EDR)",
            f"{roce}gids/0": "fe80:0000:0000:0000:0ac0:ebff:fe1f:0b2c",
            f"{roce}gids/3": IPV4,
            f"{roce}gids/4": ZEROS,
            f"{roce}gid_attrs/types/0": "IB/RoCE v1",
            f"{roce}gid_attrs/types/3": "RoCE v2",
        },
    )
    command = rdma.HCAS.replace("/sys/class/infiniband", str(tmp_path / "infiniband"))
    first, second = rdma.parse_hcas(run(command))["hcas"]
    assert (first.name, first.numa_node, first.rate) == ("mlx5_2", 1, 400.0)
    assert [(port.number, port.state, port.rate) for port in first.ports] == [
        (1, "ACTIVE", 400.0),
        (2, "DOWN", 2.5),
    ]
    assert [gid.address[:4] for gid in first.ports[0].gids] == ["fe80"]
    assert (second.name, second.numa_node, second.active) == ("mlx5_10", None, True)
    (port,) = second.ports
    assert port.link_layer == "Ethernet"
    assert [(gid.index, gid.address, gid.kind) for gid in port.gids] == [
        (0, "fe80:0000:0000:0000:0ac0:ebff:fe1f:0b2c", "IB/RoCE v1"),
        (3, IPV4, "RoCE v2"),
    ]


def test_a_node_without_infiniband_has_no_hcas_whatever_lies_in_its_home(run: Run, tmp_path: Path) -> None:
    command = rdma.HCAS.replace("/sys/class/infiniband", str(tmp_path / "nothing"))
    result = run(command)
    assert (result.exit_code, rdma.parse_hcas(result)) == (0, {"hcas": ()})


def test_bridges_with_acs(run: Run) -> None:
    lspci = answer("\tACSCtl:\tSrcValid+ TransBlk-\n\tACSCtl:\tSrcValid- TransBlk-\n\tACSCap:\tSrcValid+")
    assert rdma.parse_acs(run(rdma.ACS, lspci=lspci)) == {"acs_bridges": 1}
    assert rdma.parse_acs(run(rdma.ACS, lspci="exit 127")) == {"acs_bridges": 0}


def test_the_system(run: Run) -> None:
    found = run(
        system.SYSTEM, hostname="echo gpu-02", getent="echo '127.0.1.1 STREAM gpu-02'; echo '127.0.1.1 DGRAM'"
    )
    one = system.parse_system(found)["system"]
    assert (one.hostname, one.resolves_to) == ("gpu-02", ("127.0.1.1",))
    assert one.kernel and len(one.boot_id) == 36 and one.memory_total >= one.memory_available > 0
    unresolved = run(system.SYSTEM, hostname="echo gpu-02", getent="exit 2", getenforce="echo Enforcing")
    one = system.parse_system(unresolved)["system"]
    assert (one.hostname, one.resolves_to, one.selinux) == ("gpu-02", (), "Enforcing")


def test_disks_of_paths_that_are_still_to_be_made(run: Run, tmp_path: Path) -> None:
    command = system.disks_command({"cache": system.HUGGING_FACE, "engine": f"'{tmp_path}/not/there yet'"})
    for env in ({}, {"HF_HOME": "/no/such/folder"}):
        disks = system.parse_disks(run(command, env=env))["disks"]
        assert [disk.use for disk in disks] == ["home", "tmp", "cache", "engine"]
        assert all(disk.total >= disk.free > 0 and disk.path.startswith("/") for disk in disks)


@pytest.mark.parametrize("shell", [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)])
def test_the_whole_script_is_shell_everywhere(shell: str) -> None:
    script = script_of(facts_of(plan(), plan().head))
    argv = (shell, "sh", "-n") if shell == "busybox" else (shell, "-n")
    assert subprocess.run(argv, input=script, text=True, capture_output=True).stderr == ""


def test_the_clock(run: Run) -> None:
    assert system.parse_clock_began(run(system.CLOCK, date="echo 1795262454.536864798")) == {
        "clock_began": 1795262454.536864798
    }
    assert system.parse_clock_ended(run(system.CLOCK))["clock_ended"] > 1.7e9


@pytest.mark.parametrize("batch", ["shift $#; set -- $(cat)", "exit 1"], ids=["iproute2", "busybox"])
def test_interfaces(run: Run, batch: str) -> None:
    """Where `ip` knows no -batch, it is asked three times."""
    ip = f"""\
case "$*" in *-batch*) {batch} ;; esac
case "$*" in
  *addr*) echo '2: eth0    inet 10.0.0.12/24 brd 10.0.0.255 scope global eth0' ;;
esac
case "$*" in
  *link*) echo '2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 9000 qdisc mq state UP' ;;
esac
case "$*" in
  *route*) echo 'default via 10.0.0.1 dev eth0 proto static' ;;
esac"""
    found: dict[str, Any] = node.parse_interfaces(run(node.INTERFACES, ip=ip))
    assert found["default_route"] == "eth0"
    assert (found["interfaces"]["eth0"].addresses, found["interfaces"]["eth0"].mtu) == (("10.0.0.12",), 9000)
    assert found["interfaces"]["eth0"].networks == ("10.0.0.0/24",)
