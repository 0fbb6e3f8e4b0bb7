import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster.errors import LabError
from cluster.lab import environment, files, image
from cluster.lab.lab_inventory import inventory_text
from cluster.lab.spec import Host, Lab

pytestmark = pytest.mark.unit

MODEL = "/data/SmolLM2:/models/SmolLM2-135M-Instruct:ro"
LAB = Lab(
    *("lab", 2, 4, True, "10.231.7.0/24", Path("/x/lab")),
    venv="/venv",
    mounts=("/usr:/usr:ro", MODEL),
)
HOST = LAB.hosts[0]


def parses(script: str) -> bool:
    return subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0


@pytest.mark.parametrize("host", [HOST, replace(HOST, engine=False)])
def test_the_scripts_are_shell(host: Host) -> None:
    engine = files.engine_script(files.dockerd_argv("dockerd", "/clab-lab/lab-01"))
    scripts = (
        files.boot_script(host, ("/usr",)),
        files.init_script(host),
        files.sshd_script("/sbin/sshd"),
        engine,
    )
    assert all(parses(script) for script in scripts)


def test_a_share_with_a_blank_and_a_quote_stays_one_word() -> None:
    script = files.boot_script(HOST, ("/my venv's",))
    assert "share '/my venv'\"'\"'s'\n" in script
    assert parses(script)


def test_a_host_without_an_engine_starts_none() -> None:
    assert "/etc/lab/engine" not in files.init_script(replace(HOST, engine=False))


def test_sshd_keeps_opensshs_limits() -> None:
    assert "MaxStartups" not in files.SSHD_CONFIG
    assert "MaxSessions" not in files.SSHD_CONFIG


def test_known_hosts_leaves_the_comment_out() -> None:
    assert files.known_hosts({"10.231.7.11": "ssh-ed25519 AAAA root@x\n"}) == "10.231.7.11 ssh-ed25519 AAAA\n"


def test_every_host_knows_every_name() -> None:
    assert files.etc_hosts(LAB) == "127.0.0.1 localhost\n10.231.7.11 lab-01\n10.231.7.12 lab-02\n"


def test_a_host_is_entered_without_ip_netns_exec() -> None:
    argv = files.enter_argv("lab-01", "/x/boot")
    assert argv[:4] == ("setsid", "--fork", "nsenter", "--net=/run/netns/lab-01")
    assert argv[-2:] == ("/bin/sh", "/x/boot")


def test_the_inventory() -> None:
    written = yaml.safe_load(inventory_text(LAB))
    assert written["cluster"] == "lab"
    assert written["ssh"] == {
        "user": "root",
        "identity_file": "/x/lab/id_ed25519",
        "known_hosts": "/x/lab/known_hosts",
    }
    assert written["runtime"] == {
        "engine": "docker",
        "device": "cpu",
        "image": "clusterctl-lab:1",
        "pull": "never",
        "shm_size": "1g",
        "mounts": ["/usr:/usr:ro", MODEL],
    }
    assert written["model"]["source"] == "/models/SmolLM2-135M-Instruct"
    assert written["nodes"] == [
        {"name": "lab-01", "address": "10.231.7.11", "gpus": 4},
        {"name": "lab-02", "address": "10.231.7.12", "gpus": 4},
    ]


def test_without_engines_the_inventory_has_no_containers() -> None:
    written = yaml.safe_load(inventory_text(replace(LAB, engine=False)))
    assert written["runtime"] == {"engine": "process", "device": "cpu", "venv": "/venv"}
    assert written["model"]["source"] == "/data/SmolLM2"


def test_shares_below_another_one_are_left_out() -> None:
    assert environment.shares(("/usr", "/root/p", "/usr/local/venv", "/root/p/lib", "/usr")) == (
        "/usr",
        "/root/p",
    )


@pytest.mark.parametrize("text", ["/tmp", "tmp:/x", "/tmp:x", "/tmp:/x:ro", "/no/such/directory:/x"])
def test_a_mount_that_cannot_be(text: str) -> None:
    with pytest.raises(LabError, match="--mount"):
        environment.parse_mount(text)


def test_a_python_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no Python environment"):
        environment.python_directories(tmp_path)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no config\.json"):
        environment.model_directory(tmp_path)


def test_merged_usr_is_links_and_an_older_layout_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "lib").mkdir()
    (tmp_path / "etc/alternatives").mkdir(parents=True)
    assert image.system_directories(tmp_path) == ({"bin": "usr/bin"}, ("/usr", "/lib", "/etc/alternatives"))


def test_the_image_is_directories_links_and_a_few_files() -> None:
    content = image.image_tar({"bin": "usr/bin"}, {"etc/passwd": b"root\n"})
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getmember("tmp").mode == 0o1777
        assert tar.getmember("bin").linkname == "usr/bin"
        passwd = tar.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read() == b"root\n"


def test_the_same_image_has_the_same_bytes() -> None:
    links, contents = {"bin": "usr/bin", "lib": "usr/lib"}, {"etc/passwd": b"root\n"}
    assert image.image_tar(links, contents) == image.image_tar(dict(reversed(links.items())), contents)
