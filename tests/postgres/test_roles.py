"""Row-level security and grants, read from the catalogue: a table that is added without them fails here."""

from __future__ import annotations

from datetime import date

import asyncpg

from cluster.postgres import LOGIN_ROLES
from tests.postgres.fixtures import Database

POLICY = "(tenant_id = ( SELECT (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid AS \"nullif\"))"


async def test_every_tenant_table_has_row_level_security_forced_and_the_one_policy(database: Database) -> None:
    await database.make_day(date(2026, 3, 4))
    superuser = await database.superuser()
    tables = await superuser.fetch("""
        SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relispartition,
               (SELECT array_agg(pg_get_expr(p.polqual, p.polrelid) ORDER BY p.polname) FROM pg_policy p
                WHERE p.polrelid = c.oid AND p.polcmd = '*' AND p.polroles = '{0}') AS policies
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace""")
    assert len(tables) >= 18
    for table in tables:
        name = table["relname"]
        assert table["relrowsecurity"], f"{name} lacks row-level security"
        assert table["relforcerowsecurity"], f"{name} does not force row-level security on its owner"
        # A partition has no policy of its own: reached directly it shows nothing to anybody.
        assert table["policies"] == (None if table["relispartition"] else [POLICY]), name


async def test_no_view_goes_round_the_policies_and_only_the_care_of_the_store_runs_as_the_owner(
    database: Database,
) -> None:
    superuser = await database.superuser()
    views = "SELECT relname FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace = 'public'::regnamespace"
    assert await superuser.fetch(views) == []
    definers = "SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace ORDER BY 1"
    assert [row["proname"] for row in await superuser.fetch(definers)] == [
        "journal_prune",
        "raw_logs_drop_partitions",
        "raw_logs_make_partitions",
        "raw_logs_prune",
        "rollups_prune",
    ]


async def test_the_attributes_of_the_roles(database: Database) -> None:
    superuser = await database.superuser()
    rows = await superuser.fetch(
        "SELECT rolname, rolsuper, rolbypassrls, rolinherit, rolcreaterole, rolcreatedb FROM pg_roles "
        "WHERE rolname = ANY ($1::text[])",
        list(LOGIN_ROLES),
    )
    assert {tuple(row) for row in rows} == {
        ("trustsoc_owner", False, False, True, False, False),
        ("trustsoc_writer", False, True, True, False, False),
        ("trustsoc_app", False, False, True, False, False),
        ("trustsoc_detector", False, False, False, False, False),
    }


def _rights(table: str, letters: str) -> set[tuple[str, str]]:
    words = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE"}
    return {(table, words[letter]) for letter in letters}


async def _granted(superuser: asyncpg.Connection, role: str) -> tuple[set[tuple[str, str]], set[tuple[str, str, str]]]:
    tables = await superuser.fetch(
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants "
        "WHERE grantee = $1 AND table_schema = 'public'",
        role,
    )
    whole = {tuple(row) for row in tables}
    columns = await superuser.fetch(
        "SELECT table_name, column_name, privilege_type FROM information_schema.role_column_grants "
        "WHERE grantee = $1 AND table_schema = 'public'",
        role,
    )
    return whole, {tuple(row) for row in columns if (row["table_name"], row["privilege_type"]) not in whole}


AGENT_UPDATES = {
    "agent_tokens": "spent_at spent_by revoked_at",
    "agents": "state labels result_key signing_key version platform enrolled_by enrolled_at revoked_by revoked_at "
    "last_seen status health masking_master",
    "agent_certificates": "revoked_at",
    "rollouts": "state wave failures detail approved_by changed_at",
    "jobs": "state held approved_by approved_at issued_at not_before expires_at attempt lease lease_until key_id "
    "envelope signature reason detail result result_signature started_at ended_at",
    "job_outputs": "data truncated",
    "job_files": "received complete",
    "tenant_masking": "enabled master changed_by changed_at",
}


async def test_the_writer_has_what_is_listed_and_nothing_else(database: Database) -> None:
    whole, columns = await _granted(await database.superuser(), "trustsoc_writer")
    assert whole == (
        _rights("journal", "SI")
        | _rights("raw_logs", "I")
        | _rights("journal_heads", "SIU")
        | _rights("ingest_ledger", "SIU")
        | _rights("shard_map", "SIUD")
        | _rights("rule_sets", "SI")
        | _rights("rule_packs", "SI")
        | _rights("shard_plan", "SIU")
        | _rights("shard_workers", "SIU")
        | _rights("tenant_pins", "SID")
        | _rights("signing_nonces", "SID")
    )
    assert columns == (
        {("tenants", column, "SELECT") for column in ("tenant_id", "name", "created_at", "quota")}
        | {
            ("detector_marks", column, "SELECT")
            for column in ("tenant_id", "seq", "epoch", "open_windows", "last_received")
        }
        | {("ledger_statements", column, "SELECT") for column in ("tenant_id", "missing", "excess")}
        | {
            ("advisory_queue", column, "SELECT")
            for column in ("tenant_id", "incident_id", "revision", "attempts", "not_before")
        }
        | {("advisory_queue", column, "UPDATE") for column in ("attempts", "not_before")}
        | {("rule_packs", column, "UPDATE") for column in ("removed_by", "removed_at")}
        | {("jobs", column, "SELECT") for column in ("tenant_id", "state", "held", "expires_at", "lease_until")}
        | {("rollouts", column, "SELECT") for column in ("tenant_id", "state")}
        | {("agents", column, "SELECT") for column in ("tenant_id", "state", "status", "last_seen", "masking_master")}
        | {("tenant_masking", column, "SELECT") for column in ("tenant_id", "enabled", "master")}
        | {("job_files", column, "SELECT") for column in ("tenant_id", "received_at")}
        | {
            ("tenant_rules", column, "SELECT")
            for column in ("tenant_id", "packs", "used", "digest", "revision", "enforced", "next_expiry", "masked")
        }
    )


async def test_the_app_has_what_is_listed_and_nothing_else(database: Database) -> None:
    whole, columns = await _granted(await database.superuser(), "trustsoc_app")
    expected: set[tuple[str, str]] = set()
    for table in ("tenants", "api_keys", "journal_heads", "events", "incident_events", "advisories", "dead_letters"):
        expected |= _rights(table, "SI")
    for table in ("audit_log", "rule_sets"):
        expected |= _rights(table, "SI")
    for table in ("admin_keys", "journal", "raw_logs", "shard_map"):
        expected |= _rights(table, "S")
    for span in ("1m", "5m", "1h"):
        expected |= _rights(f"feature_rollup_{span}", "SIU")
    for table in ("incidents", "detector_snapshots", "detector_marks", "event_folds"):
        expected |= _rights(table, "SIU")
    expected |= _rights("detector_snapshots", "D") | _rights("tenant_pins", "S")
    expected |= _rights("legal_holds", "SI") | _rights("journal_pruned", "S")
    expected |= _rights("ingest_ledger", "SD")
    expected |= _rights("tenant_rules", "SIU") | _rights("rule_packs", "S") | _rights("rule_catalogs", "SI")
    expected |= _rights("ingest_rejections", "SIUD") | _rights("ledger_statements", "SIUD")
    expected |= _rights("signing_keys", "SI") | _rights("signing_nonces", "S")
    for table in ("agent_tokens", "agents", "agent_certificates", "agent_policies", "rollouts", "jobs", "job_outputs"):
        expected |= _rights(table, "SI")
    expected |= _rights("job_files", "SID") | _rights("job_file_chunks", "SI")
    expected |= _rights("masking_keys", "SI") | _rights("tenant_masking", "SI")
    assert whole == expected | _rights("advisory_queue", "SIUD")
    assert columns == (
        {("tenants", "settings", "UPDATE")}
        | {("api_keys", column, "UPDATE") for column in ("label", "expires_at", "revoked_at")}
        | {("signing_keys", column, "UPDATE") for column in ("expires_at", "revoked_at")}
        | {
            ("dead_letters", column, "UPDATE")
            for column in ("state", "error", "count", "last_seq", "attempts", "retry_seq", "settled_by", "settled_at")
        }
        | {("legal_holds", column, "UPDATE") for column in ("released_by", "released_at")}
        | {(table, column, "UPDATE") for table, columns in AGENT_UPDATES.items() for column in columns.split()}
    )


async def test_the_detector_and_public_have_nothing_of_their_own(database: Database) -> None:
    superuser = await database.superuser()
    for role in ("trustsoc_detector", "PUBLIC"):
        assert await _granted(superuser, role) == (set(), set())
    callable_by = """
        SELECT p.proname, r.rolname FROM pg_proc p CROSS JOIN pg_roles r
        WHERE p.pronamespace = 'public'::regnamespace AND r.rolname LIKE 'trustsoc\\_%'
          AND r.rolname NOT IN ('trustsoc_owner', 'trustsoc_superuser')
          AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
    """
    assert {tuple(row) for row in await superuser.fetch(callable_by)} == {
        ("raw_logs_make_partitions", "trustsoc_app"),
        ("raw_logs_drop_partitions", "trustsoc_app"),
        ("raw_logs_prune", "trustsoc_app"),
        ("journal_prune", "trustsoc_app"),
        ("rollups_prune", "trustsoc_app"),
        ("journal_append", "trustsoc_writer"),
        ("agent_standing", "trustsoc_app"),
        ("masking_of_records", "trustsoc_app"),
        ("masking_of_records", "trustsoc_writer"),
    }
    public = "SELECT has_schema_privilege('trustsoc_app', 'public', 'CREATE'), "
    public += "has_database_privilege('trustsoc_app', current_database(), 'TEMP')"
    assert tuple(await superuser.fetchrow(public)) == (False, False)
