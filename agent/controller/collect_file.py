"""COLLECT_FILE: one file of the folders that the host's policy names goes to the server, whole, in chunks.

The path may go through links, as long as it ends inside an allowed folder. It is then opened name by name without
following any, so that nothing can be put in its place between the check and the opening.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from agent.controller.control_client import Refused, Unreachable
from agent.controller.executor import INTERRUPTED, Arguments, Ending, JobFailed, JobRejected, JobRun
from agent.controller.job_run import Post

_CHUNK: Final = 524_288
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe must not wait for somebody to write to it.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class CollectFile:
    """Reads the file twice: for its digest, and to send it. One that changes in between is not sent as if it had not.

    Arguments: `path`, and `most_bytes` where the job wants less than the policy allows. `own` is the agent's folder,
    whose keys never leave it, whatever the policy names.
    """

    type: Final = "COLLECT_FILE"

    def __init__(self, post: Post, own: Path) -> None:
        self._post = post
        self._own = own

    def run(self, run: JobRun) -> Ending:
        """Carries the job out; with dry_run says size and digest."""
        arguments = Arguments(run.job.args)
        path = arguments.text("path")
        allowed = run.policy.collect_file
        most = arguments.number("most_bytes", allowed.most_bytes, least=1)
        arguments.done()
        with open_inside(path, allowed.roots, self._own) as stream:
            size, digest = _measured(stream, min(most, allowed.most_bytes))
            data: dict[str, Any] = {"path": path, "size": size, "digest": digest}
            if run.job.dry_run:
                return Ending("succeeded", "dry_run", "", data)
            self._send(run, stream, data)
        run.write(f"sent {size} bytes of {path}")
        return Ending("succeeded", "", "", data)

    def resume(self, run: JobRun) -> Ending:
        """The server has at most a part, under this job, and drops it."""
        return INTERRUPTED

    def _send(self, run: JobRun, stream: BinaryIO, data: dict[str, Any]) -> None:
        body = {"job": str(run.job.id), "lease": run.lease} | data
        hashed = hashlib.sha256()
        offset = 0
        for chunk in _chunks(stream, data["size"]):
            hashed.update(chunk)
            offset += len(chunk)
            # The last chunk goes out only when all of them are what was measured.
            if offset == data["size"] and hashed.hexdigest() != data["digest"]:
                break
            text = base64.b64encode(chunk).decode()
            try:
                self._post("/agent/files", body | {"offset": offset - len(chunk), "data": text})
            except (Unreachable, Refused) as error:
                raise JobFailed("not_sent", f"{data['path']} could not be sent: {error}", data) from error
        if offset != data["size"] or hashed.hexdigest() != data["digest"]:
            raise JobFailed("changed", f"{data['path']} changed while it was read", data)


def open_inside(path: str, roots: tuple[str, ...], own: Path) -> BinaryIO:
    """The file, opened for reading, when it lies in one of the folders once links are followed, and not in `own`.

    Raises JobRejected for a path outside, and for what is not a file of one name; JobFailed where it cannot be opened.
    """
    if not path.startswith("/") or "\0" in path:
        raise JobRejected("bad_arguments", "path must be absolute")
    real = os.path.realpath(path)
    if f"{real}/".startswith(os.path.realpath(str(own)) + "/"):
        raise JobRejected("host_policy", f"{path} is one of the agent's own files, which are never collected")
    for root in roots:
        real_root = os.path.realpath(root)
        if real.startswith(real_root + "/"):
            break
    else:
        raise JobRejected("host_policy", f"{path} is outside the folders that the host's policy names for collecting")
    try:
        descriptor = _opened(real_root, real[len(real_root) + 1 :].split("/"))
    except OSError as error:
        raise JobFailed("not_readable", f"{path}: {error.strerror}") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        # A second name may be a file of elsewhere that somebody linked into the folder.
        raise JobRejected("host_policy", f"{path} is not a regular file, or has more than one name")
    return os.fdopen(descriptor, "rb")


def _opened(root: str, names: list[str]) -> int:
    folder = os.open(root, _FOLDER_FLAGS)
    try:
        for name in names[:-1]:
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(names[-1], _FILE_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


def _measured(stream: BinaryIO, most: int) -> tuple[int, str]:
    """Size and digest. Raises JobRejected when there is more than may be sent."""
    size = os.fstat(stream.fileno()).st_size
    if size > most:
        raise JobRejected("too_large", f"the file has {size} bytes, {most} are allowed")
    hashed, seen = hashlib.sha256(), 0
    for chunk in _chunks(stream, size):
        hashed.update(chunk)
        seen += len(chunk)
    return seen, hashed.hexdigest()


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """The first `size` bytes; one empty chunk for an empty file. What a log has gained meanwhile is left out."""
    stream.seek(0)
    left = size
    while chunk := stream.read(min(_CHUNK, left)):
        left -= len(chunk)
        yield chunk
    if size == 0:
        yield b""
