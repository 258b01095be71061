"""What anybody may send before a key is looked at: so much and no more, and the refusal is a problem document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, Request
from starlette.testclient import TestClient

from serve.body_limit import LARGEST_BODY, BodyLimit
from serve.edge import answer_errors
from serve.ingest.body import read_body


@pytest.fixture
def client() -> Iterator[TestClient]:
    application = FastAPI()
    answer_errors(application)
    application.add_middleware(BodyLimit)

    @application.put("/api/admin/tenants/{name}/rules")
    async def parsed(name: str, wanted: Annotated[dict[str, Any], Body()]) -> dict[str, int]:
        return {name: len(wanted)}

    @application.post("/api/admin/rule-packs")
    @application.post("/api/_bulk")
    async def own_limit(request: Request) -> int:
        return len(await read_body(request.stream(), 2 * LARGEST_BODY))

    with TestClient(application) as opened:
        yield opened


def padded(size: int) -> bytes:
    return b'{"a": 1' + b" " * (size - 8) + b"}"


def test_a_body_up_to_the_limit_is_read_and_a_larger_one_refused(client: TestClient) -> None:
    path, headers = "/api/admin/tenants/acme/rules", {"content-type": "application/json"}
    assert client.put(path, content=padded(LARGEST_BODY), headers=headers).json() == {"acme": 1}
    refused = client.put(path, content=padded(LARGEST_BODY + 1), headers=headers)
    assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")
    assert refused.json()["detail"] == f"the body is larger than {LARGEST_BODY} bytes"
    in_pieces = client.put(path, content=iter([b" " * 2**20] * 9), headers=headers)
    assert in_pieces.status_code == 413, "whatever was declared"


@pytest.mark.parametrize("path", ["/api/admin/rule-packs", "/api/_bulk"])
def test_a_route_with_a_limit_of_its_own_keeps_that(client: TestClient, path: str) -> None:
    assert client.post(path, content=padded(LARGEST_BODY + 1)).json() == LARGEST_BODY + 1
