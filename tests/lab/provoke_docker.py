"""The container engine and the node's own resources."""

from __future__ import annotations

from cluster.lab import host, image
from tests.lab.cases import case
from tests.lab.stage import HERE, Change, Content, Stage, unchanged


@case("dockerd of the worker is stopped", "docker-daemon-down", node=2)
def docker_daemon_down(stage: Stage) -> None:
    stage.write_scripts()
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    host.stop_engine(stage.worker)
    stage.start(stage.worker, "ray")


@case("the scripts run as a user that is not in the group docker", "docker-permission", node=2)
def docker_permission(stage: Stage) -> None:
    stage.write_scripts()
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    stage.sh(stage.worker, f"cp -r {HERE} /tmp/cluster && chmod -R a+rX /tmp/cluster")
    as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    done = stage.sh(stage.worker, f"{as_nobody} sh /tmp/cluster/run_cluster.sh ray; rm -rf /tmp/cluster")
    stage.save(stage.worker, "docker", done.stderr)


@case("a container of this name is left from before", "container-name-conflict", 2, ("stale-containers",))
def docker_name_conflict(stage: Stage) -> None:
    stage.write_scripts()
    host.run(stage.worker, "docker", "create", "--name", stage.container("ray"), "clusterctl-lab:1", "true")
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    stage.start(stage.worker, "ray")


@case(
    "the model's folder, a mount, is not on the worker",
    "other:mount source missing",
    node=2,
    acceptable=("model-path-missing", "mount-source-missing"),
)
def docker_mount_missing(stage: Stage) -> None:
    stage.write_scripts()
    stage.edit(stage.worker, "run_cluster.sh", f"source={_model_source(stage)},", "source=/data/models,")
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    stage.start(stage.worker, "ray")


def _model_source(stage: Stage) -> str:
    return next(
        mount.split(":")[0] for mount in stage.lab.mounts if mount.split(":")[1].startswith("/models")
    )


@case(
    "an image that the worker does not have, of a registry that it cannot find",
    "other:image not found",
    node=2,
    acceptable=("registry-unreachable",),
)
def docker_image_not_found(stage: Stage) -> None:
    stage.write_scripts()
    stage.edit(stage.worker, "run_cluster.sh", "clusterctl-lab:1", "registry.invalid/vllm-ray:v0.33.0")
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    stage.start(stage.worker, "ray")


@case("an image without ray on the worker: its python3 is the system's", "image-no-ray", node=2)
def docker_image_without_ray(stage: Stage) -> None:
    stage.write_scripts()
    image.import_image(stage.worker)
    try:
        stage.start(stage.head, "ray")
        stage.until(stage.head, "ray", "Ray runtime started", 60)
        stage.start(stage.worker, "ray")
        stage.ended(stage.worker, "ray", 20)
    finally:
        stage.restore_image(stage.worker)


@case("the disk under /var/lib/docker of the worker, 40 MB, is full", "disk-full", node=2)
def docker_disk_full(stage: Stage) -> None:
    stage.write_scripts()
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    host.stop_engine(stage.worker)
    stage.sh(stage.worker, "mount -t tmpfs -o size=40m tmpfs /var/lib/docker")
    try:
        host.start_engine(stage.worker)
        stage.restore_image(stage.worker)
        stage.sh(stage.worker, "cat /dev/zero >/var/lib/docker/filler")
        stage.start(stage.worker, "ray")
        stage.keep_container_logs()
        stage.clear()
    finally:
        host.stop_engine(stage.worker)
        stage.sh(stage.worker, "umount /var/lib/docker")
        host.start_engine(stage.worker)


def limited(*options: str) -> Change:
    def change(content: Content) -> None:
        content["runtime"]["extra_args"] = list(options)

    return change


@case("containers with at most 24 open files", "nofile-low", node=1)
def docker_nofile(stage: Stage) -> None:
    stage.write_scripts(limited("--ulimit", "nofile=24:24"))
    stage.start(stage.head, "ray")
    stage.ended(stage.head, "ray", 60)
    stage.keep_session_logs(stage.head, "raylet.err", "raylet.out", "gcs_server.out", "gcs_server.err")


@case(
    "the Ray container of the worker has 350 MB of memory, less than Ray needs",
    "other:container memory limit",
    node=2,
    acceptable=("host-oom",),
)
def docker_memory_less_than_ray(stage: Stage) -> None:
    head_and_worker_with_memory(stage, "350m")
    assert stage.ended(stage.worker, "ray", 60), "Ray did with it"


@case(
    "the Ray container of the worker has 1100 MB of memory: the rank there loads, its KV cache has no room",
    "kv-too-small",
    node=2,
    acceptable=("host-oom", "other:container memory limit"),
)
def docker_memory_without_kv_cache(stage: Stage) -> None:
    head_and_worker_with_memory(stage, "1100m", with_a_small_object_store)
    assert stage.joined(2), "Ray did not join"
    stage.serve_as_written(timeout=150)


@case(
    "the Ray container of the worker has 800 MB of memory: the kernel kills the rank there while it loads",
    "host-oom",
    node=2,
)
def docker_memory_kill(stage: Stage) -> None:
    head_and_worker_with_memory(stage, "800m", with_a_small_object_store)
    assert stage.joined(2), "Ray did not join"
    stage.serve_as_written(timeout=200)
    stage.keep_kernel_log(stage.worker)
    stage.keep_session_logs(stage.worker, "raylet.out")


def with_a_small_object_store(content: Content) -> None:
    content["ray"] = {"object_store_memory": 100_000_000}


def head_and_worker_with_memory(stage: Stage, limit: str, change: Change = unchanged) -> None:
    stage.write_scripts(change)
    stage.edit(stage.worker, "run_cluster.sh", "--ipc shareable", f"--memory {limit} --ipc shareable")
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    stage.start(stage.worker, "ray")


@case("/dev/shm of 1 MB, three ranks on one node", "shm-small", node=1)
def docker_shm_small(stage: Stage) -> None:
    def change(content: Content) -> None:
        content["runtime"]["shm_size"] = "1m"
        content["nodes"] = [content["nodes"][0] | {"gpus": 3}]
        content["serve"] |= {"tensor_parallel_size": 3, "pipeline_parallel_size": 1, "executor_backend": "mp"}

    stage.write_scripts(change)
    stage.serve_as_written(timeout=150)
