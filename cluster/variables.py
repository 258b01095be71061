"""Names of the environment variables that commands read."""

from __future__ import annotations

from typing import Final

TENANT_KEY_VARIABLE: Final = "TRUSTSOC_API_KEY"
ADMIN_KEY_VARIABLE: Final = "TRUSTSOC_ADMIN_KEY"
URL_VARIABLE: Final = "TRUSTSOC_URL"
KEY_HELP: Final = f"Keys for another machine's cluster: {TENANT_KEY_VARIABLE}, {ADMIN_KEY_VARIABLE}."
