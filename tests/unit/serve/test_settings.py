"""What the settings say to others."""

from __future__ import annotations

import socket

import pytest

from serve.settings import Settings


@pytest.mark.parametrize(
    ("stated", "address"),
    [
        ({"tls_port": 8443}, "https://127.0.0.1:8443"),
        ({"tls_port": 8443, "tls_host": "2001:db8::1"}, "https://[2001:db8::1]:8443"),
        ({"tls_port": 8443, "tls_host": "0.0.0.0"}, f"https://{socket.gethostname()}:8443"),  # noqa: S104
        ({"tls_port": 8443, "tls_host": "::"}, f"https://{socket.gethostname()}:8443"),
        ({"tls_port": 8443, "agent_url": "https://soc.example.org/"}, "https://soc.example.org"),
        ({"tls_port": 0, "http_port": 4318}, "http://127.0.0.1:4318"),
    ],
)
def test_agents_are_told_an_address_that_they_can_reach(stated: dict[str, object], address: str) -> None:
    assert Settings.model_validate(stated).agent_address == address
