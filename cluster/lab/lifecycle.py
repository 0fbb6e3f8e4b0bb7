"""up, down, status: the whole of a lab, top to bottom."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import LabError
from cluster.lab import cgroups, engine, environment, host, image, network, processes, rootfs, state
from cluster.lab.spec import BASE, Host, Lab, LabSpec, check_spec, free_subnet, lab_directory


@dataclass(frozen=True)
class HostStatus:
    """What is true of a host now; engine and containers are None where it has no engine."""

    name: str
    address: str
    running: bool
    sshd: bool
    engine: bool | None
    containers: int | None


def up(spec: LabSpec, base: Path = BASE) -> Lab:
    """All or nothing: a lab that could not be brought up is taken down again.

    One that is up already, with the same shape and healthy, is returned as it is.
    """
    check_spec(spec)
    environment.check_machine(spec)
    wanted = _design(spec, base)
    with state.lock():
        present = state.read(spec.name, base)
        if present is None:
            lab = _claim(wanted)
    if present is not None:
        return _same(present, wanted, base)
    try:
        _bring_up(lab)
    except BaseException:
        down(lab.name, base)
        raise
    return lab


def down(name: str, base: Path = BASE) -> bool:
    """Everything of it that is there, also after a `lab up` that was killed; False if there was nothing."""
    lab = state.read(name, base)
    if lab is not None:
        processes.kill_all(lab.namespaces)
        network.remove(lab)
        cgroups.remove(lab.cgroup)
    existed = lab_directory(name, base).exists()
    state.remove(name, base)
    return existed


def status(name: str, base: Path = BASE) -> tuple[HostStatus, ...]:
    lab = find(name, base)
    with ThreadPoolExecutor(lab.nodes) as threads:
        return tuple(threads.map(_host_status, lab.hosts))


def find(name: str, base: Path = BASE) -> Lab:
    lab = state.read(name, base)
    if lab is None:
        others = state.names(base)
        known = f"up are: {', '.join(others)}" if others else f"clusterctl lab up --name {name}"
        raise LabError(f"there is no lab {name!r}", known)
    return lab


def _design(spec: LabSpec, base: Path) -> Lab:
    """Everything but the addresses."""
    python = environment.python_directories(spec.python)
    _, system = image.system_directories()
    common = environment.shares((*system, *python))
    model = environment.model_directory(spec.model)
    extra = [environment.parse_mount(text) for text in spec.mounts]
    if model is not None:
        extra.append((str(model), environment.MODEL_TARGET))
    return Lab(
        name=spec.name,
        nodes=spec.nodes,
        gpus=spec.gpus,
        engine=spec.engine,
        subnet="",
        directory=lab_directory(spec.name, base),
        venv=python[0],
        shares=environment.shares((*common, *(source for source, _ in extra))),
        mounts=tuple(environment.mount(*pair) for pair in [*((path, path) for path in common), *extra]),
        image_path=f"{python[0]}/bin:{image.PATH_WITHOUT_PYTHON_ENVIRONMENT}",
    )


def _claim(wanted: Lab) -> Lab:
    """Under the lock: choose a subnet, write the lab down, make its namespaces and cables."""
    lab = replace(wanted, subnet=str(free_subnet(network.used_networks())))
    network.check_names_free(lab)
    state.remove(
        lab.name, lab.directory.parent
    )  # a directory without a state is the rest of an interrupted down
    state.write(lab)
    try:
        network.make(lab)
    except BaseException:
        down(lab.name, lab.directory.parent)
        raise
    return lab


def _bring_up(lab: Lab) -> None:
    threads = ThreadPoolExecutor(lab.nodes)
    try:
        rootfs.write_all(lab, threads)
        _each(threads, lab)
    finally:
        # Ctrl-C: whoever still waits for a host sees it die in `down` and ends by itself.
        threads.shutdown(wait=False, cancel_futures=True)


def _each(threads: Executor, lab: Lab) -> None:
    for future in [threads.submit(_bring_up_host, lab, target) for target in lab.hosts]:
        future.result()


def _bring_up_host(lab: Lab, target: Host) -> None:
    host.boot(target)
    if target.engine:
        image.import_image(target, path=lab.image_path)


def _same(present: Lab, wanted: Lab, base: Path) -> Lab:
    healthy = all(one.sshd and one.engine is not False for one in status(present.name, base))
    if present.same_shape(wanted) and healthy:
        return present
    raise LabError(
        f"lab {present.name!r} is already up, {'with another shape' if healthy else 'and not healthy'}",
        f"Look at it: `clusterctl lab status --name {present.name}`; "
        f"remove it: `clusterctl lab down --name {present.name}`",
    )


def _host_status(target: Host) -> HostStatus:
    init = host.init_pid(target)
    containers = engine.containers(init) if init is not None and target.engine else None
    return HostStatus(
        name=target.name,
        address=target.address,
        running=init is not None,
        sshd=init is not None and host.sshd_answers(target),
        engine=(containers is not None) if target.engine else None,
        containers=containers,
    )
