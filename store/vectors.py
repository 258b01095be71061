"""Vectors in Qdrant, in a folder or on a server: collections behind an alias, a tenant filter on every query."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from store.local_search import LocalSnapshot, read_snapshot

PUBLIC_TENANT = "public"
_UPSERT_BATCH = 64
_LOCK_FILE = "in-use.lock"
_BUSY_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class VectorIndexError(Exception):
    """The index cannot do what was asked; the message says what and why."""


class VectorIndexUnavailable(VectorIndexError):
    """The Qdrant server did not answer or is overloaded: trying again later can help."""


class VectorIndexLocked(VectorIndexError):
    """Another process holds the folder: local mode serves one process."""


class SparseTerms(Protocol):
    """Ascending indices (unsigned 32 bit) with a weight each."""

    @property
    def indices(self) -> Sequence[int]: ...
    @property
    def values(self) -> Sequence[float]: ...


class Layout(Protocol):
    """Names of the vectors of a collection, by kind, and the dimension of the dense ones."""

    @property
    def dimension(self) -> int: ...
    @property
    def single(self) -> Sequence[str]: ...
    @property
    def multiple(self) -> Sequence[str]: ...
    @property
    def sparse(self) -> Sequence[str]: ...


class Point(Protocol):
    """What is stored: `id` a UUID, dense (d,) or (n, d) float32 arrays and sparse terms by vector name."""

    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def dense(self) -> Mapping[str, NDArray[np.float32]]: ...
    @property
    def sparse(self) -> Mapping[str, SparseTerms]: ...


class Search(Protocol):
    """One query by the vector `using`: sparse, or dense, (d,) for a single and (1, d) for a multiple vector."""

    @property
    def using(self) -> str: ...
    @property
    def limit(self) -> int: ...
    @property
    def dense(self) -> NDArray[np.float32] | None: ...
    @property
    def sparse(self) -> SparseTerms | None: ...


class QdrantIndex:
    """Versions of one knowledge base, each a collection `{name}-{version}`; the alias `{name}` is what searches see.

    Local mode locks its folder: one process, until `close`. Calls may come from several threads. Calls block; from
    asyncio run them in a thread. Raises VectorIndexError, VectorIndexUnavailable, VectorIndexLocked.
    """

    def __init__(self, client: QdrantClient, name: str, *, local: bool, folder_lock: BinaryIO | None = None) -> None:
        self._client = client
        self._name = name
        self._local = local
        self._folder_lock = folder_lock
        self._lock = threading.Lock()
        self._snapshots: dict[str, LocalSnapshot] = {}

    @classmethod
    def open_folder(cls, path: Path, name: str = "knowledge") -> QdrantIndex:
        """Qdrant inside this process, stored in `path`. Raises VectorIndexLocked when another process has it open."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder_lock = _locked(path)
        try:
            client = QdrantClient(path=str(path), force_disable_check_same_thread=True)
        except (RuntimeError, ValueError, OSError) as error:
            folder_lock.close()
            raise VectorIndexError(f"cannot open the Qdrant folder {path}: {error}") from error
        return cls(client, name, local=True, folder_lock=folder_lock)

    @classmethod
    def in_memory(cls, name: str = "knowledge") -> QdrantIndex:
        """Qdrant inside this process, kept nowhere."""
        return cls(QdrantClient(location=":memory:"), name, local=True)

    @classmethod
    def connect(cls, url: str, api_key: str | None = None, name: str = "knowledge", timeout: int = 10) -> QdrantIndex:
        """A Qdrant server at `url`; `timeout` in seconds. Nothing is sent before the first call."""
        client = QdrantClient(url=url, api_key=api_key, timeout=timeout, check_compatibility=False)
        return cls(client, name, local=False)

    def active(self) -> str | None:
        """The version behind the alias; None before the first `promote`."""
        with self._errors("read the alias"):
            return self._active()

    def build(
        self,
        version: str,
        layout: Layout,
        points: Iterable[Point],
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Fill `version` anew beside the active one; returns its number of points. `progress` hears how many are in.

        Raises VectorIndexError when `version` is the active one, or when Qdrant counts other than what was sent.
        """
        with self._errors(f"build version {version}"):
            if self._active() == version:
                raise VectorIndexError(f"version {version} of {self._name} is active and cannot be rebuilt in place")
            collection = self._collection(version)
            self._create(collection, layout)
            sent, batch = 0, []
            for point in points:
                batch.append(_stored(point))
                if len(batch) == _UPSERT_BATCH:
                    sent += self._upsert(collection, batch, progress, sent)
                    batch = []
            if batch:
                sent += self._upsert(collection, batch, progress, sent)
            counted = self._client.count(collection, exact=True).count
            if counted != sent:
                raise VectorIndexError(f"{collection} holds {counted} points after {sent} were sent")
            return counted

    def promote(self, version: str) -> None:
        """Point the alias at `version` in one step; the version before stays for `rollback`, older ones are dropped."""
        with self._errors(f"switch to version {version}"):
            previous = self._active()
            if self._collection(version) not in self._collections():
                raise VectorIndexError(f"version {version} of {self._name} was not built")
            self._switch(version, previous)
            keep = {self._collection(kept) for kept in (version, previous) if kept is not None}
            for collection in self._collections() - keep:
                self._snapshots.pop(collection, None)
                self._client.delete_collection(collection)

    def rollback(self) -> str | None:
        """Point the alias at the version before; returns it, or None (and changes nothing) when there is none."""
        with self._errors("roll back"):
            active = self._active()
            others = self._collections() - ({self._collection(active)} if active else set())
            if active is None or len(others) != 1:
                return None
            version = others.pop().removeprefix(f"{self._name}-")
            self._switch(version, active)
            return version

    def search(
        self, searches: Sequence[Search], tenant: str, version: str | None = None
    ) -> list[list[tuple[str, float]]]:
        """(point id, score) best first for each of `searches`, in one request, of public points and `tenant`'s own.

        Searches the active version, or `version` when given (to check it before `promote`).
        """
        for search in searches:
            if search.sparse is None and search.dense is None:
                raise VectorIndexError(f"a search by {search.using} needs a dense or a sparse vector")
        if not searches:
            return []
        visible = [PUBLIC_TENANT] if tenant == PUBLIC_TENANT else [PUBLIC_TENANT, tenant]
        with self._errors(f"search {self._name}"):
            if self._local:
                return self._search_snapshot(searches, visible, version)
            collection = self._name if version is None else self._collection(version)
            answers = self._client.query_batch_points(collection, [_request(search, visible) for search in searches])
            return [[(str(point.id), float(point.score)) for point in answer.points] for answer in answers]

    def close(self) -> None:
        """Release the folder's lock or the connections; the index cannot be used afterwards."""
        with self._lock:
            self._client.close()
            self._snapshots.clear()
            if self._folder_lock is not None:
                self._folder_lock.close()

    def _search_snapshot(
        self, searches: Sequence[Search], visible: Sequence[str], version: str | None
    ) -> list[list[tuple[str, float]]]:
        version = self._active() if version is None else version
        if version is None:
            raise VectorIndexError(f"{self._name} has no active version: build and promote one first")
        collection = self._collection(version)
        snapshot = self._snapshots.get(collection)
        if snapshot is None:
            snapshot = self._snapshots[collection] = read_snapshot(self._client, collection)
        return [_found(snapshot, search, visible) for search in searches]

    def _create(self, collection: str, layout: Layout) -> None:
        self._snapshots.pop(collection, None)
        if collection in self._collections():
            self._client.delete_collection(collection)
        single = models.VectorParams(size=layout.dimension, distance=models.Distance.DOT)
        multiple = models.VectorParams(
            size=layout.dimension,
            distance=models.Distance.DOT,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
        )
        self._client.create_collection(
            collection,
            vectors_config=dict.fromkeys(layout.single, single) | dict.fromkeys(layout.multiple, multiple),
            sparse_vectors_config={
                name: models.SparseVectorParams(modifier=models.Modifier.IDF) for name in layout.sparse
            },
        )
        if not self._local:  # local mode has no payload indexes and warns when asked for one
            tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
            self._client.create_payload_index(collection, "tenant", tenant)

    def _upsert(
        self, collection: str, batch: list[models.PointStruct], progress: Callable[[int], None] | None, sent: int
    ) -> int:
        self._client.upsert(collection, batch, wait=True)
        if progress is not None:
            progress(sent + len(batch))
        return len(batch)

    def _active(self) -> str | None:
        for alias in self._client.get_aliases().aliases:
            if alias.alias_name == self._name:
                return alias.collection_name.removeprefix(f"{self._name}-")
        return None

    def _switch(self, version: str, previous: str | None) -> None:
        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=self._collection(version), alias_name=self._name)
        )
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self._name))
        self._client.update_collection_aliases([create] if previous is None else [delete, create])

    def _collections(self) -> set[str]:
        names = (item.name for item in self._client.get_collections().collections)
        return {name for name in names if name.startswith(f"{self._name}-")}

    def _collection(self, version: str) -> str:
        return f"{self._name}-{version}"

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """One caller at a time in local mode, and Qdrant's many errors as our three."""
        try:
            if self._local:
                with self._lock:
                    yield
            else:
                yield
        except ResponseHandlingException as error:
            raise VectorIndexUnavailable(f"Qdrant did not answer while asked to {doing}: {error}") from error
        except UnexpectedResponse as error:
            kind = VectorIndexUnavailable if error.status_code in _BUSY_STATUS else VectorIndexError
            raise kind(f"Qdrant refused to {doing}: {error.status_code} {error.reason_phrase}") from error
        except (ApiException, ValueError, RuntimeError, KeyError) as error:
            raise VectorIndexError(f"cannot {doing}: {error}") from error


def _locked(path: Path) -> BinaryIO:
    """Hold `path` for this process. Qdrant locks it as well, but leaks an open file whenever that fails."""
    file = (path / _LOCK_FILE).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise VectorIndexLocked(f"{path} is in use by another process: stop it, or use a Qdrant server") from error
    return file


def _stored(point: Point) -> models.PointStruct:
    vector: dict[str, Any] = {name: values.tolist() for name, values in point.dense.items()}
    for name, terms in point.sparse.items():
        vector[name] = models.SparseVector(indices=list(terms.indices), values=list(terms.values))
    return models.PointStruct(id=point.id, vector=vector, payload={"tenant": point.tenant})


def _request(search: Search, visible: Sequence[str]) -> models.QueryRequest:
    query: Any = None
    if search.sparse is not None:
        query = models.SparseVector(indices=list(search.sparse.indices), values=list(search.sparse.values))
    elif search.dense is not None:
        query = search.dense.tolist()
    condition = models.FieldCondition(key="tenant", match=models.MatchAny(any=list(visible)))
    return models.QueryRequest(
        query=query,
        using=search.using,
        filter=models.Filter(must=[condition]),
        limit=search.limit,
        with_payload=False,
        with_vector=False,
    )


def _found(snapshot: LocalSnapshot, search: Search, visible: Sequence[str]) -> list[tuple[str, float]]:
    if search.sparse is not None:
        terms, weights = search.sparse.indices, search.sparse.values
        return snapshot.nearest_sparse(search.using, terms, weights, visible, search.limit)
    assert search.dense is not None  # noqa: S101 - narrows the type: search() has checked it
    return snapshot.nearest_dense(search.using, search.dense, visible, search.limit)
