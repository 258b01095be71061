-- name: enter_tenant
-- Every setting is local to the transaction (third argument), so a pooled connection carries nothing to its next user.
SELECT set_config('app.tenant_id', $1, true);

-- name: enter_tenant_as_detector
SELECT set_config('role', 'trustsoc_app', true), set_config('app.tenant_id', $1, true);

-- name: become_writer
SELECT set_config('role', 'trustsoc_writer', true);

-- name: become_app
SELECT set_config('role', 'trustsoc_app', true);

-- name: enter_key_lookup
-- The policies holder_of_the_key show the one row whose digest the caller can name.
SELECT set_config('app.key_digest', $1, true);

-- name: limit_statement_time
SELECT set_config('statement_timeout', $1, true);
