-- name: signing_key_insert
INSERT INTO signing_keys (tenant_id, key_id, agent, master, not_before, expires_at)
VALUES ($1, $2, $3, $4, coalesce($5, now()), $6)
RETURNING key_id, agent, master, created_at, not_before, expires_at, revoked_at;

-- name: signing_key_list
SELECT key_id, agent, master, created_at, not_before, expires_at, revoked_at FROM signing_keys
ORDER BY agent, created_at, key_id;

-- name: signing_key_get
SELECT key_id, agent, master, created_at, not_before, expires_at, revoked_at FROM signing_keys WHERE key_id = $1;

-- name: signing_keys_retire
-- The keys of an agent that would outlive the overlap end with it; one that ends earlier keeps its own end.
UPDATE signing_keys SET expires_at = $2
WHERE agent = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)
RETURNING key_id;

-- name: signing_key_revoke
-- A second revocation keeps the first one's time.
UPDATE signing_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 RETURNING key_id;

-- name: nonces_spend
-- What comes back was spent here first. In one order everywhere, so that two groups can wait for each other one way only.
INSERT INTO signing_nonces (tenant_id, key_id, nonce, expires)
SELECT tenant_id, key_id, nonce, expires
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) AS given (tenant_id, key_id, nonce, expires)
ORDER BY tenant_id, key_id, nonce
ON CONFLICT DO NOTHING
RETURNING tenant_id, key_id, nonce;

-- name: nonces_sweep
-- At most $2 rows, so that the sweep never holds many rows or runs long.
DELETE FROM signing_nonces AS spent USING (
    SELECT tenant_id, key_id, nonce FROM signing_nonces WHERE expires < $1 ORDER BY expires LIMIT $2
) AS past
WHERE (spent.tenant_id, spent.key_id, spent.nonce) = (past.tenant_id, past.key_id, past.nonce);
