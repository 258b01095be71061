"""One contract for every vector index: versions, tenants and scores. Qdrant must agree with the plain definition."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from rag_corpus.embedder import Vectors, normalised
from rag_corpus.sparse import SparseVector, document_vector, query_vector
from rag_corpus.vector_index import IndexLayout, IndexPoint, IndexSearch, VectorIndex
from store.vectors import QdrantIndex, VectorIndexError, VectorIndexLocked, VectorIndexUnavailable
from tests.contract.vectors.exact_index import ExactIndex

pytestmark = pytest.mark.qdrant

LAYOUT = IndexLayout(8, single=("purpose",), multiple=("passages",), sparse=("text",))
WORDS = ["cron job", "cron web shell", "password guessing", "web shell upload", "ransom note", "job scheduler"]


def _points(tenant: str, seed: int, count: int = 6) -> list[IndexPoint]:
    random = np.random.default_rng(seed)
    return [
        IndexPoint(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}/{number}")),
            tenant=tenant,
            dense={
                "passages": normalised(random.standard_normal((1 + number % 3, 8))),
                **({"purpose": normalised(random.standard_normal(8))} if number % 2 else {}),
            },
            sparse={"text": document_vector(WORDS[number % len(WORDS)], 3.0)},
        )
        for number in range(count)
    ]


ALL = [*_points("public", 1), *_points("tenant-a", 2), *_points("tenant-b", 3)]


@pytest.fixture(params=["exact", "memory", "folder"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndex]:
    if request.param == "exact":
        yield ExactIndex()
        return
    qdrant = QdrantIndex.in_memory() if request.param == "memory" else QdrantIndex.open_folder(tmp_path / "qdrant")
    try:
        yield qdrant
    finally:
        qdrant.close()


def _query(seed: int) -> Vectors:
    return normalised(np.random.default_rng(seed).standard_normal(8))


def _searches(seed: int, limit: int = 20) -> list[IndexSearch]:
    return [
        IndexSearch("passages", limit, dense=_query(seed)[None, :]),
        IndexSearch("purpose", limit, dense=_query(seed)),
        IndexSearch("text", limit, sparse=query_vector("a web shell and a cron job")),
    ]


def _fill(index: VectorIndex, version: str, points: list[IndexPoint] = ALL) -> None:
    assert index.build(version, LAYOUT, points) == len(points)


def test_a_new_index_has_no_version(index: VectorIndex) -> None:
    assert index.active() is None
    assert index.rollback() is None


def test_a_version_is_seen_only_after_it_is_promoted(index: VectorIndex) -> None:
    _fill(index, "v1")
    assert index.active() is None
    assert index.search(_searches(1), "public", "v1")[0]
    index.promote("v1")
    assert index.active() == "v1"
    assert index.search(_searches(1), "public") == index.search(_searches(1), "public", "v1")


def test_the_version_before_stays_for_rollback_and_older_ones_go(index: VectorIndex) -> None:
    for version, seed in (("v1", 1), ("v2", 2), ("v3", 3)):
        _fill(index, version, _points("public", seed))
        index.promote(version)
    assert index.active() == "v3"
    third = index.search(_searches(5), "public")
    assert index.rollback() == "v2"
    assert index.search(_searches(5), "public") != third
    assert index.rollback() == "v3"
    assert index.search(_searches(5), "public") == third
    with pytest.raises((VectorIndexError, ValueError, KeyError)):
        index.promote("v1")


def test_a_search_sees_public_points_and_the_tenants_own(index: VectorIndex) -> None:
    _fill(index, "v1")
    index.promote("v1")
    owner = {point.id: point.tenant for point in ALL}
    for tenant, visible in (
        ("tenant-a", {"public", "tenant-a"}),
        ("tenant-b", {"public", "tenant-b"}),
        ("public", {"public"}),
        ("stranger", {"public"}),
        ("", {"public"}),
    ):
        for hits in index.search(_searches(3), tenant):
            assert {owner[point] for point, _ in hits} == visible


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_the_definition(index: VectorIndex, seed: int) -> None:
    exact = ExactIndex()
    for one in (exact, index):
        _fill(one, "v1")
        one.promote("v1")
    for expected, found in zip(
        exact.search(_searches(seed), "tenant-a"), index.search(_searches(seed), "tenant-a"), strict=True
    ):
        assert dict(found) == pytest.approx(dict(expected), abs=1e-5)
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_the_limit_cuts_the_worst(index: VectorIndex) -> None:
    _fill(index, "v1")
    index.promote("v1")
    (everything, *_), (three, *_) = index.search(_searches(1), "tenant-a"), index.search(_searches(1, 3), "tenant-a")
    assert three == everything[:3]


def test_words_nobody_has_find_nothing(index: VectorIndex) -> None:
    _fill(index, "v1")
    index.promote("v1")
    searches = [
        IndexSearch("text", 5, sparse=query_vector("zeppelin")),
        IndexSearch("text", 5, sparse=SparseVector((), ())),
    ]
    assert index.search(searches, "public") == [[], []]


def test_the_active_version_is_never_rebuilt_in_place(index: VectorIndex) -> None:
    _fill(index, "v1")
    index.promote("v1")
    with pytest.raises((VectorIndexError, ValueError), match="active"):
        index.build("v1", LAYOUT, [])
    assert index.search(_searches(1), "public")[0]


def test_an_unfinished_version_is_filled_anew(index: VectorIndex) -> None:
    _fill(index, "v1", _points("public", 1, count=3))
    assert len(index.search(_searches(1), "public", "v1")[0]) == 3
    _fill(index, "v1")
    assert len(index.search(_searches(1), "public", "v1")[0]) == 6


def test_progress_ends_with_the_count(index: VectorIndex) -> None:
    heard: list[int] = []
    index.build("v1", LAYOUT, _points("public", 1, count=150), heard.append)
    assert heard[-1] == 150
    assert heard == sorted(heard)


def test_local_answers_equal_those_of_qdrants_own_search() -> None:
    """The arrays that local mode searches hold the collection to the last digit that matters."""
    client = QdrantClient(location=":memory:")
    index = QdrantIndex(client, "knowledge", local=True)
    _fill(index, "v1")
    index.promote("v1")
    visible = models.Filter(
        must=[models.FieldCondition(key="tenant", match=models.MatchAny(any=["public", "tenant-a"]))]
    )
    text = query_vector("a web shell and a cron job")
    queries = {
        "passages": _query(4)[None, :].tolist(),
        "purpose": _query(4).tolist(),
        "text": models.SparseVector(indices=list(text.indices), values=list(text.values)),
    }
    for search, found in zip(_searches(4), index.search(_searches(4), "tenant-a"), strict=True):
        answer = client.query_points(
            "knowledge", query=queries[search.using], using=search.using, query_filter=visible, limit=20
        )
        expected = {str(point.id): point.score for point in answer.points}
        assert dict(found) == pytest.approx(expected, abs=1e-5)
    index.close()


def test_a_folder_keeps_its_versions_and_serves_one_process_at_a_time(tmp_path: Path) -> None:
    first = QdrantIndex.open_folder(tmp_path)
    _fill(first, "v1")
    first.promote("v1")
    before = first.search(_searches(1), "tenant-b")
    with pytest.raises(VectorIndexLocked, match="another process"):
        QdrantIndex.open_folder(tmp_path)
    first.close()
    second = QdrantIndex.open_folder(tmp_path)
    assert second.active() == "v1"
    for old, new in zip(before, second.search(_searches(1), "tenant-b"), strict=True):
        assert dict(new) == pytest.approx(dict(old), abs=1e-6)
    second.close()


def test_two_knowledge_bases_share_a_folder(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path))
    one, other = QdrantIndex(client, "one", local=True), QdrantIndex(client, "other", local=True)
    _fill(one, "v1")
    one.promote("v1")
    _fill(other, "v9", _points("public", 1))
    other.promote("v9")
    assert (one.active(), other.active()) == ("v1", "v9")
    client.close()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda index: index.search(_searches(1), "public"), "no active version"),
        (lambda index: index.search(_searches(1), "public", "v7"), "v7"),
        (lambda index: index.promote("v7"), "not built"),
        (lambda index: index.search([IndexSearch("text", 1)], "public"), "needs a dense or a sparse vector"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_error_type(act: Callable[[QdrantIndex], object], reason: str) -> None:
    index = QdrantIndex.in_memory()
    with pytest.raises(VectorIndexError, match=reason):
        act(index)
    index.close()


def test_an_unknown_vector_name_is_an_error_not_an_empty_answer() -> None:
    index = QdrantIndex.in_memory()
    _fill(index, "v1")
    with pytest.raises(VectorIndexError, match="nonsense"):
        index.search([IndexSearch("nonsense", 1, dense=_query(1))], "public", "v1")
    index.close()


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        index = QdrantIndex.connect(f"http://127.0.0.1:{reserved.getsockname()[1]}", timeout=2)
        with pytest.raises(VectorIndexUnavailable, match="did not answer"):
            index.active()
        with pytest.raises(VectorIndexUnavailable):
            index.search(_searches(1), "public")
        index.close()
