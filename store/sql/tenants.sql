-- name: tenant_insert
INSERT INTO tenants (tenant_id, name, settings) VALUES ($1, $2, $3);

-- name: tenant_head_insert
INSERT INTO journal_heads (tenant_id) VALUES ($1);

-- name: tenant_mark_insert
INSERT INTO detector_marks (tenant_id, seq, epoch) VALUES ($1, 0, 0);

-- name: tenant_list
SELECT tenant_id, name, created_at FROM tenants ORDER BY name;

-- name: tenant_by_name
SELECT tenant_id, name, created_at FROM tenants WHERE name = $1;

-- name: key_insert
INSERT INTO api_keys (tenant_id, key_id, label, digest, scopes, expires_at) VALUES ($1, $2, $3, $4, $5, $6);

-- name: key_list
SELECT key_id, label, scopes, created_at, expires_at, revoked_at FROM api_keys ORDER BY created_at, key_id;

-- name: key_revoke
-- A second revocation keeps the first one's time.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 RETURNING key_id;

-- name: key_lookup
SELECT tenant_id, key_id, digest, scopes, revoked_at IS NOT NULL AS revoked,
       coalesce(expires_at <= now(), false) AS expired
FROM api_keys WHERE digest = $1;

-- name: admin_key_insert
INSERT INTO admin_keys (key_id, label, digest) VALUES ($1, $2, $3);

-- name: admin_key_list
SELECT key_id, label, created_at, revoked_at FROM admin_keys ORDER BY created_at, key_id;

-- name: admin_key_revoke
UPDATE admin_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 RETURNING key_id;

-- name: admin_key_lookup
SELECT key_id, digest, revoked_at IS NOT NULL AS revoked FROM admin_keys WHERE digest = $1;
