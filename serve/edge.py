"""The ingress deployment: one FastAPI application for OTLP, the API, health and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from actors.housekeeping import RetentionPlan, store_chores
from actors.janitor import Janitor
from actors.logs import configure_logs
from actors.metrics import Metrics
from actors.replay_task import backtest_lines, replay_lines
from actors.rule_check_task import TaskChecks
from actors.rule_enforcer import RuleEnforcer
from actors.rule_masking import RecordMasks
from detect.record import TenantId
from serve.advisor_client import AdvisorClient
from serve.arguments import EdgeArguments
from serve.auth import Authenticator, authenticator_on
from serve.body_limit import BodyLimit
from serve.control.agent_door import AgentAuthenticator
from serve.control.opening import ControlParts, open_control
from serve.dead_letter_services import DeadLetterServices
from serve.detector_directory import open_directory
from serve.errors import WireError, problem
from serve.hold_services import HoldServices
from serve.ingest.body import invalid_fields
from serve.ingest.doors import DoorParts, add_http_doors, other_doors, wire_response
from serve.ingest.fast_path import FastPath
from serve.ingest.gate import open_gate
from serve.ingest.intake import Intake
from serve.loopback import listen_on_loopback
from serve.masking.services import masks_of_records
from serve.openapi import describe_errors
from serve.peer import PeerMiddleware, PeerSeal, trusted_networks
from serve.replay_stream import ReplayStreams
from serve.routes import admin_routes, advisor_routes, log_routes, read_routes
from serve.routes_backtest import backtest_routes
from serve.routes_dead_letters import dead_letter_routes
from serve.routes_holds import hold_routes
from serve.routes_ledger import ledger_routes, open_ledger
from serve.routes_quota import quota_routes
from serve.routes_replay import replay_routes
from serve.routes_rules import rule_pack_routes, rule_routes, tenant_rule_routes
from serve.routes_shards import shard_routes
from serve.routes_signing import signing_routes
from serve.rule_listing import RuleListing
from serve.rule_services import RulePackServices, TenantRuleServices
from serve.services import EdgeServices
from serve.settings import Settings
from serve.shard_services import ShardServices
from serve.signing_keyring import SigningKeyring
from serve.signing_services import SigningServices, envelope_check, nonce_chore, signing_keyring
from serve.tls import serving_tls
from serve.version import VERSION
from store.journal import JournalWriter
from store.nonces import NonceStore
from store.paging import InvalidCursor
from store.postgres import StorageUnavailable, connect_pool, tenant_transaction
from store.search import InvalidFilter, SearchTimedOut

logger = structlog.get_logger("edge")

_DESCRIPTION = """Log records in over OTLP, detection events, incidents and cited advisories out.

Every call needs `Authorization: Bearer <key>`; the key names the tenant. Errors are RFC 9457 problem details."""


class Edge:
    """One replica. Ray Serve builds the ASGI application after the constructor and runs its lifespan."""

    def __init__(self, arguments: EdgeArguments, advisor: Any) -> None:
        configure_logs()
        self._arguments = arguments
        self._settings = Settings()
        if self._settings.loopback_only:
            listen_on_loopback()
        self._advisor = AdvisorClient(advisor)
        self._metrics = Metrics()
        self._seal = PeerSeal()

    def __serve_build_asgi_app__(self) -> FastAPI:
        application = FastAPI(
            title="Trust SOC",
            version=VERSION,
            description=_DESCRIPTION,
            lifespan=self._lifespan,
            openapi_url="/api/openapi.json",
            # The interactive pages load their scripts from a public host; an air-gapped console must not.
            docs_url=None,
            redoc_url=None,
        )
        answer_errors(application)
        describe_errors(application)
        application.add_middleware(BodyLimit)
        application.add_middleware(FastPath)
        trusted = trusted_networks(self._settings.tls_trusted_proxies)
        application.add_middleware(PeerMiddleware, seal=self._seal, trusted=trusted)
        return application

    @asynccontextmanager
    async def _lifespan(self, application: FastAPI) -> AsyncIterator[None]:
        settings = self._settings
        async with AsyncExitStack() as stack:
            app_pool = await connect_pool(settings.app_dsn.get_secret_value(), name="edge", max_size=8)
            stack.push_async_callback(app_pool.close)
            writer_pool = await connect_pool(settings.writer_dsn.get_secret_value(), name="edge journal", max_size=4)
            stack.push_async_callback(writer_pool.close)
            journal = JournalWriter(writer_pool)
            stack.push_async_callback(journal.close)
            authenticator = authenticator_on(app_pool, self._seal, settings.key_cache_s, Authenticator)
            directory = await stack.enter_async_context(
                open_directory(settings, self._arguments.detector_actors, writer_pool, self._metrics)
            )
            keyring = signing_keyring(settings, app_pool)
            masks_of = partial(masks_of_records, keyring=keyring)
            rules = RuleEnforcer(app_pool, writer_pool, journal, TaskChecks(), directory.hint, masks_of)
            await rules.enforce_everywhere(f"trustsoc {VERSION}", datetime.now(UTC))
            services = EdgeServices(
                authenticator=authenticator,
                app_pool=app_pool,
                writer_pool=writer_pool,
                directory=directory,
                advisor=self._advisor,
                enforce_rules=lambda tenant: rules.enforce(tenant, datetime.now(UTC)),
                metrics=self._metrics,
                database_disk=settings.disk_watch_dir,
            )
            gate = await stack.enter_async_context(
                open_gate(settings, self._arguments.edge_replicas, writer_pool, journal, self._metrics)
            )
            ledger = await stack.enter_async_context(
                open_ledger(settings, app_pool, writer_pool, journal, directory.hint, self._metrics)
            )
            intake = Intake(
                journal, directory.hint, self._metrics, ledger.receipts, ledger.refusals, admission=gate.admission
            )
            nonces = NonceStore(writer_pool)
            stack.push_async_callback(nonces.close)
            envelopes = envelope_check(settings, authenticator, keyring, nonces)
            doors = DoorParts(settings, authenticator, intake, self._metrics, envelopes)
            add_http_doors(application, doors)
            _add_routes(application, services)
            application.include_router(quota_routes(services, gate))
            application.include_router(ledger_routes(ledger, authenticator, envelopes))
            application.include_router(signing_routes(SigningServices(authenticator, app_pool, writer_pool, keyring)))
            shards = ShardServices(authenticator, app_pool, writer_pool, directory, settings.virtual_shards)
            application.include_router(shard_routes(shards))
            _add_rule_routes(application, services, rules)
            _add_past_routes(application, services, journal, settings, keyring)
            parts = self._control_parts(services, nonces, keyring)
            control = await stack.enter_async_context(open_control(settings, parts))
            control.add_to(application)
            chores = [*store_chores(app_pool, writer_pool, _retention(settings)), nonce_chore(writer_pool)]
            chores += [*ledger.chores(), rules.chore(), *control.chores]
            janitor = Janitor(chores, self._metrics)
            stack.push_async_callback(janitor.stop)
            janitor.start()
            await stack.enter_async_context(other_doors(doors))
            await stack.enter_async_context(serving_tls(application, settings, self._metrics))
            yield

    def _control_parts(self, services: EdgeServices, nonces: NonceStore, keyring: SigningKeyring) -> ControlParts:
        return ControlParts(
            app_pool=services.app_pool,
            writer_pool=services.writer_pool,
            authenticator=services.authenticator,
            agents=authenticator_on(services.app_pool, self._seal, self._settings.key_cache_s, AgentAuthenticator),
            nonces=nonces,
            keyring=keyring,
            metrics=self._metrics,
            enforce_rules=services.enforce_rules,
        )


def _add_rule_routes(application: FastAPI, services: EdgeServices, rules: RuleEnforcer) -> None:
    authenticator, app_pool, writer_pool = services.authenticator, services.app_pool, services.writer_pool
    packs = RulePackServices(authenticator, writer_pool, rules, TaskChecks())
    application.include_router(rule_pack_routes(packs))
    choices = TenantRuleServices(authenticator, app_pool, writer_pool, rules)
    application.include_router(tenant_rule_routes(choices))
    application.include_router(rule_routes(RuleListing(authenticator, app_pool)))


def _add_past_routes(
    application: FastAPI, services: EdgeServices, journal: JournalWriter, settings: Settings, keyring: SigningKeyring
) -> None:
    async def masks_of(tenant: TenantId) -> RecordMasks | None:
        async with tenant_transaction(services.app_pool, tenant) as transaction:
            return await masks_of_records(transaction, keyring)

    authenticator = services.authenticator
    holds = HoldServices(authenticator, services.app_pool, services.writer_pool, settings.raw_log_retention_days)
    application.include_router(hold_routes(holds))
    letters = DeadLetterServices(authenticator, services.app_pool, journal, services.directory.hint)
    application.include_router(dead_letter_routes(letters))
    streams = ReplayStreams()  # replays and backtests together are only so many at once
    most, rule_cache = settings.replay_max_batches, str(settings.rule_cache or "")
    application.include_router(replay_routes(authenticator, streams, replay_lines, most))
    application.include_router(backtest_routes(authenticator, streams, backtest_lines, most, masks_of, rule_cache))


def _retention(settings: Settings) -> RetentionPlan:
    return RetentionPlan(
        raw_log_days=settings.raw_log_retention_days,
        journal=timedelta(hours=settings.journal_retention_hours),
        rollups_1m=timedelta(days=settings.rollup_1m_retention_days),
        rollups_5m=timedelta(days=settings.rollup_5m_retention_days),
        rollups_1h=timedelta(days=settings.rollup_1h_retention_days),
    )


def _add_routes(application: FastAPI, services: EdgeServices) -> None:
    @application.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        """The replica is alive."""
        return {"status": "ok"}

    @application.get("/readyz", tags=["operations"])
    async def readyz() -> Response:
        """Postgres answers and every detector works; 503 otherwise. The advisor is not needed to be ready."""
        components = await services.components()
        waiting = [name for name in ("postgres", "detectors") if not components[name]["ready"]]
        if waiting:
            raise WireError(503, f"not ready: {', '.join(waiting)}", retry_after_s=1)
        return Response('{"status":"ready"}', media_type="application/json")

    @application.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text format, with the detectors' counts."""
        return Response(await services.render_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for router in (read_routes(services), log_routes(services), advisor_routes(services), admin_routes(services)):
        application.include_router(router)


def answer_errors(application: FastAPI) -> None:
    """Every error of the API is a problem document; trouble of the store is 503 with Retry-After."""

    @application.exception_handler(WireError)
    async def wire_error(_: Request, error: WireError) -> Response:
        return wire_response(problem(error))

    @application.exception_handler(StorageUnavailable)
    async def storage_error(_: Request, error: StorageUnavailable) -> Response:
        detail = "the log store is unavailable: retry later"
        return wire_response(problem(WireError(503, detail, retry_after_s=max(1, round(error.retry_after_s)))))

    @application.exception_handler(InvalidFilter)
    @application.exception_handler(InvalidCursor)
    @application.exception_handler(SearchTimedOut)
    async def invalid_search(_: Request, error: Exception) -> Response:
        return wire_response(problem(WireError(422, str(error))))

    @application.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        logger.error("unexpected error", path=request.url.path, exc_info=error)
        detail = "an unexpected error, which is logged: please report it with the time of this answer"
        return wire_response(problem(WireError(500, detail, reason="internal")))

    @application.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return wire_response(problem(invalid_fields(error.errors())))

    @application.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        answer = problem(WireError(error.status_code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return wire_response(answer)
