"""The ingress deployment: one FastAPI application for OTLP, the API, health and metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from actors.control import enforce_rules
from actors.detector import ShardPlan
from actors.directory import DetectorDirectory, actor_names, ensure_detectors
from actors.janitor import Janitor
from actors.logs import configure_logs
from actors.metrics import Metrics
from detect.record import TenantId
from detect.sigma import load_rule_set, pack_bytes, starter_pack
from serve.advisor_client import AdvisorClient
from serve.arguments import EdgeArguments
from serve.auth import Authenticator
from serve.errors import WireError, problem
from serve.ingest.doors import DoorParts, add_http_doors, wire_response
from serve.ingest.intake import Intake
from serve.routes import admin_routes, advisor_routes, log_routes, read_routes
from serve.services import EdgeServices
from serve.settings import Settings
from serve.version import VERSION
from store import tenants
from store.journal import JournalWriter
from store.paging import InvalidCursor
from store.postgres import Pool, StorageUnavailable, connect_pool, system_transaction, tenant_transaction
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
        self._advisor = AdvisorClient(advisor)
        self._metrics = Metrics()

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
            authenticator = _authenticator(app_pool, settings)
            directory = self._directory()
            rules = InstalledRules(app_pool, writer_pool, journal)
            await rules.enforce_everywhere()
            services = EdgeServices(
                authenticator=authenticator,
                app_pool=app_pool,
                writer_pool=writer_pool,
                directory=directory,
                advisor=self._advisor,
                enforce_rules=rules.enforce,
                metrics=self._metrics,
            )
            intake = Intake(journal, directory.hint, self._metrics)
            add_http_doors(application, DoorParts(settings, authenticator, intake, self._metrics))
            _add_routes(application, services)
            janitor = Janitor(app_pool, settings.raw_log_retention_days)
            await janitor.sweep()
            stack.push_async_callback(janitor.stop)
            janitor.start()
            yield

    def _directory(self) -> DetectorDirectory:
        settings = self._settings
        names = actor_names(self._arguments.detector_actors)
        plans = tuple(
            ShardPlan(
                name=name,
                actors=names,
                virtual_shards=settings.virtual_shards,
                poll_interval_s=settings.poll_interval_s,
                snapshot_every_batches=settings.snapshot_every_batches,
                snapshot_every_s=settings.snapshot_every_s,
                tick_after_idle_s=settings.tick_after_idle_s,
            )
            for name in names
        )
        handles = ensure_detectors(plans)
        return DetectorDirectory(handles, settings.virtual_shards, lambda: self._metrics.count("hints_lost"))


class InstalledRules:
    """The rule pack that this installation ships, and putting it in force by a control row per tenant."""

    def __init__(self, app_pool: Pool, writer_pool: Pool, journal: JournalWriter) -> None:
        sources = starter_pack()
        self._pack = pack_bytes(sources)
        self._digest = load_rule_set(sources).digest
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._journal = journal

    async def enforce(self, tenant: TenantId) -> None:
        """Puts the pack in force for the tenant unless it is in force already."""
        await enforce_rules(self._app_pool, self._journal, tenant, self._digest, self._pack, datetime.now(UTC))

    async def enforce_everywhere(self) -> None:
        """The same for every tenant, at start-up: a new version of the pack takes effect at a recorded seq."""
        async with system_transaction(self._writer_pool) as transaction:
            known = await tenants.list_tenants(transaction)
        for tenant in known:
            await self.enforce(tenant.id)


def _authenticator(app_pool: Pool, settings: Settings) -> Authenticator:
    async def check(key: str) -> tenants.Principal | None:
        return await tenants.authenticate(app_pool, key)

    async def name_of(tenant: TenantId) -> str:
        async with tenant_transaction(app_pool, tenant) as transaction:
            return (await tenants.own_tenant(transaction)).name

    return Authenticator(check, name_of, time.monotonic, settings.key_cache_s)


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

    @application.get("/metrics", tags=["operations"])
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
        parts = [f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}" for item in error.errors()]
        return wire_response(problem(WireError(422, "; ".join(parts)[:1000])))

    @application.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return wire_response(problem(WireError(error.status_code, str(error.detail))))
