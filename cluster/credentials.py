"""Which key a command uses: the environment's, the stored one, or one made on the spot with the stored admin key."""

from __future__ import annotations

import os
from typing import Any

from cluster.client import ANSWER_SECONDS, ApiClient, ApiProblem, path_segment
from cluster.command_error import CommandError
from cluster.data_directory import DEFAULT_BASE_URL, ClientCredentials, DataDirectory
from cluster.variables import ADMIN_KEY_VARIABLE, TENANT_KEY_VARIABLE, URL_VARIABLE

DEFAULT_TENANT = "default"
ALL_SCOPES = ("ingest", "read", "write", "operate")
"""What the command line's own key may do: all but reveal, which needs a key that somebody made for it."""

_OWN_LABEL = "trustsoc command line"


class Keyring:
    """Keys and address for one command. `url` (option or environment) goes before what the data directory says."""

    def __init__(self, directory: DataDirectory, url: str | None = None) -> None:
        self._directory = directory
        self._stored = directory.credentials()
        self.base_url = (url or self._local_url()).rstrip("/")

    def admin_client(self, timeout: float = ANSWER_SECONDS) -> ApiClient:
        """A client with the administrator's key, which waits `timeout` seconds for an answer."""
        return ApiClient(self.base_url, self._admin_key(), timeout=timeout)

    def tenant_client(self, tenant: str | None = None) -> ApiClient:
        """A client with a key of the tenant."""
        return ApiClient(self.base_url, self.tenant_key(tenant), tenant=tenant)

    def tenant_name(self, tenant: str | None = None) -> str:
        """The tenant asked for, or the stored default."""
        return tenant or (self._stored.tenant if self._stored else DEFAULT_TENANT)

    def tenant_key(self, tenant: str | None = None) -> str:
        """The tenant's key: TRUSTSOC_API_KEY, the stored one, or a new one that is stored for the next time."""
        if key := os.environ.get(TENANT_KEY_VARIABLE):
            return key
        name = self.tenant_name(tenant)
        if self._is_own_cluster() and self._stored and (key := self._stored.tenant_keys.get(name)):
            return key
        if not self._has_admin_key():
            raise CommandError(
                f"no key for tenant {name!r} on {self.base_url}: set {TENANT_KEY_VARIABLE}, "
                "or run this on the machine and as the user of `trustsoc up`"
            )
        with self.admin_client() as admin:
            key = make_key(admin, name, _OWN_LABEL, ALL_SCOPES)["key"]
        if self._is_own_cluster() and self._stored:
            self._stored.tenant_keys[name] = key
            self._directory.write_credentials(self._stored)
        return str(key)

    def _local_url(self) -> str:
        if stated := os.environ.get(URL_VARIABLE):
            return stated
        runtime = self._directory.runtime()
        if runtime is not None:
            return runtime.base_url
        return self._stored.base_url if self._stored else DEFAULT_BASE_URL

    def _is_own_cluster(self) -> bool:
        """Stored keys go to the address they were made for, and nowhere else."""
        if self._stored is None:
            return False
        runtime = self._directory.runtime()
        own = {self._stored.base_url.rstrip("/")} | ({runtime.base_url.rstrip("/")} if runtime else set())
        return self.base_url in own

    def _has_admin_key(self) -> bool:
        return bool(
            os.environ.get(ADMIN_KEY_VARIABLE) or (self._is_own_cluster() and self._stored and self._stored.admin_key)
        )

    def _admin_key(self) -> str:
        if key := os.environ.get(ADMIN_KEY_VARIABLE):
            return key
        if self._is_own_cluster() and self._stored and self._stored.admin_key:
            return self._stored.admin_key
        raise CommandError(
            f"no administrator's key for {self.base_url}: set {ADMIN_KEY_VARIABLE}, "
            "or run this on the machine and as the user of `trustsoc up`"
        )


def ensure_tenant(admin: ApiClient, name: str) -> None:
    """Makes the tenant unless there is one of that name."""
    try:
        admin.post("/api/admin/tenants", {"name": name})
    except ApiProblem as problem:
        if problem.status != 409:
            raise


def make_key(admin: ApiClient, tenant: str, label: str, scopes: tuple[str, ...]) -> dict[str, Any]:
    """A new key of the tenant; its secret is in `key`, this once."""
    answer = admin.post(f"/api/admin/tenants/{path_segment(tenant)}/keys", {"label": label, "scopes": list(scopes)})
    if not isinstance(answer, dict) or not isinstance(answer.get("key"), str):
        raise CommandError("the server made a key but did not show it: is this Trust SOC?")
    return answer


def keep_first_keys(directory: DataDirectory, base_url: str, new_admin_key: str | None) -> ClientCredentials:
    """Stores what the command line needs after a start: the admin key at once, then a default tenant and its key."""
    stored = directory.credentials() or ClientCredentials(base_url)
    stored.base_url = base_url
    stored.admin_key = new_admin_key or stored.admin_key
    directory.write_credentials(stored)
    if stored.admin_key and stored.tenant not in stored.tenant_keys:
        with ApiClient(base_url, stored.admin_key) as admin:
            ensure_tenant(admin, stored.tenant)
            stored.tenant_keys[stored.tenant] = make_key(admin, stored.tenant, _OWN_LABEL, ALL_SCOPES)["key"]
        directory.write_credentials(stored)
    return stored
