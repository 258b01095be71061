"""What is swept: jobs that expired, leases that ended, rollouts that can go on, certificates that end, old files."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

from actors.janitor import Chore
from actors.metrics import Metrics
from detect.record import TenantId
from store.agents import AgentNotFound, certificates_due, count_agents, tenants_with_due_jobs
from store.jobs import JobConflict, NewJob, approval_types, create_job, lifetime
from store.jobs_delivery import SWEPT_AT_ONCE, sweep_jobs
from store.jobs_files import forget_files, tenants_with_old_files
from store.jobs_rollouts import advance_rollout, open_rollouts
from store.postgres import Pool, system_transaction, tenant_transaction
from store.tenants import list_tenants

_JOBS_EVERY_S = 5.0
_FILES_EVERY_S = 3600.0
_CERTIFICATES_EVERY_S = 3600.0
_CERTIFICATES_AT_ONCE = 500
_GAUGES_EVERY_S = 30.0
_WEEK_S = 7 * 24 * 3600


class ControlSweep:
    """Idempotent, and safe on several replicas at once: rows are changed under their locks."""

    def __init__(self, app_pool: Pool, writer_pool: Pool, file_days: int, metrics: Metrics) -> None:
        self._app_pool = app_pool
        self._writer_pool = writer_pool
        self._file_age = timedelta(days=file_days)
        self._metrics = metrics

    def chores(self) -> list[Chore]:
        """For the janitor."""
        return [
            Chore("agent_jobs", _JOBS_EVERY_S, self.jobs),
            Chore("agent_files_past_retention", _FILES_EVERY_S, self.files),
            Chore("agent_certificates_due", _CERTIFICATES_EVERY_S, self.certificates),
            Chore("agent_gauges", _GAUGES_EVERY_S, self.gauges),
        ]

    async def jobs(self, now: datetime) -> int:
        """Expires jobs, gives leases back, lets waves out; returns how many jobs and rollouts changed."""
        changed = 0
        for tenant in await tenants_with_due_jobs(self._writer_pool, now):
            swept = SWEPT_AT_ONCE
            while swept >= SWEPT_AT_ONCE:
                async with tenant_transaction(self._app_pool, TenantId(tenant)) as tx:
                    swept = await sweep_jobs(tx)
                    rollouts = await open_rollouts(tx)
                changed += swept
            for rollout in rollouts:
                async with tenant_transaction(self._app_pool, TenantId(tenant)) as tx:
                    changed += await advance_rollout(tx, rollout, now=now)
        return changed

    async def certificates(self, now: datetime) -> int:
        """Has certificates renewed before they end, by jobs of the server's own; returns how many.

        One job a certificate and week: an agent that could not do it is told again.
        """
        async with system_transaction(self._writer_pool) as tx:
            tenants = await list_tenants(tx)
        made, week = 0, int(now.timestamp()) // _WEEK_S
        for tenant in tenants:
            async with tenant_transaction(self._app_pool, tenant.id) as tx:
                due = await certificates_due(tx, now, week, _CERTIFICATES_AT_ONCE)
                approval = "CERT_ROTATE" in (await approval_types(tx))[0]
                for agent, key in due:
                    job = NewJob(agent, "CERT_ROTATE", "{}", key, now, lifetime(_WEEK_S, now))
                    # Revoked, or told by another replica, since the list was made: nobody else must wait for that.
                    with contextlib.suppress(AgentNotFound, JobConflict):
                        made += (await create_job(tx, job, actor="server", approval=approval, now=now))[1]
        return made

    async def gauges(self, now: datetime) -> int:
        """Shows how many agents and open jobs there are, of all tenants; changes nothing."""
        agents, jobs = await count_agents(self._writer_pool, now)
        self._metrics.replace("agents", "status", agents)
        self._metrics.replace("jobs_open", "state", jobs)
        return 0

    async def files(self, now: datetime) -> int:
        """Forgets collected files; returns how many."""
        forgotten = 0
        for tenant in await tenants_with_old_files(self._writer_pool, now - self._file_age):
            async with tenant_transaction(self._app_pool, TenantId(tenant)) as tx:
                forgotten += await forget_files(tx, now - self._file_age)
        return forgotten
