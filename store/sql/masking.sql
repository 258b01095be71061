-- name: masking_read
SELECT enabled, master, changed_by, changed_at FROM tenant_masking;

-- name: masking_keys
-- The newest first: most tokens are of it.
SELECT master FROM masking_keys ORDER BY made_at DESC, master DESC;

-- name: masking_key_insert
INSERT INTO masking_keys (tenant_id, master, made_by) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: masking_write
INSERT INTO tenant_masking (tenant_id, enabled, master, changed_by) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id) DO UPDATE
SET enabled = EXCLUDED.enabled, master = EXCLUDED.master, changed_by = EXCLUDED.changed_by, changed_at = now();

-- name: masking_of_agent
UPDATE agents SET masking_master = $2 WHERE agent = $1;

-- name: masking_of_records
SELECT masking_of_records($1);

-- name: masking_agents_otherwise
-- Active agents that were enrolled with another key than $1, or with one where $1 is NULL.
SELECT count(*) FROM agents WHERE state = 'active' AND masking_master IS DISTINCT FROM $1::integer;
