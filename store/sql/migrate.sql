-- name: migrations_lock
-- Held by the session while it migrates, so that two starters take turns.
SELECT pg_advisory_lock(hashtextextended('trustsoc migrations', 0));

-- name: migrations_table
CREATE TABLE IF NOT EXISTS schema_migrations (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
);

-- name: migrations_applied
SELECT number, name, checksum FROM schema_migrations ORDER BY number;

-- name: migration_record
INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3);
