"""OpAMP messages byte for byte, and what is known of an instance that leaves out what has not changed."""

from __future__ import annotations

import hashlib
import random
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from detect.record import TenantId
from serve.control.opamp import LEAST_RETRY_S, Throttle, refusal
from serve.control.opamp_messages import (
    APPLIED,
    FAILED,
    UNAVAILABLE,
    UnreadableMessage,
    error_message,
    message_class,
)
from serve.control.opamp_services import OpampCaller, agent_name, new_instance_uid
from serve.control.opamp_state import Known, Said, known_from, merged, offer_hash, read_offer_hash, read_said
from serve.errors import WireError

UID = bytes(range(1, 17))
TENANT = TenantId(uuid4())


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field as the encoding of protobuf has it, by hand."""
    size, length = bytearray(), len(content)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


def said(**parts: Any) -> Said:
    """What is read of a message with these parts."""
    message = message_class("AgentToServer")(instance_uid=UID)
    for name, value in parts.items():
        if isinstance(value, int):
            setattr(message, name, value)
        else:
            value(getattr(message, name))
    return read_said(message.SerializeToString())


def described(target: Any) -> None:
    item = target.identifying_attributes.add(key="service.version")
    item.value.string_value = "0.137.0"


def healthy(target: Any) -> None:
    target.healthy = True


def test_a_message_made_by_hand_is_read() -> None:
    version = field(1, b"service.version") + field(2, field(1, b"0.1"))
    arch = field(1, b"host.arch") + field(2, field(1, b"arm64"))
    broken = field(1, b"receiver") + field(2, field(3, b"port taken"))
    health = b"\x08\x01" + b"\x11" + (1_700_000_000_123_456_789).to_bytes(8, "little") + field(6, broken)
    file = field(1, b"") + field(2, field(1, b"receivers: {}") + field(2, b"text/yaml"))
    status = field(1, b"h" * 48) + b"\x10\x03" + field(3, b"no such receiver")
    data = (
        field(1, UID)
        + b"\x10\xac\x02"  # sequence_num 300
        + field(3, field(1, version) + field(2, arch))
        + b"\x20\x87\x38"  # capabilities 0x1c07
        + field(5, health)
        + field(6, field(1, field(1, file)))
        + field(7, status)
        + field(8, b"\x0a\x00")  # package statuses: not read
        + field(9, b"")
        + b"\x50\x01"
        + field(13, b"\x0a\x01x")
    )
    read = read_said(data)
    assert (read.instance_uid, read.sequence, read.capabilities, read.flags) == (UID, 300, 0x1C07, 1)
    assert read.description == {"service.version": "0.1", "host.arch": "arm64"}
    assert read.health is not None
    assert (read.health["healthy"], read.health["started_at"]) == (True, 1_700_000_000_123)
    assert read.health["unhealthy"] == ["receiver"]
    assert read.effective_config is not None
    assert read.effective_config["digest"] == hashlib.sha256(b"receivers: {}").hexdigest()
    assert "receivers" not in orjson.dumps(read.effective_config).decode()
    assert read.remote is not None
    assert (read.remote.hash, read.remote.status, read.remote.detail) == (
        (b"h" * 48).hex(),
        FAILED,
        "no such receiver",
    )
    assert read.disconnected
    assert not read.bare
    assert read_said(field(1, UID)).bare


def test_an_answer_is_the_bytes_that_the_specification_has() -> None:
    answer = message_class("ServerToAgent")(instance_uid=UID, flags=1, capabilities=7)
    file = answer.remote_config.config.config_map[""]
    file.body, file.content_type = b"a: 1", "text/yaml"
    answer.remote_config.config_hash = b"hash"
    answer.agent_identification.new_instance_uid = UID
    entry = field(1, b"") + field(2, field(1, b"a: 1") + field(2, b"text/yaml"))
    wanted = (
        field(1, UID)
        + field(3, field(1, field(1, entry)) + field(2, b"hash"))
        + b"\x30\x01\x38\x07"
        + field(8, field(1, UID))
    )
    assert answer.SerializeToString(deterministic=True) == wanted
    refused = error_message(UNAVAILABLE, "later", retry_after_s=30)
    nanoseconds = b"\x08\x80\xd8\x8e\xe1\x6f"  # 30,000,000,000
    assert refused == field(2, b"\x08\x02" + field(2, b"later") + field(3, nanoseconds))


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\xff",
        b"\x0a\x10short",
        b"\xff" * 20,
        field(3, field(1, field(1, b"\xff\xfe"))),
        field(5, b"\x0b"),
        b"{}",
    ],
)
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(UnreadableMessage):
        read_said(data)


def test_any_bytes_are_read_or_refused() -> None:
    seeded = random.Random(7)  # noqa: S311
    message = message_class("AgentToServer")(instance_uid=UID, sequence_num=4, capabilities=7)
    described(message.agent_description)
    message.health.component_health_map["a"].component_health_map["b"].last_error = "x\0y"
    message.remote_config_status.error_message = "\0"
    whole = bytearray(message.SerializeToString())
    for _ in range(3000):
        changed = bytearray(whole)
        for _ in range(seeded.randrange(1, 4)):
            changed[seeded.randrange(len(changed))] = seeded.randrange(256)
        try:
            read = read_said(bytes(changed[: seeded.randrange(len(changed) + 1)]))
        except UnreadableMessage:
            continue
        known = merged(Known(), read)
        orjson.dumps(known.stored(UID))


def test_nesting_without_end_is_refused_and_many_components_are_bounded() -> None:
    def nested(levels: int) -> bytes:
        deep = b""
        for _ in range(levels):
            deep = field(6, field(1, b"a") + field(2, deep))
        return field(1, UID) + field(5, deep)

    assert read_said(nested(3)).health is not None
    with pytest.raises(UnreadableMessage):
        read_said(nested(150))
    wide = message_class("AgentToServer")(instance_uid=UID)
    for number in range(5000):
        wide.health.component_health_map[f"c{number}"].healthy = False
        wide.agent_description.identifying_attributes.add(key=f"k{number}").value.int_value = number
    read = read_said(wide.SerializeToString())
    assert read.health is not None
    assert len(read.health["unhealthy"]) == 20
    assert len(read.description or {}) == 64


def test_parts_have_limits_that_keep_small_bytes_from_becoming_large_objects() -> None:
    crowd = 2**20 // 2
    for number in (3, 5, 7):
        with pytest.raises(UnreadableMessage, match="more than 1048576 bytes"):
            read_said(field(1, UID) + field(number, b"\x0a\x00" * (crowd + 1)))
    assert read_said(field(1, UID) + field(3, b"\x0a\x00" * crowd)).description == {}
    with pytest.raises(UnreadableMessage, match="more than 1000 files"):
        read_said(field(1, UID) + field(6, field(1, b"\x0a\x00" * 30_000_000)))
    for broken in (b"\x08\x01", b"\x0a\x7f", b"\x0a", b"\xff" * 9, field(1, b"\xff")):
        with pytest.raises(UnreadableMessage):
            read_said(field(1, UID) + field(6, field(1, broken)))


def test_an_empty_part_is_not_one_that_is_left_out() -> None:
    read = read_said(field(1, UID) + field(3, b"") + field(6, b"") + field(7, b"") + field(9, b""))
    assert (read.description, read.health, read.disconnected) == ({}, None, True)
    assert read.effective_config is not None
    assert (read.effective_config["files"], read.remote is not None) == ([], True)


def test_effective_configurations_of_several_files() -> None:
    def many(target: Any) -> None:
        for name in ("b.yaml", "a.yaml"):
            target.config_map.config_map[name].body = name.encode() * 100_000

    config = said(effective_config=many).effective_config
    assert config is not None
    assert [(file["name"], file["bytes"]) for file in config["files"]] == [("a.yaml", 600_000), ("b.yaml", 600_000)]
    assert config["bytes"] == 1_200_000
    assert config["digest"] not in {file["digest"] for file in config["files"]}
    assert config == said(effective_config=many).effective_config


def test_what_is_left_out_is_remembered() -> None:
    known = merged(Known(), said(sequence_num=1, capabilities=0x801, agent_description=described, health=healthy))
    assert (known.complete, known.status, known.version) == (True, "ok", "0.137.0")
    known = merged(known, said(sequence_num=2, capabilities=0x801))
    assert (known.complete, known.status, known.version) == (True, "ok", "0.137.0")
    again = known_from(orjson.loads(orjson.dumps(known.stored(UID))))
    assert again == known


@pytest.mark.parametrize(
    ("number", "complete"),
    [(6, True), (5, True), (7, False), (4, False), (1, False), (2**64 - 1, False)],
)
def test_a_gap_asks_for_the_full_state_and_a_repeat_does_not(number: int, complete: bool) -> None:
    known = Known(sequence=5, capabilities=1, complete=True, description={"service.version": "1"})
    assert merged(known, said(sequence_num=number, capabilities=1)).complete is complete


def test_after_a_gap_a_report_with_a_description_is_full() -> None:
    known = Known(sequence=5, capabilities=0x1801, complete=True, description={})
    # A part that it says it reports is missing: with a gap before it nobody knows whether it has changed.
    known = merged(known, said(sequence_num=9, capabilities=0x1801, agent_description=described))
    assert not known.complete
    known = merged(known, said(sequence_num=10, capabilities=0x1801))
    assert not known.complete
    # Asked for all, it says all that it has.
    known = merged(known, said(sequence_num=11, capabilities=0x1801, agent_description=described))
    assert known.complete


def test_a_bare_poll_is_no_gap() -> None:
    known = Known(sequence=5, capabilities=7, complete=True, description={})
    polled = merged(known, said())
    assert (polled.complete, polled.sequence, polled.capabilities) == (True, 5, 7)
    assert not merged(Known(), said()).complete


def test_how_an_instance_is() -> None:
    def broken(target: Any) -> None:
        target.healthy = False
        target.last_error = "no disk"

    def partly(target: Any) -> None:
        target.healthy = True
        target.component_health_map["pipeline"].component_health_map["exporter"].status = "StatusError"
        target.component_health_map["pipeline"].healthy = True

    assert Known().status == "unknown"
    assert merged(Known(), said(health=healthy)).status == "ok"
    failing = merged(Known(), said(health=broken))
    assert (failing.status, failing.stored(UID)["detail"]) == ("failing", "no disk")
    degraded = merged(Known(), said(health=partly))
    assert (degraded.status, (degraded.health or {})["unhealthy"]) == ("degraded", ["pipeline/exporter"])


def test_the_hash_of_an_offer_names_policy_and_job() -> None:
    digest, job = hashlib.sha256(b"policy").hexdigest(), uuid4()
    name = offer_hash(digest, job).hex()
    assert read_offer_hash(name) == (digest, job)
    assert read_offer_hash("") is None
    assert read_offer_hash(name[:-2]) is None
    assert read_offer_hash("00" * 64) is None

    def applied(target: Any) -> None:
        target.last_remote_config_hash, target.status = offer_hash(digest, job), APPLIED

    def foreign(target: Any) -> None:
        target.last_remote_config_hash, target.status = b"x" * 5000, 77

    stored = merged(Known(), said(remote_config_status=applied)).stored(UID)
    assert stored["config"] == {"running": digest, "attempted": digest, "state": "applied", "detail": ""}
    stored = merged(Known(running=digest), said(remote_config_status=foreign)).stored(UID)
    assert stored["config"] == {"running": digest, "attempted": "", "state": "", "detail": ""}


def test_new_instance_uids_are_of_version_7_and_do_not_repeat() -> None:
    made = [new_instance_uid() for _ in range(1000)]
    assert len(set(made)) == 1000
    for raw in made:
        uid = UUID(bytes=raw)
        assert (uid.version, uid.variant) == (7, "specified in RFC 4122")
    assert agent_name(UID) == f"opamp-{UID.hex()}"


def test_who_may_speak_for_an_instance() -> None:
    key, other_key = OpampCaller(TENANT, "k1", None), OpampCaller(TENANT, "k2", None)
    web, db = OpampCaller(TENANT, "web-1", "web-1"), OpampCaller(TENANT, "db-1", "db-1")
    for caller in (key, other_key, web, db):
        assert caller.may_speak_for(key.owner)
    assert web.may_speak_for(web.owner)
    for caller in (key, db):
        assert not caller.may_speak_for(web.owner)


def test_an_instance_is_throttled_alone_and_comes_back() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(20):
        throttle.check(TENANT, UID)
    with pytest.raises(WireError) as refused:
        throttle.check(TENANT, UID)
    assert (refused.value.status, refused.value.retry_after_s) == (429, LEAST_RETRY_S)
    throttle.check(TENANT, b"o" * 16)
    throttle.check(TenantId(uuid4()), UID)
    now[0] = LEAST_RETRY_S
    throttle.check(TENANT, UID)


def test_a_replica_has_room_for_so_many_bytes_of_which_a_tenant_gets_half() -> None:
    throttle = Throttle(lambda: 0.0)
    limit, other, third = 64 * 2**20, TenantId(uuid4()), TenantId(uuid4())
    with throttle.room(TENANT, limit), throttle.room(TENANT, limit):
        with pytest.raises(WireError) as refused, throttle.room(TENANT, 1):
            pass
        assert refused.value.status == 503
        with throttle.room(other, limit), throttle.room(other, limit), pytest.raises(WireError):
            throttle.room(third, 1).__enter__()
        with throttle.room(third, 1):
            pass
    with throttle.room(TENANT, limit):
        pass


def test_refusals_say_when_to_come_back_or_that_it_is_in_vain() -> None:
    later = refusal(WireError(503, "x", retry_after_s=1))
    read = message_class("ServerToAgent").FromString(later.body)
    assert (later.headers["Retry-After"], read.error_response.type) == ("30", UNAVAILABLE)
    assert read.error_response.retry_info.retry_after_nanoseconds == 30_000_000_000
    never = refusal(WireError(413, "too large"))
    assert message_class("ServerToAgent").FromString(never.body).error_response.type == 1
    assert "Retry-After" not in never.headers
    assert refusal(WireError(401, "who?")).content_type == "application/problem+json"
