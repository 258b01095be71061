"""What the machine itself must offer: Python, processor, memory, disk, shared memory, a folder and a port."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from pathlib import Path

import psutil

from cluster.data_directory import DataDirectory
from cluster.doctor_check import Check, Place

GIB = 2**30
_NEEDED_MEMORY = 3 * GIB
_LLM_MEMORY = 6 * GIB
_NEEDED_DISK = 2 * GIB
_COMFORTABLE_DISK = 10 * GIB
_NEEDED_SHARED_MEMORY = 256 * 2**20
_PYTHON = (3, 11)


def python_check() -> Check:
    found = f"Python {platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] == _PYTHON:
        return Check("python", "ok", found)
    return Check("python", "missing", found, "install Python 3.11 and run `make setup` with PYTHON=python3.11")


def system_check() -> Check:
    machine, flags = platform.machine(), _cpu_flags()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "neither AVX2 nor AVX-512"
    found = f"{platform.system()} {machine}, {cores} cores, {vectors if machine == 'x86_64' else 'no x86 vectors'}"
    if platform.system() != "Linux":
        return Check("system", "missing", found, "Trust SOC runs on Linux; on other systems use a container or a VM")
    if cores < 2:
        return Check("system", "warning", found, "give the machine two cores or more: one is slow to start")
    return Check("system", "ok", found)


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())


def memory_check() -> Check:
    memory = psutil.virtual_memory()
    limit = min(memory.total, _cgroup_limit() or memory.total)
    available = min(memory.available, limit)
    found = f"{available / GIB:.1f} GiB available of {limit / GIB:.1f} GiB"
    if available < _NEEDED_MEMORY:
        return Check("memory", "missing", found, f"free memory: {_NEEDED_MEMORY // GIB} GiB are needed")
    if available < _LLM_MEMORY:
        return Check("memory", "warning", found, f"enough, but a local language model needs {_LLM_MEMORY // GIB} GiB")
    return Check("memory", "ok", found)


def _cgroup_limit() -> int | None:
    """The memory limit of a container (cgroup v2, then v1), which /proc/meminfo does not tell."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            content = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(content) if content.isdigit() else None
    return None


def disk_check(directory: DataDirectory) -> Check:
    place = _nearest_existing(directory.path)
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free at {place}"
    if free < _NEEDED_DISK:
        return Check("disk", "missing", found, "free some space, or put the data elsewhere: trustsoc up --data-dir DIR")
    if free < _COMFORTABLE_DISK:
        return Check("disk", "warning", found, "enough to begin; a busy server's logs need more")
    return Check("disk", "ok", found)


def shared_memory_check() -> Check:
    place = Path("/dev/shm")  # noqa: S108 - not a file of ours: the mount that Ray puts its object store on
    if not place.is_dir():
        return Check("shared memory", "warning", "no /dev/shm", "mount one: Ray falls back to slow files without it")
    usage = shutil.disk_usage(place)
    found = f"{usage.free / 2**20:,.0f} MiB free of {usage.total / 2**20:,.0f} MiB in /dev/shm"
    if usage.free < _NEEDED_SHARED_MEMORY:
        return Check(
            "shared memory", "warning", found, "mount -o remount,size=1g /dev/shm (in a container: --shm-size=1g)"
        )
    return Check("shared memory", "ok", found)


def data_directory_check(directory: DataDirectory) -> Check:
    path = directory.path
    if not path.exists():
        parent = _nearest_existing(path)
        if os.access(parent, os.W_OK | os.X_OK):
            return Check("data directory", "ok", f"{path} will be made at the first start")
        return Check("data directory", "missing", f"{path} cannot be made: {parent} is not writable", _another_folder())
    if not path.is_dir():
        return Check("data directory", "missing", f"{path} is not a folder", _another_folder())
    owner, mode = path.stat().st_uid, path.stat().st_mode & 0o777
    found = f"{path}, mode {mode:o}, owner {owner}"
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return Check("data directory", "missing", found, f"sudo chown -R {os.geteuid()} {path}")
    if owner != os.geteuid():
        return Check("data directory", "warning", found, f"sudo chown -R {os.geteuid()} {path}")
    if mode & 0o022:
        return Check("data directory", "warning", found, f"chmod go-w {path}")
    client = directory.client_path
    if client.exists() and client.stat().st_mode & 0o077:
        return Check("data directory", "missing", f"{client} can be read by others", f"chmod 600 {client}")
    return Check("data directory", "ok", found)


def _another_folder() -> str:
    return "choose another folder: trustsoc up --data-dir DIR"


def user_check() -> Check:
    if os.geteuid() == 0:
        return Check("user", "ok", "root: the embedded PostgreSQL drops to an unprivileged user by itself")
    return Check("user", "ok", f"uid {os.geteuid()}, no root rights needed")


def port_check(place: Place) -> Check:
    name = f"{place.host}:{place.port}"
    running = place.directory.running()
    if running is not None and running.base_url.endswith(f":{place.port}"):
        return Check("port", "ok", f"{name} is Trust SOC's own, process {running.pid}")
    if trouble := address_in_use(place.host, place.port):
        mend = f"stop what listens there (ss -ltnp 'sport = :{place.port}'), or: trustsoc up --port {place.port + 1}"
        return Check("port", "missing", f"{name}: {trouble}", mend)
    return Check("port", "ok", f"{name} is free")


def _nearest_existing(path: Path) -> Path:
    """The folder itself, or the closest one above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def address_in_use(host: str, port: int) -> str:
    """Why nothing can listen there; empty when it can."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""
