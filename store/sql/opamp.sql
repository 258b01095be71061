-- name: opamp_agent_hold
-- One message of an instance at a time. NO KEY: whoever makes a job for it meanwhile need not wait.
SELECT state, signing_key, enrolled_by, health::text FROM agents WHERE agent = $1 FOR NO KEY UPDATE;

-- name: opamp_agent_insert
-- No signing key is what tells these agents from enrolled ones. Nothing comes back when the name is there already.
INSERT INTO agents (tenant_id, agent, labels, result_key, signing_key, version, platform, enrolled_by)
VALUES ($1, $2, '{}', $3, '', '', '', $4)
ON CONFLICT (tenant_id, agent) DO NOTHING
RETURNING agent;

-- name: opamp_agents_count
SELECT count(*) FROM agents WHERE signing_key = '' AND state = 'active';

-- name: opamp_agent_write
UPDATE agents SET last_seen = $2, status = $3, version = $4, platform = $5, health = $6::text::json WHERE agent = $1;

-- name: opamp_held_job
-- The configuration that the instance was offered and that is not answered yet.
SELECT job_id, args, attempt, lease FROM jobs
WHERE agent = $1 AND type = 'UPDATE_CONFIG' AND state IN ('leased', 'running') AND lease_until > now()
ORDER BY created_at, job_id LIMIT 1;

-- name: opamp_named_job
-- The job that a reported hash names. Without a lease (it lapsed) the last attempt may still be answered.
SELECT job_id, args, attempt, coalesce(lease, job_id) AS lease FROM jobs
WHERE job_id = $1 AND agent = $2 AND type = 'UPDATE_CONFIG' AND attempt > 0 AND result IS NULL
  AND state IN ('queued', 'leased', 'running', 'failed');
