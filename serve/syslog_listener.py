"""Where syslog is taken, and whose it is: one listener of the setting TRUSTSOC_SYSLOG_LISTENERS (a JSON list)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# Other processes read the files, and may stand in another folder.
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]


class SyslogListener(BaseModel):
    """A port for syslog over TCP, or over TLS where it has a certificate.

    Syslog carries no credentials, so the listener has them: what comes in belongs to the tenant of the key in
    `key_file` (scope ingest) or, without one, to the tenant that the sender's client certificate names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(ge=1, le=65535)
    host: str = Field(default="127.0.0.1", min_length=1)
    key_file: AbsolutePath | None = Field(
        default=None, description="Holds one API key of a tenant, with the scope ingest."
    )
    certificate: AbsolutePath | None = Field(
        default=None, description="PEM chain; with it the listener speaks TLS only."
    )
    key: AbsolutePath | None = Field(default=None, description="PEM, of the certificate.")
    client_authority: AbsolutePath | None = Field(
        default=None, description="PEM; with it every sender shows a certificate."
    )
    revoked: AbsolutePath | None = Field(default=None, description="PEM revocation list of the client_authority.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: state both or neither")
        if self.client_authority is not None and self.certificate is None:
            raise ValueError("client_authority needs TLS: state certificate and key as well")
        if self.revoked is not None and self.client_authority is None:
            raise ValueError("revoked is a list of the client_authority: state that as well")
        if self.key_file is None and self.client_authority is None:
            raise ValueError("nothing says whose messages these are: state key_file, or client_authority with TLS")
        return self
