"""What the corpus needs of a vector store: versions built aside, checked, then switched to; searches with a tenant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID, uuid5

from rag_corpus.embedder import Vectors
from rag_corpus.sparse import SparseVector

PUBLIC_TENANT = "public"
_POINT_NAMESPACE = UUID("c1d7a0b2-52a4-5c5e-9d0f-2b8f6f3f6d10")


@dataclass(frozen=True, slots=True)
class IndexLayout:
    """The named vectors of a collection: `single` hold one dense vector a point, `multiple` several (a search scores
    the nearest), `sparse` weighted terms, their inverse document frequency applied by the store."""

    dimension: int
    single: tuple[str, ...]
    multiple: tuple[str, ...]
    sparse: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IndexPoint:
    """One thing to find, such as a technique. `dense` values are (dimension,) for single and (n, dimension) for
    multiple vectors; a search by a vector finds only points that have it. `tenant` is whose it is, `public` for
    everyone's."""

    id: str
    tenant: str
    dense: Mapping[str, Vectors]
    sparse: Mapping[str, SparseVector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IndexSearch:
    """One nearest-neighbour search by the vector named `using`: sparse, or dense, shaped (dimension,) for a single
    and (1, dimension) for a multiple vector."""

    using: str
    limit: int
    dense: Vectors | None = None
    sparse: SparseVector | None = None


class VectorIndex(Protocol):
    """A store of versioned collections behind one alias. Errors are the implementation's own, documented there."""

    def active(self) -> str | None:
        """The version that searches see; None before the first `promote`."""
        ...

    def build(
        self,
        version: str,
        layout: IndexLayout,
        points: Iterable[IndexPoint],
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Fill `version` anew beside the active one and return the count of its points, as the store counts them."""
        ...

    def promote(self, version: str) -> None:
        """Switch searches to `version` atomically, keep the version before for `rollback`, drop older ones."""
        ...

    def rollback(self) -> str | None:
        """Switch back to the version before; returns it, or None when there is none."""
        ...

    def search(
        self, searches: Sequence[IndexSearch], tenant: str, version: str | None = None
    ) -> list[list[tuple[str, float]]]:
        """(point id, score) best first for each search, of public points and `tenant`'s own only."""
        ...


def point_id(tenant: str, kind: str, key: str) -> str:
    """A point's id: the same for the same thing in every version."""
    return str(uuid5(_POINT_NAMESPACE, f"{tenant}\n{kind}\n{key}"))
