"""Nothing secret reaches a log line."""

from __future__ import annotations

from actors.logs import without_secrets


def test_keys_passwords_and_data_source_names_are_hidden() -> None:
    event = {
        "event": "tried tsk_0123456789ab_" + "A" * 43 + " and postgresql://app:hunter2@127.0.0.1/x",
        "Authorization": "Bearer abc",
        "writer_dsn": "postgresql://a:b@c/d",
        "count": 3,
    }
    shown = without_secrets(None, "info", event)
    assert "hunter2" not in str(shown)
    assert "AAAA" not in str(shown)
    assert "tsk_0123456789ab" in str(shown["event"])
    assert shown["Authorization"] == shown["writer_dsn"] == "[hidden]"
    assert shown["count"] == 3
