"""The whole system on one machine: Postgres, Ray and Serve under one process, everything bound to loopback.

Nothing survives the owner: Postgres hears of its death from the kernel, Ray's reaper ends Ray. All truth is in
Postgres under the data directory, so a start after any kind of end goes on where the last commit was.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import psutil
from pydantic import SecretStr

from cluster.command_error import CommandError
from cluster.data_directory import ClientCredentials, DataDirectory
from cluster.haproxy import chosen_proxy, haproxy_environment
from cluster.postgres import EmbeddedPostgres
from serve.arguments import EdgeArguments
from serve.ingest.receipts import new_key_file
from serve.settings import Settings
from serve.signing_masters import ensure_master
from serve.tls import TlsError, server_context, tls_plan
from store.bootstrap import bootstrap
from store.migrate import migrate
from store.tenants import create_admin_key, list_admin_keys

Progress = Callable[[str], None]

_READY_S = 180.0
_OBJECT_STORE_BYTES = 100 * 2**20


@dataclass(frozen=True, slots=True)
class _Dsns:
    superuser: str
    owner: str
    app: str
    writer: str
    detector: str
    passwords: dict[str, str]
    disk: Path | None = None  # where the embedded PostgreSQL keeps its data


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the cluster answers. `admin_key` is the first administrator's key, on the first start only.

    `agent_url` is the base address of agents, empty where there is no TLS.
    """

    base_url: str
    agent_url: str
    admin_key: str | None


class EmbeddedCluster:
    """Brings everything up in `start`, down in `stop`; external Postgres is used where the settings name one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._postgres: EmbeddedPostgres | None = None
        self._ray_folder: Path | None = None
        self._ray_started = False
        self._serve_started = False
        self._watched: list[psutil.Process] = []

    def start(self, progress: Progress) -> Endpoint:
        """Blocks until /readyz says yes; raises CommandError with what to do when a part does not come up."""
        settings = self._settings
        base_url = f"http://{settings.http_host}:{settings.http_port}"
        self._prepare_secrets()
        progress("starting PostgreSQL")
        dsns = self._start_postgres()
        # Ray opens its own folder to everybody, hence one around it. Short names: there are sockets in it, whose
        # paths are limited to 107 bytes.
        self._ray_folder = Path(tempfile.mkdtemp(prefix="trustsoc-"))
        # Ray's processes inherit this environment, so it must be whole before Ray starts.
        os.environ.update(_environment(settings, dsns, self._ray_folder))
        progress("starting Ray, preparing the schema")
        with ThreadPoolExecutor(1, thread_name_prefix="schema") as pool:
            schema: Future[str | None] = pool.submit(lambda: asyncio.run(_prepare_schema(dsns)))
            self._start_ray()
            admin_key = schema.result()
        if admin_key is not None:
            # Kept at once: it is stored nowhere else, and a start that fails from here on must not lose it.
            directory = DataDirectory(settings.data_dir)
            directory.write_credentials(ClientCredentials(base_url, admin_key=admin_key))
        progress("starting the edge, the detectors and the advisor")
        self._start_serve()
        self._await_ready(base_url)
        return Endpoint(base_url, settings.agent_address if settings.tls_port else "", admin_key)

    def stop(self) -> None:
        """Stops what was started, in the order that lets each part finish; safe to call at any time."""
        if self._ray_started:
            _stop_ray(serve_started=self._serve_started)
            self._ray_started = self._serve_started = False
        if self._postgres is not None:
            self._postgres.stop()
            self._postgres = None
        if self._ray_folder is not None:
            shutil.rmtree(self._ray_folder, ignore_errors=True)
            self._ray_folder = None

    def wait(self) -> None:
        """Blocks while Ray runs; raises CommandError when it ended by itself."""
        while True:
            for process in self._watched:
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    raise CommandError(
                        f"{process.name()} has ended: `trustsoc up` starts again where the journal stands"
                    )
            time.sleep(1.0)

    def _prepare_secrets(self) -> None:
        """Master keys exist before the edge asks for them; TLS files that do not fit are found before it starts."""
        settings = self._settings
        if settings.signing_dir is None:
            ensure_master(settings.signing_folder)
        if settings.receipt_key_file is None:
            new_key_file(settings.receipt_keys)
        if settings.tls_port:
            try:
                server_context(tls_plan(settings))
            except TlsError as error:
                raise CommandError(f"{error}; `trustsoc cert init` makes them") from error

    def _start_postgres(self) -> _Dsns:
        settings = self._settings
        if settings.app_dsn.get_secret_value():
            return _Dsns(
                superuser="",
                owner=settings.owner_dsn.get_secret_value(),
                app=settings.app_dsn.get_secret_value(),
                writer=settings.writer_dsn.get_secret_value(),
                detector=settings.detector_dsn.get_secret_value(),
                passwords={},
            )
        postgres = self._postgres = EmbeddedPostgres(settings.data_dir)
        postgres.start()
        return _Dsns(
            superuser=postgres.dsn("trustsoc_superuser"),
            owner=postgres.dsn("trustsoc_owner"),
            app=postgres.dsn("trustsoc_app"),
            writer=postgres.dsn("trustsoc_writer"),
            detector=postgres.dsn("trustsoc_detector"),
            passwords=postgres.passwords,
            disk=postgres.cluster_dir,
        )

    def _start_ray(self) -> None:
        import ray

        self._ray_started = True
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            namespace="trustsoc",
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _temp_dir=f"{self._ray_folder}/r",
        )
        self._watched = [
            child for child in psutil.Process().children(recursive=True) if child.name() in {"raylet", "gcs_server"}
        ]

    def _start_serve(self) -> None:
        settings = self._settings
        from ray import serve
        from ray.serve.schema import LoggingConfig

        from serve.app import build

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        self._serve_started = True
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.http_host, "port": settings.http_port, "request_timeout_s": 60},
            logging_config=quiet,
        )
        arguments = EdgeArguments(
            edge_replicas=settings.edge_replicas, detector_actors=settings.detector_actors, llm=settings.llm
        )
        serve.run(build(arguments), name="trustsoc", route_prefix="/", logging_config=quiet)

    def _await_ready(self, base_url: str) -> None:
        deadline = time.monotonic() + _READY_S
        last = "no answer"
        with httpx.Client(timeout=5, trust_env=False) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.TransportError):
                    answer = client.get(f"{base_url}/readyz")
                    if answer.status_code == 200:
                        return
                    last = answer.text[:300]
                threading.Event().wait(0.1)
        raise CommandError(f"the system did not become ready in {_READY_S:.0f} s: {last}")


def _stop_ray(*, serve_started: bool) -> None:
    """Serve first, so that requests end; then Ray. Ray reports the end of its own controller as an error, to stdout."""
    import ray
    from ray import serve

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if serve_started:
            with contextlib.suppress(Exception):  # whatever state Serve is in, Ray's own shutdown ends its processes
                serve.shutdown()
        ray.shutdown()


async def _prepare_schema(dsns: _Dsns) -> str | None:
    """Roles, database and schema; the text of a first administrator's key when there was none."""
    if dsns.superuser:
        await bootstrap(dsns.superuser, dsns.passwords)
    if not dsns.owner:
        return None
    await migrate(dsns.owner)
    owner = await asyncpg.connect(dsns.owner)
    try:
        if await list_admin_keys(owner):
            return None
        return (await create_admin_key(owner, "first administrator")).secret_text
    finally:
        await owner.close()


def _as_variable(value: object) -> str:
    """The text from which Settings reads the value again: JSON for what is a list."""
    return json.dumps(value, default=str) if isinstance(value, list | tuple) else str(value)


def _environment(settings: Settings, dsns: _Dsns, ray_folder: Path) -> dict[str, str]:
    """What Ray and our own processes read when they start. Ray reads its variables while it is imported."""
    stated = {
        f"TRUSTSOC_{name.upper()}": _as_variable(value)
        for name, value in settings.model_dump(exclude_none=True, exclude={"owner_dsn"}).items()
        if not isinstance(value, SecretStr)
    }
    secret = {
        "TRUSTSOC_APP_DSN": dsns.app,
        "TRUSTSOC_WRITER_DSN": dsns.writer,
        "TRUSTSOC_DETECTOR_DSN": dsns.detector,
        "TRUSTSOC_LLM_API_KEY": settings.llm_api_key.get_secret_value(),
        "TRUSTSOC_QDRANT_API_KEY": settings.qdrant_api_key.get_secret_value(),
    }
    ray = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Workers run at nice 15 otherwise and starve beside anything else on the host.
        "RAY_worker_niceness": "0",
        # Despite its name this makes a one-node Ray bind loopback only, on Linux too.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.loopback:prepare_proxy",
        "TRUSTSOC_LOOPBACK_ONLY": "true",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if chosen_proxy(settings.proxy) == "haproxy":
        ray |= haproxy_environment(ray_folder)
    if dsns.disk is not None:
        stated["TRUSTSOC_DISK_WATCH_DIR"] = str(settings.disk_watch_dir or dsns.disk.resolve())
    return stated | secret | ray
