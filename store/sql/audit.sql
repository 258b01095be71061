-- name: audit_append
-- position, at, previous and hash are set by the trigger audit_chain, under a lock of the tenant's chain.
INSERT INTO audit_log (tenant_id, position, actor, action, object, detail, previous, hash)
VALUES ($1, 0, $2, $3, $4, $5, '', '') RETURNING position;

-- name: audit_read
SELECT tenant_id, position, at, actor, action, object, detail, previous, hash
FROM audit_log WHERE position > $1 ORDER BY position LIMIT $2;
