"""A collector as OpAMP's client is: it counts its messages, says what has changed and does what it is offered."""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Mapping
from typing import Any

import httpx

from serve.control.opamp_messages import APPLIED, UNSET, message_class
from tests.contract.control.edge import ControlEdge

POLICY = "receivers: {}\n"
CAPABILITIES = 0x1 | 0x2 | 0x4 | 0x800 | 0x1000


class Collector:
    """One instance, which speaks with a key of the tenant; `capabilities` as AgentCapabilities."""

    def __init__(self, edge: ControlEdge, capabilities: int = CAPABILITIES, key: str = "sender") -> None:
        self.edge, self.capabilities = edge, capabilities
        self.uid = secrets.token_bytes(16)
        self.sequence = 0
        self.headers = {"Authorization": f"Bearer {edge.keys[key]}"}
        self.hash, self.status, self.error = b"", UNSET, ""

    @property
    def name(self) -> str:
        return f"opamp-{self.uid.hex()}"

    def message(self, *, full: bool = False, status: bool = False) -> Any:
        """The next message: a poll, with all that there is or with the status of the offered configuration."""
        self.sequence += 1
        said = message_class("AgentToServer")(
            instance_uid=self.uid, sequence_num=self.sequence, capabilities=self.capabilities
        )
        if full:
            for name, text in (("service.name", "otelcol-contrib"), ("service.version", "0.137.0")):
                said.agent_description.identifying_attributes.add(key=name).value.string_value = text
            said.agent_description.non_identifying_attributes.add(key="os.type").value.string_value = "linux"
            said.health.healthy = True
            said.health.start_time_unix_nano = 1_765_400_000_000_000_000
            said.effective_config.config_map.config_map[""].body = b"receivers: {password: hunter2}"
        if full or status:
            said.remote_config_status.last_remote_config_hash = self.hash
            said.remote_config_status.status = self.status
            said.remote_config_status.error_message = self.error
        return said

    async def post(self, data: bytes, **headers: str) -> httpx.Response:
        """A request with this body; `None` as a header's text would not be sent."""
        sent = {"Content-Type": "application/x-protobuf"} | self.headers
        sent |= {name.replace("_", "-"): text for name, text in headers.items()}
        return await self.edge.client.post("/v1/opamp", content=data, headers=sent)

    async def say(self, said: Any = None, *, compressed: bool = False, headers: Mapping[str, str] | None = None) -> Any:
        """What the server answers to a message (a poll, where none is given), which must succeed."""
        data = (said or self.message()).SerializeToString()
        more = dict(headers or {})
        if compressed:
            data, more = gzip.compress(data), more | {"Content-Encoding": "gzip"}
        answer = await self.post(data, **more)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "application/x-protobuf"
        return message_class("ServerToAgent").FromString(answer.content)

    async def start(self) -> Any:
        """The first message, which says everything."""
        return await self.say(self.message(full=True))

    async def report(self, status: int = APPLIED, error: str = "", name: bytes | None = None) -> Any:
        """Says what became of the offer of that hash, or of the last one."""
        self.hash = self.hash if name is None else name
        self.status, self.error = status, error
        return await self.say(self.message(status=True))

    async def offered(self) -> str:
        """The text that is offered to a poll; '' when nothing is. Its hash is what the next report is about."""
        answer = await self.say()
        if not answer.HasField("remote_config"):
            return ""
        [(key, file)] = answer.remote_config.config.config_map.items()
        assert (key, file.content_type) == ("", "text/yaml")
        self.hash = answer.remote_config.config_hash
        text: str = file.body.decode()
        return text


async def update(edge: ControlEdge, agent: str, content: str = POLICY) -> Any:
    """An approved UPDATE_CONFIG job."""
    await edge.made("/api/agent-policies/base", {"content": content})
    job = await edge.job(agent=agent, type="UPDATE_CONFIG", args={"policy": "base"})
    assert job["state"] == "awaiting_approval"
    return await edge.made(f"/api/jobs/{job['job_id']}/approve", None, key="second")


async def shown(edge: ControlEdge, agent: str) -> Any:
    """The agent as a reader sees it."""
    answer = await edge.call("GET", f"/api/agents/{agent}", key="reader")
    assert answer.status_code == 200, answer.text
    return answer.json()
