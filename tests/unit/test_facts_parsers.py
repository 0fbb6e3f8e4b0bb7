"""Parsers on output of machines that nobody here has: MIG, InfiniBand, podman, failing drivers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from findings import found, told
from samples import plan

from cluster.facts import containers, gpu, inside, node, rdma, system
from cluster.facts.model_files import parse_model
from cluster.facts.types import EngineSetup
from cluster.steps import Result

MEBIBYTE = 1024**2


def said(text: str, code: int = 0) -> Result:
    return Result(code, text, "")


# --- nvidia-smi -------------------------------------------------------------------------------------


def test_gpus_with_mig_and_without_ecc() -> None:
    text = (
        "0, GPU-072b19bd, NVIDIA A100-SXM4-40GB, 40960, 9985, 535.104.05, Enabled, [N/A]\n"
        "1, GPU-24fb92fc, NVIDIA L40S, 46068, 1, 535.104.05, [N/A], 2\n"
        "2, GPU-7266bf77, NVIDIA GB10, [N/A], [N/A], 580.95.05, [N/A], N/A\n"
    )
    first, second, third = gpu.parse_gpus(said(text))["gpus"]
    assert (first.mig, first.ecc_errors, first.memory_used) == (True, None, 9985 * MEBIBYTE)
    assert (second.mig, second.ecc_errors, second.memory_total) == (False, 2, 46068 * MEBIBYTE)
    assert (third.mig, third.ecc_errors, third.memory_total) == (False, None, 0)


# Found under these words in many reports: NVIDIA's own texts.
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.154\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
    "NVIDIA driver is installed and running.\n\n"
)


@pytest.mark.parametrize(
    ("text", "code", "id_"),
    [
        (MISMATCH, 18, "driver-lib-mismatch"),
        (NO_DRIVER, 9, "driver-not-loaded"),
        ("Failed to initialize NVML: Driver Not Loaded\n", 9, "driver-not-loaded"),
        ("No devices were found\n", 6, "gpu-count"),
        ("", 0, "gpu-count"),
    ],
)
def test_what_nvidia_smi_says_when_it_fails_is_what_the_check_understands(
    text: str, code: int, id_: str
) -> None:
    facts = gpu.parse_gpus(said(text, code))
    assert facts["gpus"] == ()
    assert told(found(plan(), inside=None, **facts)) == [(id_, "gpu-02", "error")]


def test_a_gpu_that_was_lost_among_others() -> None:
    text = (
        "Unable to determine the device handle for GPU0000:41:00.0: Unknown Error\n"
        "0, GPU-0, NVIDIA H200, 143771, 0, 580.159.04, Disabled, 0\n"
    )
    facts = gpu.parse_gpus(said(text, 255))
    assert len(facts["gpus"]) == 1
    assert facts["gpu_error"] == "Unable to determine the device handle for GPU0000:41:00.0: Unknown Error"
    assert told(found(plan(), inside=None, **facts)) == [("gpu-count", "gpu-02", "error")]


@pytest.mark.parametrize(
    ("line", "states"),
    [
        ("Completed, Success", ("Completed",)),
        ("Completed, N/A", ("Completed",)),
        ("Completed, Insufficient Resources", ("Completed: Insufficient Resources",)),
        ("In Progress, N/A", ("In Progress",)),
        ("Not Started, N/A", ("Not Started",)),
        ("N/A, N/A", ()),
        ("[N/A], [N/A]", ()),
        ('Field "fabric.state" is not a valid field to query.', ()),
    ],
)
def test_fabric_states(line: str, states: tuple[str, ...]) -> None:
    assert gpu.parse_fabric(said(f"{line}\nnvidia-fabricmanager=\n")) == {"fabric_states": states}


def test_processes_in_containers() -> None:
    long_id = "0123456789ab" + "c" * 52
    text = (
        f"411,GPU-0,3682,{long_id},root     VLLM::Worker_TP\n"
        "412,GPU-0,[N/A],,\n"
        "413,GPU-1,512,,alice python3 -m x\n"
    )
    first, second, third = gpu.parse_gpu_processes(said(text))["gpu_processes"]
    assert (first.container, first.user, first.command) == ("0123456789ab", "root", "VLLM::Worker_TP")
    assert (second.pid, second.memory_used, second.user) == (412, 0, "")
    assert (third.gpu, third.memory_used, third.user) == ("GPU-1", 512 * MEBIBYTE, "alice")


def test_amd() -> None:
    text = "driver=6.8.5\n/sys/class/drm/card0/device/vendor\n/sys/class/drm/card1/device/vendor\n"
    assert gpu.parse_amd(said(text)) == {"amd_driver": "6.8.5", "amd_gpus": 2}


# --- nvidia-smi topo --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "legend"),
    [
        ("mlx5_0\tmlx5_bond_1", ""),
        ("NIC0\tNIC1", "\nNIC Legend:\n\n  NIC0: mlx5_0\n  NIC1: mlx5_bond_1\n"),
        ("\x1b[4mNIC0\tNIC1", "\nNIC Legend:\n\n  NIC0: mlx5_0\n  NIC1: mlx5_bond_1\n\n"),
    ],
    ids=["before 510", "with a legend", "underlined"],
)
def test_the_names_of_hcas_in_both_forms_of_the_topology(columns: str, legend: str) -> None:
    text = (
        f"\tGPU0\tGPU1\t{columns}\tCPU Affinity\tNUMA Affinity\n"
        "GPU0\t X \tNV18\tPIX\tSYS\t0-31\t0\nGPU1\tNV18\t X \tNODE\tPXB\t32-63\t1\n"
        f"NIC0\tPIX\tNODE\t X \tSYS\t\t\n{legend}"
    )
    assert rdma.parse_topology(said(text)) == {
        "distances": {
            "GPU0": {"mlx5_0": "PIX", "mlx5_bond_1": "SYS"},
            "GPU1": {"mlx5_0": "NODE", "mlx5_bond_1": "PXB"},
        }
    }


def test_columns_whose_names_are_not_known_are_no_hcas() -> None:
    text = "\tGPU0\tNIC0\tCPU Affinity\nGPU0\t X \tPIX\t0-31\n"
    assert rdma.parse_topology(said(text)) == {"distances": {"GPU0": {}}}
    assert rdma.parse_topology(said("nvidia-smi: not found", 127)) == {}


# --- GPUDirect --------------------------------------------------------------------------------------

OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
PEERMEM = "peermem=/sys/module/nvidia_peermem/version\n"


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        (f"{PEERMEM}{CLOSED}kernel=5.4.0-150-generic\n", ("peermem",)),
        (f"{PEERMEM}{OPEN}kernel=6.8.0\n", ("peermem", "dma-buf")),
        (f"{OPEN}kernel=5.12.0\n", ("dma-buf",)),
        (f"{OPEN}kernel=5.11.22\n", ()),
        (f"{CLOSED}kernel=6.8.0-45-generic\n", ()),
        ("kernel=6.8.0\n", ()),
        ("", ()),
    ],
)
def test_the_ways_from_hcas_to_gpu_memory(text: str, ways: tuple[str, ...]) -> None:
    assert rdma.parse_gpudirect(said(text)) == {"gpudirect": ways}


# --- engines ----------------------------------------------------------------------------------------


def test_a_rootless_podman() -> None:
    info: dict[str, Any] = {
        "host": {
            "ociRuntime": {"name": "crun"},
            "security": {"rootless": True, "selinuxEnabled": True, "seccompEnabled": True},
        },
        "store": {"graphDriverName": "overlay", "graphRoot": "/home/ops/.local/share/containers/storage"},
        "version": {"Version": "5.2.3"},
    }
    setup = containers.parse_engine_setup(said(json.dumps(info)))["engine_setup"]
    assert setup == EngineSetup(
        "overlay", "/home/ops/.local/share/containers/storage", (), ("name=rootless", "name=selinux")
    )
    assert told(found(plan({"runtime.engine": "podman"}), engine_setup=setup)) == [
        ("selinux-rootless", "gpu-02", "warning")
    ]
    info["host"]["security"] = {"rootless": False, "selinuxEnabled": False}
    assert containers.parse_engine_setup(said(json.dumps(info)))["engine_setup"].security == ()


def test_names_with_a_label_behind_them_are_ours() -> None:
    text = "clusterctl-demo-ray demo\nclusterctl-demo-serve \n"
    assert containers.parse_name_conflicts(said(text)) == {"name_conflicts": ("clusterctl-demo-serve",)}
    assert containers.parse_name_conflicts(said("Cannot connect to the Docker daemon", 1)) == {}


def image(
    identity: str, *variables: str, layers: tuple[str, ...] = ("sha256:01", "sha256:02")
) -> dict[str, Any]:
    config = {"Env": list(variables), "Cmd": ["bash"], "Labels": {"built": identity}}
    return containers.parse_image(said(f"{identity}\n{json.dumps([config, layers])}\n"))


def test_of_an_image_only_what_is_telling_is_kept() -> None:
    telling = {"CUDA_VERSION": "12.9.1", "NVIDIA_REQUIRE_CUDA": "cuda>=12.9 a=b"}
    variables = ("PATH=/usr/bin", "TOKEN=s3cret", *(f"{name}={value}" for name, value in telling.items()))
    facts = image(f"sha256:{'a' * 64}", *variables)
    assert (facts["image_id"], facts["image_env"]) == (f"sha256:{'a' * 64}", telling)
    assert "s3cret" not in repr(facts)


def test_the_content_of_an_image_is_not_its_id() -> None:
    first, second = (image(f"sha256:{letter * 64}", "A=1")["image_content"] for letter in "ab")
    assert first == second is not None
    assert image(f"sha256:{'a' * 64}", "A=2")["image_content"] != first
    assert image(f"sha256:{'a' * 64}", "A=1", layers=("sha256:01",))["image_content"] != first
    assert image(f"sha256:{'a' * 64}", "A=1", layers=())["image_content"] is None
    assert containers.parse_image(said(f"{'b' * 64}\nnull\n"))["image_env"] == {}


# https://github.com/devcontainers/cli/issues/613 and https://github.com/SyneRBI/PETRIC2/issues/27
NO_MOUNT = (
    'docker: Error response from daemon: invalid mount config for type "bind": bind source path does not '
    "exist: /app.\n"
)
TOO_OLD = (
    "docker: Error response from daemon: failed to create task for container: Auto-detected mode as "
    "'legacy'\nnvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8, please update "
    "your driver to a newer version, or use an earlier cuda container\n"
)


@pytest.mark.parametrize(
    "advice", ["", "See 'docker run --help'.\n", "\nRun 'docker run --help' for more information\n"]
)
@pytest.mark.parametrize(("text", "id_"), [(NO_MOUNT, "mount-missing"), (TOO_OLD, "driver-too-old")])
def test_dockers_advice_to_read_its_help_is_not_its_reason(text: str, id_: str, advice: str) -> None:
    facts = inside.parse_inside(said(text + advice, 125))
    assert told(found(plan(), versions=None, inside=None, **facts)) == [(id_, "gpu-02", "error")]


@pytest.mark.parametrize("text", ["", "\n", "See 'docker run --help'.\n"])
def test_where_nothing_was_said_nothing_is_known(text: str) -> None:
    assert inside.parse_inside(said(text, 125)) == {}


# --- the system -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "disk"),
    [
        ("/dev/nvme0n1p2 1921802520 100 1000 10% /", ("engine", "/", 1000, 1921802520)),
        (
            "/dev/mapper/ubuntu--vg-a--long--name  103081248 1 2       1% /var/lib/my docker",
            ("engine", "/var/lib/my docker", 2, 103081248),
        ),
        ("overlay 263174212 5 6 1% /", ("home", "/", 6, 263174212)),
        ("tmpfs 0 0 0 - /tmp", ("tmp", "/tmp", 0, 0)),
        ("nas.example:/export/my models 9 8 -1 100% /mnt/models", ("cache", "/mnt/models", 0, 9)),
        ("df: /root: Permission denied", None),
        ("", None),
    ],
)
def test_lines_of_df(line: str, disk: tuple[str, str, int, int] | None) -> None:
    use = disk[0] if disk else "home"
    head = "Filesystem 1024-blocks Used Available Capacity Mounted on"
    disks = system.parse_disks(said(f"uses={use}\n{head}\n{line}\n")).get("disks", ())
    assert [(d.use, d.path, d.free // 1024, d.total // 1024) for d in disks] == ([disk] if disk else [])


def test_of_disks_that_df_left_some_out_nothing_is_known() -> None:
    assert (
        system.parse_disks(said("uses=home tmp\n/dev/vda 9 1 8 12% /\ndf: /tmp: Stale file handle\n")) == {}
    )


@pytest.mark.parametrize(
    ("text", "os_", "addresses"),
    [
        ("os=Ubuntu 24.04.1 LTS\nhostname=a\nresolves_to=127.0.1.1\n", "Ubuntu 24.04.1 LTS", ("127.0.1.1",)),
        (
            "os=Red Hat Enterprise Linux 9.4 (Plow)\nhostname=a.example\n",
            "Red Hat Enterprise Linux 9.4 (Plow)",
            (),
        ),
        ("os=\nhostname=a\nresolves_to=10.0.0.1\nresolves_to=10.0.0.1\n", "", ("10.0.0.1",)),
        ("hostname=a\n", "", ()),
    ],
)
def test_systems(text: str, os_: str, addresses: tuple[str, ...]) -> None:
    one = system.parse_system(said(text))["system"]
    assert (one.os, one.resolves_to, one.memory_total) == (os_, addresses, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1795262454.536864798\n", 1795262454.536864798),
        ("1795262454.%N\n", 1795262454.0),
        ("1795262454.N\n", 1795262454.0),
        ("date: invalid\n", None),
        ("", None),
    ],
)
def test_clocks(text: str, seconds: float | None) -> None:
    assert system.parse_clock_began(said(text)) == {"clock_began": seconds}


def test_the_offset_of_a_clock_lies_between_the_extremes_of_the_network() -> None:
    assert system.clock_offset(100.0, 101.0, 105.2, 105.8) == pytest.approx((5.0, 0.2))
    assert system.clock_offset(100.0, 101.0, 100.0, 101.0) == (0.0, 0.0)


def test_interfaces_of_infiniband_vlans_and_bonds() -> None:
    guid = "00:00:10:29:fe:80:00:00:00:00:00:00:a0:88:c2:03:00:be:1b:2c"
    text = (
        "4: ib0    inet 10.9.0.12/16 brd 10.9.255.255 scope global ib0\\       valid_lft forever\n"
        "7: bond0.100    inet 10.0.0.12/24 scope global bond0.100\n"
        "7: bond0.100    inet 10.0.0.13/24 scope global secondary bond0.100:1\n"
        "4: ib0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 2044 qdisc mq state UP mode DEFAULT group default "
        f"qlen 256\\    link/infiniband {guid} brd 00:ff\n"
        "7: bond0.100@bond0: <NO-CARRIER,BROADCAST,MULTICAST,UP> mtu 9000 qdisc noqueue state LOWERLAYERDOWN "
        "mode DEFAULT\\    link/ether 08:c0:eb:1f:0b:2c brd ff:ff:ff:ff:ff:ff\n"
        f"/sys/class/net/ib0/address:{guid}\n/sys/class/net/ib0/speed:400000\n"
        "/sys/class/net/bond0.100/address:08:c0:eb:1f:0b:2d\n/sys/class/net/bond0.100/speed:100000\n"
        "default via 10.0.0.1 dev bond0.100 proto static metric 400\n"
    )
    facts = node.parse_interfaces(said(text))
    infiniband, vlan = facts["interfaces"]["ib0"], facts["interfaces"]["bond0.100"]
    assert infiniband.up
    assert (infiniband.addresses, infiniband.mtu, infiniband.speed) == (("10.9.0.12",), 2044, 400000)
    assert (vlan.addresses, vlan.mtu, vlan.up) == (("10.0.0.12", "10.0.0.13"), 9000, False)
    assert vlan.speed is None  # /sys shows an interface of another network namespace
    assert facts["default_route"] == "bond0.100"


# --- the model --------------------------------------------------------------------------------------


def test_a_model_of_which_half_is_nonsense() -> None:
    model = parse_model(
        {
            "path": "/m",
            "there": "yes",
            "config": [],
            "index_bytes": "12",
            "shards": ["a", 1],
            "files": [
                {"name": "a.safetensors", "size": 5},
                {"size": -1.5},
                "b",
                {"name": "c.bin", "size": "7"},
            ],
        }
    )
    assert model is not None
    assert (model.there, model.config, model.index_bytes, model.shards) == (False, None, 12, ("a",))
    assert [(file.name, file.size) for file in model.files] == [
        ("a.safetensors", 5),
        ("", None),
        ("c.bin", 7),
    ]
    assert model.weight_bytes == 12
    assert parse_model([]) is None and parse_model(None) is None
