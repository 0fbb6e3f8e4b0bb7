"""A container image of a few KB without a registry: directories and links; the rest is bind-mounted.

/usr comes from the machine that carries the lab, so the image fits any distribution, without a download.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from cluster.errors import LabError
from cluster.lab import engine, files, host
from cluster.lab.spec import IMAGE, Host

PATH_WITHOUT_PYTHON_ENVIRONMENT = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
DIRECTORIES = {"etc": 0o755, "root": 0o700, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777, "run": 0o755}


def system_directories(root: Path = Path("/")) -> tuple[dict[str, str], tuple[str, ...]]:
    """(links, directories) that hold the programs: with a merged /usr /bin is a link, on older systems not.

    Debian's /usr/bin/awk is a link to /etc/alternatives/awk, which is a link back into /usr.
    """
    found = [root / name for name in USR_LINKS if (root / name).exists()]
    links = {path.name: str(path.readlink()) for path in found if path.is_symlink()}
    directories = [f"/{path.name}" for path in found if not path.is_symlink()]
    alternatives = ["/etc/alternatives"] if (root / "etc/alternatives").is_dir() else []
    return links, ("/usr", *directories, *alternatives)


def system_files() -> dict[str, bytes]:
    """The parts of /etc that programs in /usr need to run."""
    texts = {"etc/passwd": files.PASSWD, "etc/group": files.GROUP, "etc/nsswitch.conf": files.NSSWITCH}
    contents = {path: text.encode() for path, text in texts.items()}
    cache = Path("/etc/ld.so.cache")
    return {**contents, "etc/ld.so.cache": cache.read_bytes()} if cache.exists() else contents


def image_tar(links: dict[str, str], contents: dict[str, bytes]) -> bytes:
    """The image's file system; the same input gives the same bytes, so every host has the same layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, mode in DIRECTORIES.items():
            tar.addfile(_entry(path, tarfile.DIRTYPE, mode))
        for path, target in sorted(links.items()):
            tar.addfile(_entry(path, tarfile.SYMTYPE, 0o777, linkname=target))
        for path, content in sorted(contents.items()):
            tar.addfile(_entry(path, tarfile.REGTYPE, 0o644, size=len(content)), io.BytesIO(content))
    return buffer.getvalue()


def _entry(path: str, kind: bytes, mode: int, linkname: str = "", size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.linkname, entry.size = kind, mode, linkname, size
    return entry


def system_tar() -> bytes:
    links, _ = system_directories()
    return image_tar(links, system_files())


def import_image(target: Host, image: str = IMAGE, path: str = PATH_WITHOUT_PYTHON_ENVIRONMENT) -> None:
    """Into one host's engine. The default PATH has the system's python3 and no ray: an image to fail with."""
    init = host.init_pid(target)
    if init is None:
        raise LabError(f"{target.name} is not running")
    engine.import_tar(init, system_tar(), image, (f"ENV PATH={path}", "CMD sh"))
