"""Everything that the Control API needs in one replica, put together from the settings."""

from __future__ import annotations

import shlex
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI

from actors.janitor import Chore
from actors.metrics import Metrics
from detect.record import TenantId
from serve.auth import Authenticator
from serve.control.agent_door import BURST, REQUESTS_PER_S, AgentAuthenticator, AgentDoor, counted_route
from serve.control.agent_services import AgentServices
from serve.control.certificate_signer import CertificateSigner, EmbeddedAuthority
from serve.control.chores import ControlSweep
from serve.control.enrolment import Endpoints, EnrolmentDesk
from serve.control.external_authority import ExternalAuthority
from serve.control.health_book import open_health_book
from serve.control.job_hints import JobHints
from serve.control.job_keys import HeldJobKeys, ensure_job_key
from serve.control.job_services import JobServices
from serve.control.opamp import OpampDoor, Throttle, opamp_routes
from serve.control.opamp_services import OpampServices
from serve.control.operator_services import AgentAdministration
from serve.control.pace import Pace
from serve.control.routes_agent_api import agent_api_routes
from serve.control.routes_operators import (
    agent_routes,
    approval_routes,
    enrolment_routes,
    job_routes,
    rollout_routes,
)
from serve.masking.routes import masking_setting_routes, reveal_routes
from serve.masking.services import MaskingServices
from serve.services import RulesInForce
from serve.settings import Settings
from serve.signing_keyring import SigningKeyring
from serve.signing_services import envelope_check, signing_keyring
from store.jobs_listener import listening
from store.nonces import NonceStore
from store.postgres import Pool

_KEYS_REMEMBERED_S = 600.0


@dataclass(frozen=True, slots=True)
class ControlParts:
    """What the edge has already."""

    app_pool: Pool
    writer_pool: Pool
    authenticator: Authenticator
    agents: AgentAuthenticator
    nonces: NonceStore
    keyring: SigningKeyring
    metrics: Metrics
    enforce_rules: RulesInForce


@dataclass(frozen=True, slots=True)
class Control:
    """The Control API of a replica: its routes, its chores, and who waits."""

    routers: tuple[APIRouter, ...]
    chores: tuple[Chore, ...]
    hints: JobHints

    def add_to(self, application: FastAPI) -> None:
        """Adds the routes."""
        for router in self.routers:
            application.include_router(router)


def _signer(settings: Settings) -> CertificateSigner:
    folder, days = settings.data_dir / "tls", settings.agent_certificate_days
    if settings.agent_authority == "embedded":
        return EmbeddedAuthority(folder, days)
    trusted = settings.agent_authority_certificates or folder / "authority.pem"
    return ExternalAuthority(shlex.split(settings.agent_authority_command), trusted, days)


@asynccontextmanager
async def open_control(settings: Settings, parts: ControlParts) -> AsyncIterator[Control]:
    """The Control API while the block runs: it listens for jobs and writes down how agents are."""
    if settings.job_key_dir is None:
        ensure_job_key(settings.job_keys)
    job_keys = HeldJobKeys(settings.job_keys, time.monotonic)
    signer = _signer(settings)
    metrics = parts.metrics
    hints = JobHints(settings.agent_polls_at_once, lambda waiting: metrics.set("agent_polls_waiting", waiting))
    # An agent comes back after half a minute: its key is worth remembering for longer, as long as changes are heard of.
    remembered = signing_keyring(settings.model_copy(update={"key_cache_s": _KEYS_REMEMBERED_S}), parts.app_pool)
    envelopes = envelope_check(settings, parts.agents, remembered, parts.nonces)
    pace = Pace(REQUESTS_PER_S, BURST, time.monotonic)
    door = AgentDoor(parts.agents, envelopes, pace, need_certificate=settings.agent_certificates == "required")
    endpoints = Endpoints(settings.agent_address, settings.agent_address)
    desk = EnrolmentDesk(parts.app_pool, parts.keyring, signer, job_keys, endpoints)
    administration = AgentAdministration(
        parts.authenticator, parts.app_pool, parts.writer_pool, parts.keyring, signer, hints
    )
    jobs = JobServices(parts.authenticator, parts.app_pool)
    masking = MaskingServices(
        parts.authenticator, parts.app_pool, parts.writer_pool, parts.keyring, parts.enforce_rules
    )
    sweep = ControlSweep(parts.app_pool, parts.writer_pool, settings.collected_file_days, metrics)

    def heard(tenant: TenantId, agent: str) -> None:
        if agent:
            hints.hint(tenant, agent)
        else:
            remembered.forget(tenant)

    def missed() -> None:
        remembered.forget()
        hints.hint_all()

    async with (
        open_health_book(parts.app_pool) as health,
        listening(settings.app_dsn.get_secret_value(), heard, missed),
    ):
        services = AgentServices(parts.app_pool, job_keys, signer, hints, health, metrics)
        route_class = counted_route(metrics)
        opamp = OpampDoor(parts.authenticator, OpampServices(parts.app_pool), Throttle(time.monotonic))
        routers = (
            agent_api_routes(door, services, desk, settings.data_dir / "agent-packages", route_class),
            agent_routes(administration),
            enrolment_routes(administration),
            job_routes(jobs),
            rollout_routes(jobs),
            approval_routes(administration),
            masking_setting_routes(masking),
            reveal_routes(masking),
            opamp_routes(opamp, route_class),
        )
        yield Control(routers, tuple(sweep.chores()), hints)
