-- name: hold_insert
-- The trigger legal_hold_waits lets deletions that began earlier finish first.
INSERT INTO legal_holds (tenant_id, hold_id, reason, held_from, held_to, placed_by) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING hold_id, reason, held_from, held_to, placed_by, placed_at, released_by, released_at;

-- name: hold_release
UPDATE legal_holds SET released_by = $2, released_at = now() WHERE hold_id = $1 AND released_at IS NULL
RETURNING hold_id, reason, held_from, held_to, placed_by, placed_at, released_by, released_at;

-- name: hold_list
SELECT hold_id, reason, held_from, held_to, placed_by, placed_at, released_by, released_at
FROM legal_holds ORDER BY released_at IS NOT NULL, placed_at DESC, hold_id;

-- name: retention_read
-- As own_retention_days reads it: whatever else stands there does not count.
SELECT CASE WHEN settings ->> 'raw_log_retention_days' ~ '^[1-9][0-9]{0,3}$'
            THEN (settings ->> 'raw_log_retention_days')::integer END
FROM tenants;

-- name: retention_write
UPDATE tenants SET settings = CASE
    WHEN $1::integer IS NULL THEN (settings::jsonb - 'raw_log_retention_days')::json
    ELSE (settings::jsonb || jsonb_build_object('raw_log_retention_days', $1::integer))::json END;
