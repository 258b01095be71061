"""The one typed settings tree. Environment variables carry the prefix TRUSTSOC_; nothing is read at import.

`cluster/cli.py` and `serve/app.py` read it once per process and pass it down. Data source names hold passwords, so
they travel in the environment of the processes (or a Kubernetes Secret), never in the Serve configuration.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 2**20


class Settings(BaseSettings):
    """Everything that an operator may set. Sizes are bytes, durations seconds."""

    model_config = SettingsConfigDict(env_prefix="TRUSTSOC_", extra="ignore", frozen=True)

    data_dir: Path = Field(default=Path("."), description="Where this installation keeps its files.")
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=4318, ge=1, le=65535)
    proxy: Literal["python", "haproxy"] = Field(default="python", description="The HTTP proxy of Ray Serve.")

    owner_dsn: SecretStr = Field(default=SecretStr(""), description="For migrations only; empty: done elsewhere.")
    app_dsn: SecretStr = Field(default=SecretStr(""), description="Empty: the embedded PostgreSQL.")
    writer_dsn: SecretStr = SecretStr("")
    detector_dsn: SecretStr = SecretStr("")

    max_compressed_bytes: int = Field(default=32 * MIB, gt=0)
    max_body_bytes: int = Field(default=64 * MIB, gt=0, description="After decompression; OTLP recommends 64 MiB.")
    key_cache_s: float = Field(default=5.0, ge=0, description="How long a replica trusts a key it has checked.")

    edge_replicas: int = Field(default=1, ge=1)
    detector_actors: int = Field(default=1, ge=1)
    virtual_shards: int = Field(default=64, ge=1)
    poll_interval_s: float = Field(default=0.5, gt=0, description="How long a detector sleeps when no hint came.")
    snapshot_every_batches: int = Field(default=200, ge=1)
    snapshot_every_s: float = Field(default=30.0, gt=0)
    tick_after_idle_s: float = Field(default=60.0, gt=0, description="Idle tenants with open windows get a tick row.")
    raw_log_retention_days: int = Field(default=30, ge=1)

    llm: str = Field(default="none", description="none, cpu, gpu, or the URL of an OpenAI-compatible server.")
    llm_model: str = ""
    llm_api_key: SecretStr = SecretStr("")
    qdrant_url: str = Field(default="", description="Empty: Qdrant in local mode under the data directory.")
    qdrant_api_key: SecretStr = SecretStr("")
    cache_dir: Path | None = Field(default=None, description="Corpus vectors and converted weights; shareable.")

    @field_validator("llm")
    @classmethod
    def _known_llm(cls, value: str) -> str:
        if value in {"none", "cpu", "gpu"} or value.startswith(("http://", "https://")):
            return value
        raise ValueError("LLM must be none, cpu, gpu or an http(s) URL of an OpenAI-compatible server")

    @property
    def caches(self) -> Path:
        """Where derived files live that can be made again, shared by all data directories of a user."""
        if self.cache_dir is not None:
            return self.cache_dir
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trustsoc"
