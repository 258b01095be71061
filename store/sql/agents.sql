-- name: agent_token_insert
INSERT INTO agent_tokens (tenant_id, token_id, digest, note, agent, labels, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8)
RETURNING token_id, note, agent, labels::text, created_by, created_at, expires_at, spent_at, spent_by, revoked_at;

-- name: agent_token_list
SELECT token_id, note, agent, labels::text, created_by, created_at, expires_at, spent_at, spent_by, revoked_at
FROM agent_tokens ORDER BY created_at DESC, token_id LIMIT 1000;

-- name: agent_token_revoke
-- A token that was spent or revoked stays what it is.
UPDATE agent_tokens SET revoked_at = now() WHERE token_id = $1 AND revoked_at IS NULL AND spent_at IS NULL
RETURNING token_id;

-- name: agent_token_lookup
SELECT tenant_id, token_id FROM agent_tokens WHERE digest = $1;

-- name: agent_token_spend
-- Of two that come at once the second waits for the first's row, and then finds the token spent.
UPDATE agent_tokens SET spent_at = now(), spent_by = $2
WHERE token_id = $1 AND spent_at IS NULL AND revoked_at IS NULL AND expires_at > now() AND coalesce(agent, $2) = $2
RETURNING labels::text, created_by, agent IS NOT NULL AS named;

-- name: agent_enrol
-- A name that was revoked can be enrolled again, with new keys; one that is in use cannot.
INSERT INTO agents AS known (tenant_id, agent, labels, result_key, signing_key, version, platform, enrolled_by)
VALUES ($1, $2, $3::text::jsonb, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, agent) DO UPDATE
SET state = 'active', labels = EXCLUDED.labels, result_key = EXCLUDED.result_key, signing_key = EXCLUDED.signing_key,
    version = EXCLUDED.version, platform = EXCLUDED.platform, enrolled_by = EXCLUDED.enrolled_by, enrolled_at = now(),
    revoked_by = NULL, revoked_at = NULL, last_seen = NULL, status = 'unknown', health = '{}'
WHERE known.state = 'revoked'
RETURNING agent, state, labels::text, result_key, signing_key, version, platform, enrolled_by, enrolled_at, revoked_by,
          revoked_at, last_seen, status, health::text;

-- name: agent_get
SELECT agent, state, labels::text, result_key, signing_key, version, platform, enrolled_by, enrolled_at, revoked_by,
       revoked_at, last_seen, status, health::text
FROM agents WHERE agent = $1;

-- name: agent_page
-- By name, after $1; NULL filters let everything through.
SELECT agent, state, labels::text, result_key, signing_key, version, platform, enrolled_by, enrolled_at, revoked_by,
       revoked_at, last_seen, status, health::text
FROM agents
WHERE agent > $1 AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR labels @> $3::text::jsonb)
ORDER BY agent LIMIT $4;

-- name: agents_selected
-- Active agents that carry all the labels; the same order for one rollout, another for each.
SELECT agent FROM agents WHERE state = 'active' AND labels @> $1::text::jsonb
ORDER BY sha256(convert_to($2::text || agent, 'UTF8')) LIMIT $3;

-- name: agent_hold
SELECT state FROM agents WHERE agent = $1 FOR UPDATE;

-- name: agent_state
-- Whether the agent that a certificate names was revoked.
SELECT state FROM agents WHERE agent = $1;

-- name: agent_label
UPDATE agents SET labels = $2::text::jsonb WHERE agent = $1 RETURNING agent;

-- name: agent_revoke
UPDATE agents SET state = 'revoked', revoked_by = $2, revoked_at = now() WHERE agent = $1 AND state = 'active'
RETURNING agent;

-- name: agent_jobs_cancel
-- Nobody is left to do them, and who comes later under the same name is somebody else.
UPDATE jobs SET state = 'cancelled', reason = 'agent_revoked', ended_at = now(), lease = NULL, lease_until = NULL,
                held = false
WHERE agent = $1 AND state IN ('awaiting_approval', 'queued', 'leased', 'running')
RETURNING job_id;

-- name: agent_signing_keys
-- Held until the transaction ends: rows of a tenant are locked before its audit chain, everywhere.
SELECT key_id FROM signing_keys
WHERE agent = $1 AND revoked_at IS NULL AND coalesce(expires_at > now(), true) ORDER BY created_at, key_id FOR UPDATE;

-- name: agent_certificate_insert
INSERT INTO agent_certificates (tenant_id, serial, agent, job_id, begins, ends) VALUES ($1, $2, $3, $4, $5, $6);

-- name: agent_certificates_for_job
SELECT count(*) FROM agent_certificates WHERE agent = $1 AND job_id = $2;

-- name: agent_certificates_revoke
-- Those that are still valid; what has expired needs no revocation.
UPDATE agent_certificates SET revoked_at = now() WHERE agent = $1 AND revoked_at IS NULL AND ends > now()
RETURNING serial;

-- name: agent_certificate_list
SELECT serial, begins, ends, revoked_at FROM agent_certificates WHERE agent = $1
ORDER BY begins DESC, serial LIMIT 20;

-- name: agent_certificates_due
-- Active agents that are heard of and whose newest certificate is in the last third of its life, each with the key of the
-- job of week $3. Who was told in this week already is left out, or those that cannot do it would stand in the way of all
-- others.
SELECT agents.agent, 'renew:' || newest.serial || ':' || $3::text AS idempotency_key
FROM agents JOIN LATERAL (
    SELECT serial, begins, ends FROM agent_certificates AS known
    WHERE known.tenant_id = agents.tenant_id AND known.agent = agents.agent ORDER BY ends DESC LIMIT 1
) AS newest ON true
WHERE agents.state = 'active' AND agents.last_seen > $1::timestamptz - interval '1 day'
  AND newest.ends < $1::timestamptz + (newest.ends - newest.begins) / 3
  AND NOT EXISTS (SELECT FROM jobs WHERE jobs.tenant_id = agents.tenant_id AND jobs.agent = agents.agent
                  AND jobs.idempotency_key = 'renew:' || newest.serial || ':' || $3::text)
ORDER BY newest.ends LIMIT $2;

-- name: agent_health_write
-- What was heard of many agents in one statement; an older word never replaces a newer one, nor a revoked agent's.
UPDATE agents AS known
SET last_seen = said.seen, status = said.status, version = said.version, health = said.health::json
FROM (SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[])
          AS given (agent, seen, status, version, health) ORDER BY agent) AS said
WHERE known.agent = said.agent AND known.state = 'active' AND coalesce(known.last_seen < said.seen, true);

-- name: agents_by_status
-- Of all tenants. Who was not heard of since $1 is silent, whatever it said then.
SELECT CASE WHEN last_seen < $1 THEN 'silent' ELSE status END AS status, count(*) AS agents
FROM agents WHERE state = 'active' GROUP BY 1;

-- name: approval_types_read
SELECT settings -> 'approve_job_types' FROM tenants;

-- name: approval_types_write
UPDATE tenants SET settings = CASE
    WHEN $1::text IS NULL THEN (settings::jsonb - 'approve_job_types')::json
    ELSE (settings::jsonb || jsonb_build_object('approve_job_types', $1::text::jsonb))::json END;
