"""The container engine, the image, and what a container finds in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.errors import Problem, Severity
from cluster.facts import Facts
from cluster.plan import Member, Plan

MEBIBYTE = 1024 * 1024
# vllm/distributed/device_communicators/shm_broadcast.py: a response queue of 10 chunks of 24 MiB for each
# worker, and a broadcast queue of 10 chunks of 16 MiB.
SHM_PER_WORKER, SHM_BROADCAST = 240 * MEBIBYTE, 160 * MEBIBYTE
# Ray's raylet holds file descriptors for every worker process and peer (ray-project/ray#13045).
ENOUGH_FILES = {"cuda": 65536, "cpu": 8192}
# Which words of an engine's complaint about a container say what is wrong.
# The first that fits: nvidia-container-cli is also the one who says that the driver is wrong.
COMPLAINTS = (
    ("unsatisfied condition: cuda", "driver-too-old"),
    ("driver/library version mismatch", "driver-lib-mismatch"),
    ("driver not loaded", "driver-not-loaded"),
    ("could not select device driver", "nvidia-runtime-missing"),
    ("nvidia-container-cli", "nvidia-runtime-missing"),
    ("unresolvable CDI devices", "nvidia-runtime-missing"),
    ("discover GPU vendor from CDI", "nvidia-runtime-missing"),
    ("bind source path does not exist", "mount-missing"),
    ("statfs ", "mount-missing"),
    ("no space left on device", "disk-full"),
)
REMEDIES = {
    "nvidia-runtime-missing": "Install nvidia-container-toolkit on {node}, then "
    "`sudo nvidia-ctk runtime configure --runtime={engine} && sudo systemctl restart {engine}`",
    "mount-missing": "Make the folder on {node}, or correct runtime.mounts or nodes[].mounts",
    "driver-lib-mismatch": "Reboot {node}: its driver was upgraded and the old module is still loaded",
    "driver-not-loaded": "Run `sudo modprobe nvidia` on {node}; a new kernel needs the driver rebuilt (dkms)",
    "driver-too-old": "Upgrade the NVIDIA driver on {node}, or use an image with an older CUDA",
    "image-no-python": "Use an image with Python, vLLM and Ray",
    "disk-full": "Run `df -h` on {node} and make room",
    "container-hangs": "Run one by hand on {node}; `nvidia-smi` and the folders of its mounts may hang too",
    "container-refused": "Correct what {engine} complains about: runtime.extra_args, limits, devices",
}
REFUSED, HANGS = 125, (124, 137)


def answers(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    engine, node = plan.runtime.engine, member.name
    if engine == "process" or (facts.engine_version is not None and not facts.engine_error):
        return
    expected = f"`{engine} version` to answer"
    said = facts.engine_error
    if engine == "podman":
        remedy = f"Run `podman info` on {node} as the SSH user: it says what is wrong"
        missing = re.search(r"podman: (command )?not found$", said) or "failed to run command" in said
        remedy = f"Install podman on {node}, or set runtime.engine" if missing else remedy
        id_ = "engine-missing" if missing else "docker-daemon-down"
        yield Problem(id_, node, f"podman does not answer: {said}", expected, remedy)
    elif "permission denied" in said.lower():
        remedy = f"Run `sudo usermod -aG {engine} $USER` on {node} and log in again"
        yield Problem("docker-permission", node, f"{engine}: {said}", expected, remedy)
    elif re.search(rf"{engine}: (command )?not found$", said) or "failed to run command" in said:
        remedy = f"Install {engine} on {node}, or set runtime.engine"
        yield Problem("engine-missing", node, f"{engine} is not installed", f"{engine} in the PATH", remedy)
    else:
        remedy = f"Run `systemctl start {engine}` on {node}"
        yield Problem("docker-daemon-down", node, f"{engine} does not answer: {said}", expected, remedy)


def has_image(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    runtime, node = plan.runtime, member.name
    if runtime.engine == "process" or facts.engine_version is None or facts.image_id is not None:
        return
    if runtime.pull == "never":
        found = f"the image {runtime.image} is not there, and runtime.pull is never"
        remedy = f"Run `{runtime.engine} pull {runtime.image}` on {node}, or `{runtime.engine} load` it"
        yield Problem("image-missing", node, found, "the image on every node", remedy)


def image_can(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """Whether a container as Ray's starts at all, with its GPUs and mounts."""
    if facts.versions is not None or not facts.versions_error:
        return
    said = facts.versions_error
    id_ = next((id_ for words, id_ in COMPLAINTS if words in said), _by_exit_code(facts.inside_code))
    if id_ == "mount-missing" and facts.missing_mounts:
        return
    found = f"{_place(plan)} has no usable python3: {said}" if id_ == "image-no-python" else said
    remedy = REMEDIES[id_].format(node=member.name, engine=plan.runtime.engine)
    yield Problem(id_, member.name, found, "a container that starts and has python3", remedy)


def _by_exit_code(code: int) -> str:
    """As `docker run` exits: 125 is its own refusal, 126 and 127 a command that cannot be run."""
    return (
        "container-hangs" if code in HANGS else "container-refused" if code == REFUSED else "image-no-python"
    )


def mounts(_: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    for source in facts.missing_mounts:
        remedy = REMEDIES["mount-missing"].format(node=member.name)
        yield Problem("mount-missing", member.name, f"{source} is not there", "the source of a mount", remedy)


def has_ray_and_vllm(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """The official vLLM image has had no ray since 0.18."""
    if facts.versions is None:
        return
    if plan.uses_ray and facts.versions.ray is None:
        yield Problem(
            "image-no-ray",
            member.name,
            f"{_place(plan)} has no ray",
            "ray beside vllm",
            _how_to_get_ray(plan),
            _until_pulled(plan),
        )
    if facts.versions.vllm is None:
        remedy, found = "Use an environment with vLLM in it", f"{_place(plan)} has no vllm"
        yield Problem("image-no-vllm", member.name, found, "vllm", remedy, _until_pulled(plan))


def _until_pulled(plan: Plan) -> Severity:
    """Of an image that `up` is going to pull anew, nothing is certain."""
    return "warning" if plan.runtime.pull == "always" else "error"


def _place(plan: Plan) -> str:
    if plan.runtime.engine == "process":
        return f"the environment {plan.runtime.venv or 'of python3'}"
    return f"the image {plan.runtime.image}"


def _how_to_get_ray(plan: Plan) -> str:
    if plan.runtime.engine == "process":
        return 'Run `pip install "ray[default]"` in it'
    return (
        f"Build one with it: printf 'FROM {plan.runtime.image}\\nRUN pip install \"ray[default]\"\\n' "
        f"| {plan.runtime.engine} build -t vllm-ray - ; or set serve.executor_backend: mp"
    )


def names_are_free(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    for name in facts.name_conflicts:
        yield Problem(
            "container-name-conflict",
            member.name,
            f"a container {name} is there that clusterctl did not start",
            "the name to be free",
            f"Look at it with `{plan.runtime.engine} inspect {name}` and rename or remove it; "
            "or choose another cluster name",
        )


def gives_gpus(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """Only a guess: where the image is there, a container was started with its GPUs, and proves it."""
    runtime = plan.runtime
    unproven = facts.image_id is None and facts.engine_setup is not None and not facts.engine_error
    if runtime.device == "cuda" and runtime.engine == "docker" and unproven and facts.engine_setup:
        if "nvidia" in facts.engine_setup.runtimes:
            return
        yield Problem(
            "nvidia-runtime-missing",
            member.name,
            f"docker knows the runtimes {', '.join(facts.engine_setup.runtimes) or 'none'}",
            "nvidia among them, or the toolkit's hook (the image is not there yet to try it)",
            REMEDIES["nvidia-runtime-missing"].format(node=member.name, engine=runtime.engine),
            "warning",
        )


def storage(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if facts.engine_setup is not None and facts.engine_setup.storage_driver == "vfs":
        yield Problem(
            "storage-driver",
            member.name,
            "the storage driver vfs copies the whole image for every container",
            "overlay2 or another that shares layers",
            f'Set "storage-driver": "overlay2" for {plan.runtime.engine} on {member.name}',
            "warning",
        )


def security(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """SELinux keeps containers from mounts without a label; a rootless engine may not raise memlock."""
    setup = facts.engine_setup
    options = " ".join(setup.security) if setup else ""
    selinux = facts.system is not None and facts.system.selinux == "Enforcing"
    relabelled = "label=disable" in " ".join(plan.runtime.extra_args) or plan.runtime.privileged
    if (selinux and "selinux" in options and member.mounts and not relabelled) or "rootless" in options:
        yield Problem(
            "selinux-rootless",
            member.name,
            "a rootless engine" if "rootless" in options else "SELinux is enforcing, and the engine uses it",
            "mounts and devices that a container may use",
            'Set runtime.extra_args: ["--security-opt", "label=disable"], or use a rootful engine',
            "warning",
        )


def shared_memory(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if facts.inside is None or facts.inside.shm_bytes is None:
        return
    wanted = SHM_BROADCAST + SHM_PER_WORKER * min(member.node.gpus, plan.world_size)
    if facts.inside.shm_bytes < wanted:
        place = "of the node" if plan.runtime.engine == "process" else "in the container"
        yield Problem(
            "shm-small",
            member.name,
            f"/dev/shm {place} has {facts.inside.shm_bytes // MEBIBYTE} MiB",
            f"at least {wanted // MEBIBYTE} MiB for {member.node.gpus} workers",
            f"Run `sudo mount -o remount,size=16g /dev/shm` on {member.name}"
            if plan.runtime.engine == "process"
            else "Set runtime.shm_size: 16g",
        )


def open_files(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    limit = facts.inside.nofile if facts.inside is not None else None
    wanted = ENOUGH_FILES[plan.runtime.device]
    if limit is not None and limit < wanted:
        yield Problem(
            "nofile-low",
            member.name,
            f"{limit} open files are allowed",
            f"at least {wanted}",
            'Set runtime.extra_args: ["--ulimit", "nofile=1048576:1048576"]',
            "warning",
        )
