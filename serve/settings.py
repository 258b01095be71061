"""The one typed settings tree. Environment variables carry the prefix TRUSTSOC_; nothing is read at import.

`cluster/cli.py` and `serve/app.py` read it once per process and pass it down. Data source names hold passwords, so
they travel in the environment of the processes (or a Kubernetes Secret), never in the Serve configuration.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serve.arguments import LanguageModel
from serve.syslog_listener import SyslogListener

MIB = 2**20


class Settings(BaseSettings):
    """Everything that an operator may set. Sizes are bytes, durations seconds."""

    model_config = SettingsConfigDict(env_prefix="TRUSTSOC_", extra="ignore", frozen=True)

    data_dir: Path = Field(default=Path("."), description="Where this installation keeps its files.")
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=4318, ge=1, le=65535)
    grpc_port: int = Field(
        default_factory=lambda data: int(data.get("http_port", 4318)) - 1,
        ge=0,
        le=65535,
        description="OTLP/gRPC on http_host; 0: off; unset: the port before http_port, which makes it 4317.",
    )
    proxy: Literal["python", "haproxy"] = Field(default="haproxy", description="python where HAProxy cannot run.")
    loopback_only: bool = Field(default=False, description="Set by the embedded cluster: no port of Ray's elsewhere.")

    owner_dsn: SecretStr = Field(default=SecretStr(""), description="For migrations only; empty: done elsewhere.")
    app_dsn: SecretStr = Field(default=SecretStr(""), description="Empty: the embedded PostgreSQL.")
    writer_dsn: SecretStr = SecretStr("")
    detector_dsn: SecretStr = SecretStr("")

    max_compressed_bytes: int = Field(default=32 * MIB, gt=0)
    max_body_bytes: int = Field(default=64 * MIB, gt=0, description="After decompression; OTLP recommends 64 MiB.")
    key_cache_s: float = Field(default=5.0, ge=0, description="How long a replica trusts a key it has checked.")

    signing_dir: Path | None = Field(default=None, description="Master keys of signing; default: in the data folder.")
    signature_window_s: float = Field(default=300.0, gt=0, le=3600, description="How far a sender's clock may be off.")
    tls_host: str = "127.0.0.1"
    tls_port: int = Field(default=0, ge=0, le=65535, description="TLS 1.3 at the edge; 0: off.")
    tls_client_certificates: Literal["off", "optional", "required"] = "optional"
    tls_certificate: Path | None = Field(default=None, description="PEM; default: tls/server.pem, of `trustsoc cert`.")
    tls_key: Path | None = None
    tls_client_authority: Path | None = Field(default=None, description="PEM; whose client certificates are believed.")
    tls_revoked: Path | None = Field(default=None, description="PEM revocation list; counts where the file exists.")
    tls_trusted_proxies: str = Field(default="", description="CIDRs whose X-Forwarded-Client-Cert is believed.")

    max_requests_at_once: int = Field(default=256, ge=1, description="Log requests in work, each replica.")
    max_request_bytes_at_once: int = Field(default=256 * MIB, gt=0, description="Their bodies as sent, each replica.")
    max_backlog_bytes: int = Field(default=16 * 1024 * MIB, ge=0, description="Durable and not judged yet; 0: any.")
    disk_watch_dir: Path | None = Field(default=None, description="On PostgreSQL's disk; set for the embedded one.")
    disk_reserve_bytes: int = Field(default=512 * MIB, ge=0, description="Below it, log requests get 503.")
    head_room_every_s: float = Field(default=2.0, gt=0, description="How old figures of head-room and quotas may be.")
    quota_records_per_s: float = Field(default=1_000_000, ge=0, description="Of a tenant without its own; 0: any.")
    quota_bytes_per_s: float = Field(default=512 * MIB, ge=0, description="Bytes of bodies as sent; 0: any.")
    quota_burst_s: float = Field(default=10, ge=0.1, le=3600, description="Seconds of a rate that may come at once.")
    quota_agent_records_per_s: float = Field(default=0, ge=0, description="Of one agent of a tenant; 0: any.")
    quota_agent_bytes_per_s: float = Field(default=0, ge=0)
    quota_max_backlog: int = Field(default=50_000_000, ge=0, description="Records not judged yet, a tenant; 0: any.")

    syslog_listeners: tuple[SyslogListener, ...] = Field(default=(), description="JSON list; see docs/wire.md.")
    elasticsearch_version: str = Field(
        default="8.19.0", pattern=r"^\d+\.\d+\.\d+$", description="What senders to /_bulk are told that we are."
    )

    job_key_dir: Path | None = Field(default=None, description="Keys that sign jobs; default: in the data folder.")
    agent_url: str = Field(default="", description="Address that agents are told; default: our own TLS port.")
    agent_authority: Literal["embedded", "external"] = Field(
        default="embedded", description="external: a program of yours has certificates of agents signed elsewhere."
    )
    agent_authority_command: str = Field(
        default="", description="That program: see serve/control/external_authority.py."
    )
    agent_authority_certificates: Path | None = Field(
        default=None, description="PEM; whom agents believe with an external authority; default: tls/authority.pem."
    )
    agent_certificates: Literal["optional", "required"] = Field(
        default="optional", description="required: agents are told nothing over a connection without a certificate."
    )
    agent_certificate_days: int = Field(default=90, ge=1, le=825)
    agent_polls_at_once: int = Field(default=20_000, ge=1, description="Agents that wait for jobs, each replica.")
    collected_file_days: int = Field(default=7, ge=1, description="How long files of COLLECT_FILE are kept.")

    edge_replicas: int = Field(default=1, ge=1)
    detector_actors: int = Field(default=1, ge=1)
    virtual_shards: int = Field(default=64, ge=1)
    poll_interval_s: float = Field(default=0.5, gt=0, description="How long a detector sleeps when no hint came.")
    snapshot_every_batches: int = Field(default=200, ge=1)
    snapshot_every_s: float = Field(default=30.0, gt=0)
    tick_after_idle_s: float = Field(default=60.0, gt=0, description="Idle tenants with open windows get a tick row.")
    max_tenants_in_memory: int = Field(default=500, ge=1, description="Whose state one detector actor holds.")
    rule_cache: Path | None = Field(
        default=None, description="Folder of compiled rules, nobody else's to write; default: a temporary one."
    )
    replay_max_batches: int = Field(default=20_000, ge=1, description="Batches that one replay may read.")
    raw_log_retention_days: int = Field(default=30, ge=1, le=3650, description="A tenant may have its own.")
    journal_retention_hours: int = Field(default=168, ge=1, description="The replay horizon and idempotency window.")
    rollup_1m_retention_days: int = Field(default=30, ge=1)
    rollup_5m_retention_days: int = Field(default=90, ge=1)
    rollup_1h_retention_days: int = Field(default=400, ge=1)
    receipt_key_file: Path | None = Field(default=None, description="Keys of receipts; default: in the data folder.")
    ledger_retention_days: int = Field(default=400, ge=1, description="After the last that was heard of a run.")

    llm: LanguageModel = Field(default="none", description="none, cpu, gpu, or the URL of an OpenAI-compatible server.")
    llm_model: str = ""
    llm_api_key: SecretStr = SecretStr("")
    qdrant_url: str = Field(default="", description="Empty: Qdrant in local mode under the data directory.")
    qdrant_api_key: SecretStr = SecretStr("")
    cache_dir: Path | None = Field(default=None, description="Corpus vectors and converted weights; shareable.")

    @field_validator("agent_authority_command")
    @classmethod
    def _is_a_command(cls, value: str) -> str:
        shlex.split(value)  # raises ValueError, which says what is open
        return value

    @field_validator("tls_trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for part in filter(None, (part.strip() for part in value.split(","))):
            ipaddress.ip_network(part)
        return value

    @property
    def signing_folder(self) -> Path:
        """Where the master keys of signing are."""
        return self.signing_dir or self.data_dir / "signing"

    @property
    def receipt_keys(self) -> Path:
        """Where the keys of receipts are, the same on all replicas."""
        return self.receipt_key_file or self.data_dir / "receipt-keys.json"

    @property
    def job_keys(self) -> Path:
        """Where the keys that sign jobs are, the same on all replicas."""
        return self.job_key_dir or self.data_dir / "job-keys"

    @property
    def agent_address(self) -> str:
        """The base address that agents are told at enrolment; one that listens everywhere goes by this host's name."""
        if self.agent_url:
            return self.agent_url.rstrip("/")
        host, port, scheme = (
            (self.tls_host, self.tls_port, "https") if self.tls_port else (self.http_host, self.http_port, "http")
        )
        host = socket.gethostname() if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def caches(self) -> Path:
        """Where derived files live that can be made again, shared by all data directories of a user."""
        if self.cache_dir is not None:
            return self.cache_dir
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trustsoc"
