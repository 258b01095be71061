"""The HTTP client: every failure is one line that says what to do."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from cluster.client import ApiClient, ApiProblem, is_loopback, path_segment
from cluster.command_error import CommandError, NotRunningError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_key_and_the_tenant_travel_in_headers(server: Any) -> None:
    server.answers("GET /api/status", {"ready": True})
    with ApiClient(server.url, "secret", tenant="acme") as client:
        assert client.get("/api/status") == {"ready": True}
    asked = server.asked_for("GET /api/status")[0]
    assert asked.headers["authorization"] == "Bearer secret"
    assert asked.headers["x-client-id"] == "acme"


def test_a_refused_connection_says_how_to_start() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with ApiClient(url) as client, pytest.raises(NotRunningError) as caught:
        client.get("/api/status")
    assert str(caught.value) == f"Trust SOC is not running on {url}: start it with `trustsoc up`"
    assert caught.value.exit_code == 3


def test_problem_details_become_one_line(server: Any) -> None:
    body = {"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "this key lacks the scope 'read'"}
    server.answers("GET /api/events", body, status=403)
    with ApiClient(server.url, "k") as client, pytest.raises(ApiProblem) as caught:
        client.get("/api/events")
    assert caught.value.status == 403
    assert "403: Forbidden: this key lacks the scope 'read'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>oops</html>", b"[1]", b""])
def test_an_error_without_problem_details_still_names_its_status(server: Any, body: bytes) -> None:
    server.answers("GET /api/events", body, status=502)
    with ApiClient(server.url) as client, pytest.raises(ApiProblem, match="502: Bad Gateway"):
        client.get("/api/events")


def test_an_answer_that_is_no_json_is_no_traceback(server: Any) -> None:
    server.answers("GET /api/events", b"<html>")
    with ApiClient(server.url) as client, pytest.raises(CommandError, match="is this Trust SOC"):
        client.get("/api/events")


def test_a_list_is_fetched_page_by_page_up_to_the_limit(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.client._PAGE", 2)
    pages = {None: ([1, 2], "a"), "a": ([3, 4], "b"), "b": ([5], None)}
    conftest_answer = type(server.routes["GET /healthz"](None))

    def page(asked: Any) -> Any:
        items, cursor = pages[asked.query.get("cursor")]
        return conftest_answer(body={"items": items[: int(asked.query["limit"])], "next_cursor": cursor})

    server.routes["GET /api/events"] = page
    with ApiClient(server.url) as client:
        assert client.page("/api/events", {"rule": "x", "entity": None}, 100) == {
            "items": [1, 2, 3, 4, 5],
            "next_cursor": None,
        }
        assert client.page("/api/events", {}, 3) == {"items": [1, 2, 3], "next_cursor": "b"}
    assert all("entity" not in asked.query for asked in server.asked)


def test_a_list_that_is_none_is_refused(server: Any) -> None:
    server.answers("GET /api/events", {"hello": "world"})
    with ApiClient(server.url) as client, pytest.raises(CommandError, match="did not answer with a list"):
        client.page("/api/events", {}, 10)


def test_a_wrong_address_is_no_traceback() -> None:
    with pytest.raises(CommandError, match="http://host:port"):
        ApiClient("http://[::1")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:4318", True),
        ("http://localhost:1", True),
        ("http://[::1]:4318", True),
        ("http://192.0.2.7", False),
        ("http://soc.example", False),
        ("nonsense", False),
    ],
)
def test_loopback_addresses_are_known(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_names_cannot_change_the_path() -> None:
    assert path_segment("../admin?x#y") == "..%2Fadmin%3Fx%23y"
