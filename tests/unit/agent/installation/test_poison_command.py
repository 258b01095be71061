"""`trustsoc-agent poison`: the owner sees what was refused, and says what becomes of each of them."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from agent.forwarder.config import read_token
from tests.unit.agent.forwarder.conftest import lines_of, request
from tests.unit.agent.installation.conftest import Host, Running, wait_for


def test_what_was_refused_is_listed_sent_anew_and_dropped(
    host: Host, run: Callable[[], Running], capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.enrol() == 0
    agent = run()
    agent.wait_ready()
    host.site.ingest.faults.extend(["413", "400"])
    headers = {"Authorization": f"Bearer {read_token(host.places.token)}", "Content-Type": "application/x-protobuf"}
    for line in ("one", "two"):
        sent = httpx.post(f"http://127.0.0.1:{host.port}/v1/logs", content=request(line), headers=headers)
        assert sent.status_code == 200
    poison = host.places.spool / "poison"
    wait_for(lambda: len(list(poison.glob("*.json"))) == 2, "two refused batches")
    capsys.readouterr()
    host.command("status")
    assert "2 batches lie in poison/" in capsys.readouterr().out
    assert host.command("poison", "list", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert {first["reason"], second["reason"]} == {"http_413", "http_400"}
    assert (first["records"], first["answer"], first["unsettled"]) == (1, "refused by the test", False)
    assert host.command("poison", "list") == 0
    assert "2 batches, 2 records" in capsys.readouterr().out

    assert host.command("poison", "resend", first["name"]) == 0
    assert "will be sent anew" in capsys.readouterr().out
    host.site.ingest.wait(lambda journal: journal.records() == 1, "the batch sent anew")
    assert host.command("poison", "drop", "--all") == 0
    assert second["name"] in capsys.readouterr().out
    assert list(poison.iterdir()) == []
    assert len(lines_of(host.site.ingest.journal.bodies())) == 1
    assert agent.stop() == 0

    for wrong in (
        ["resend"],
        ["drop"],
        ["drop", first["name"]],
        ["resend", first["name"], "--all"],
        ["drop", "../books"],
    ):
        assert host.command("poison", *wrong) == 2, wrong
    assert (host.places.spool / "books").exists()


def test_sending_anew_needs_the_agent_to_run_and_loses_nothing_without(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.enrol() == 0
    name = "a" * 32 + "-1"
    poison = host.places.spool / "poison"
    poison.mkdir(parents=True)
    (poison / f"{name}.bin").write_bytes(request("line"))
    (poison / f"{name}.json").write_text("{}")
    assert host.command("poison", "resend", "--all") == 2
    assert "start the agent" in capsys.readouterr().err
    assert (poison / f"{name}.bin").exists()
