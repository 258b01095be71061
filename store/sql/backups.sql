-- name: backup_snapshot
SELECT pg_export_snapshot();

-- name: backup_possible
-- Forced policies bind the owner too; who is bound by them would back up nothing without an error.
SELECT to_regclass('public.schema_migrations') IS NOT NULL AND to_regclass('public.journal_heads') IS NOT NULL
    AND (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user);

-- name: backup_schema
SELECT number, name FROM schema_migrations ORDER BY number DESC LIMIT 1;

-- name: backup_tenants
SELECT tenant.tenant_id::text AS tenant_id, tenant.name, coalesce(head.last_seq, 0) AS last_seq,
    coalesce(mark.seq, 0) AS judged_seq,
    (SELECT count(*) FROM journal WHERE journal.tenant_id = tenant.tenant_id) AS batches,
    (SELECT count(*) FROM events WHERE events.tenant_id = tenant.tenant_id) AS events
FROM tenants AS tenant
LEFT JOIN journal_heads AS head ON head.tenant_id = tenant.tenant_id
LEFT JOIN detector_marks AS mark ON mark.tenant_id = tenant.tenant_id
ORDER BY tenant.name;

-- name: backup_target_empty
SELECT NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace);

-- name: backup_analyze
ANALYZE;
