"""The command line's HTTP client: bearer key in, JSON out, and every failure as one clear line."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from cluster.command_error import CommandError, NotRunningError

ANSWER_SECONDS = 30.0
_PAGE = 200
_BARREN_PAGES = 20

Query = Mapping[str, str | int | list[str] | None]
"""A list says a parameter as often as it has items."""
JsonObject = Mapping[str, Any]


class ApiProblem(CommandError):
    """The server refused a request. `status` is the HTTP status, `detail` what its problem details said (RFC 9457)."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        text = ": ".join(part for part in (title, detail) if part) or "no reason given"
        super().__init__(f"the server answered {status}: {text}{_advice(status)}")


class ApiClient:
    """Talks to one Trust SOC with one key. Use it as a context manager: it keeps a connection open."""

    def __init__(
        self, base_url: str, key: str | None = None, *, tenant: str | None = None, timeout: float = ANSWER_SECONDS
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout = timeout
        self._http = open_http(self.base_url, key, timeout, tenant)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def reach(self) -> None:
        """Raises NotRunningError when nothing listens; any answer will do."""
        self._request("GET", "/healthz")

    def get(self, path: str, query: Query | None = None) -> Any:
        """The decoded JSON answer. Raises ApiProblem, NotRunningError or CommandError."""
        return self._call("GET", path, query=query)

    def listing(self, path: str, query: Query | None = None) -> dict[str, Any]:
        """An answer that is a list, under "items"; CommandError for any other."""
        answer = self.get(path, query)
        if not isinstance(answer, dict) or not isinstance(answer.get("items"), list):
            raise CommandError(f"{self.base_url}{path} did not answer with a list: is this Trust SOC?")
        return answer

    def post(self, path: str, body: JsonObject) -> Any:
        return self._call("POST", path, body=body)

    def upload(self, path: str, content: bytes, query: Query | None = None) -> Any:
        """The answer to a POST of bytes."""
        return answer_of(self._request("POST", path, query=query, content=content))

    def put(self, path: str, body: JsonObject) -> Any:
        return self._call("PUT", path, body=body)

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def page(self, path: str, query: Query, limit: int) -> dict[str, Any]:
        """Up to `limit` items as {"items", "next_cursor"}, fetched in as many requests as it takes.

        A search that reads much and finds nothing comes back with an empty page and a cursor: after so many of them in
        a row this stops too, and "searched_to" says how far it came.
        """
        items: list[Any] = []
        cursor = query.get("cursor")
        barren = 0
        while True:
            asked = min(_PAGE, limit - len(items))
            answer = self.listing(path, {**query, "limit": asked, "cursor": cursor})
            items += answer["items"]
            cursor = answer.get("next_cursor")
            barren = 0 if answer["items"] else barren + 1
            if not cursor or barren >= _BARREN_PAGES or len(items) >= limit:
                found = {"items": items, "next_cursor": cursor}
                return found | {"searched_to": answer["searched_to"]} if answer.get("searched_to") else found

    def _call(
        self, method: str, path: str, *, query: Query | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        return answer_of(self._request(method, path, query=query, body=body))

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: JsonObject | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        given = ((name, value) for name, value in (query or {}).items() if value is not None)
        parameters = {name: value if isinstance(value, list) else str(value) for name, value in given}
        try:
            return self._http.request(method, path, params=parameters, json=body, content=content)
        except httpx.ConnectError as error:
            raise NotRunningError(self.base_url) from error
        except httpx.TimeoutException as error:
            raise CommandError(
                f"{self.base_url} did not answer within {self._timeout:g} s: see `trustsoc status`"
            ) from error
        except httpx.HTTPError as error:
            raise CommandError(f"talking to {self.base_url} failed: {error}") from error


def open_http(base_url: str, key: str | None, timeout: float, tenant: str | None = None) -> httpx.Client:
    """An httpx client with the bearer key. A proxy from the environment is not asked for addresses of this machine.

    A stated tenant travels along: the server refuses a key that belongs to another one.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if tenant:
        headers["X-Client-Id"] = tenant
    try:
        return httpx.Client(base_url=base_url, headers=headers, timeout=timeout, trust_env=not is_loopback(base_url))
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise CommandError(f"{base_url!r} is not an address: write it as http://host:port") from error


def is_loopback(base_url: str) -> bool:
    """Whether the address is this machine's own."""
    try:
        host = urlsplit(base_url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def answer_of(response: httpx.Response) -> Any:
    """The JSON of a 2xx answer (None when empty); raises ApiProblem for every other."""
    if response.is_success:
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise CommandError(f"{response.url} did not answer with JSON: is this Trust SOC?") from error
    raise problem_of(response)


def problem_of(response: httpx.Response) -> ApiProblem:
    """The failure that an answer stands for: problem details when there are some, else the status alone."""
    try:
        details = response.json()
    except ValueError:
        details = None
    if not isinstance(details, dict):
        details = {}
    title = details.get("title")
    detail = details.get("detail", details.get("message"))
    return ApiProblem(
        response.status_code,
        title if isinstance(title, str) else response.reason_phrase,
        detail if isinstance(detail, str) else "",
    )


def path_segment(value: str) -> str:
    """A name as one segment of a path, whatever characters it holds."""
    return quote(value, safe="")


def _advice(status: int) -> str:
    match status:
        case 401:
            return " (is the key right, and not revoked? see `trustsoc key list`)"
        case 403:
            return " (the key lacks this right)"
        case 503:
            return " (it is busy or still starting: see `trustsoc status`)"
        case _:
            return ""
