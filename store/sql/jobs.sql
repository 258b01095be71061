-- name: job_insert
-- Nothing comes back when the agent has a job of this idempotency key already.
INSERT INTO jobs (tenant_id, job_id, agent, type, args, dry_run, idempotency_key, state, rollout_id, wave, held,
                  created_by, issued_at, not_before, expires_at, max_attempts)
SELECT $1, given.job_id, given.agent, $2, $3, $4, given.idempotency_key, $5, $6, given.wave, $7, $8, $9, $10, $11, $12
FROM unnest($13::uuid[], $14::text[], $15::text[], $16::integer[]) AS given (job_id, agent, idempotency_key, wave)
ON CONFLICT (tenant_id, agent, idempotency_key) DO NOTHING
RETURNING job_id;

-- name: job_by_idempotency_key
SELECT job_id, agent, type, args, dry_run, idempotency_key, state, rollout_id, wave, held, created_by, created_at,
       approved_by, approved_at, issued_at, not_before, expires_at, max_attempts, attempt, lease, lease_until, key_id,
       reason, detail, started_at, ended_at
FROM jobs WHERE agent = $1 AND idempotency_key = $2;

-- name: job_get
SELECT job_id, agent, type, args, dry_run, idempotency_key, state, rollout_id, wave, held, created_by, created_at,
       approved_by, approved_at, issued_at, not_before, expires_at, max_attempts, attempt, lease, lease_until, key_id,
       reason, detail, started_at, ended_at
FROM jobs WHERE job_id = $1;

-- name: job_hold
-- The row for a change: whoever else wants to change it waits.
SELECT job_id, agent, type, args, dry_run, idempotency_key, state, rollout_id, wave, held, created_by, created_at,
       approved_by, approved_at, issued_at, not_before, expires_at, max_attempts, attempt, lease, lease_until, key_id,
       reason, detail, started_at, ended_at
FROM jobs WHERE job_id = $1 FOR UPDATE;

-- name: job_evidence
-- What was handed out, what came back and what was printed, as it was signed.
SELECT jobs.envelope, jobs.signature, jobs.result, jobs.result_signature, coalesce(printed.data, '') AS output,
       coalesce(printed.truncated, false) AS output_truncated, files.digest AS file_digest, files.size AS file_size
FROM jobs LEFT JOIN job_outputs AS printed USING (tenant_id, job_id)
          LEFT JOIN job_files AS files ON files.tenant_id = jobs.tenant_id AND files.job_id = jobs.job_id
              AND files.complete
WHERE jobs.job_id = $1;

-- name: job_page
-- Newest first, before (created_at, job_id) = ($1, $2); NULL filters let everything through.
SELECT job_id, agent, type, args, dry_run, idempotency_key, state, rollout_id, wave, held, created_by, created_at,
       approved_by, approved_at, issued_at, not_before, expires_at, max_attempts, attempt, lease, lease_until, key_id,
       reason, detail, started_at, ended_at
FROM jobs
WHERE (created_at, job_id) < ($1, $2) AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR agent = $4)
  AND ($5::text IS NULL OR type = $5) AND ($6::uuid IS NULL OR rollout_id = $6)
ORDER BY created_at DESC, job_id DESC LIMIT $7;

-- name: job_approve
UPDATE jobs SET state = 'queued', approved_by = $2, approved_at = now() WHERE job_id = $1 AND state = 'awaiting_approval'
RETURNING job_id;

-- name: job_cancel
UPDATE jobs SET state = 'cancelled', reason = $2, ended_at = now(), lease = NULL, lease_until = NULL, held = false
WHERE job_id = $1 RETURNING job_id;

-- name: agent_standing
-- Whether the agent may ask at all, and when something may be there for it. The function enters the tenant by itself, so
-- that a poll asks one question, outside of any transaction.
SELECT state, result_key, next_at FROM agent_standing($1, $2);

-- name: jobs_lease
-- What is queued, and what was handed out to somebody whose lease has ended. A row that another pull looks at is skipped,
-- so that a job has one holder. A rollout that was stopped gives nothing out again.
WITH due AS (
    SELECT tenant_id, job_id FROM jobs
    WHERE agent = $1 AND NOT held AND attempt < max_attempts AND not_before <= clock_timestamp() AND expires_at > now()
      AND (state = 'queued' OR (state IN ('leased', 'running') AND lease_until <= clock_timestamp()))
      AND NOT EXISTS (SELECT FROM rollouts WHERE rollouts.rollout_id = jobs.rollout_id
                      AND rollouts.state IN ('stopped', 'cancelled'))
    ORDER BY created_at, job_id LIMIT $2
    FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET state = 'leased', attempt = jobs.attempt + 1, lease = gen_random_uuid(),
                lease_until = clock_timestamp() + make_interval(secs => $3), reason = '', detail = ''
FROM due WHERE jobs.tenant_id = due.tenant_id AND jobs.job_id = due.job_id
RETURNING jobs.job_id, jobs.agent, jobs.type, jobs.args, jobs.dry_run, jobs.idempotency_key, jobs.issued_at,
          jobs.not_before, jobs.expires_at, jobs.attempt, jobs.lease, jobs.lease_until, jobs.created_at;

-- name: job_signed
UPDATE jobs SET key_id = $2, envelope = $3, signature = $4 WHERE job_id = $1;

-- name: job_delivered
-- The row a result is about, with what decides whether it counts.
SELECT job_id, type, state, attempt, lease, coalesce(lease_until > now(), false) AS holds, result IS NOT NULL AS answered,
       rollout_id
FROM jobs WHERE job_id = $1 AND agent = $2 FOR UPDATE;

-- name: job_running
-- Times are the server's; what the agent's clock said is in the signed result.
UPDATE jobs SET state = 'running', started_at = coalesce(started_at, now()),
                lease_until = now() + make_interval(secs => $2), detail = $3
WHERE job_id = $1;

-- name: job_finish
UPDATE jobs SET state = $2, reason = $3, detail = $4, result = $5, result_signature = $6, ended_at = now(),
                started_at = coalesce(started_at, now()), lease = NULL, lease_until = NULL, held = false
WHERE job_id = $1;

-- name: job_output_extend
UPDATE jobs SET lease_until = now() + make_interval(secs => $2) WHERE job_id = $1;

-- name: job_output_read
SELECT data, truncated FROM job_outputs WHERE job_id = $1;

-- name: job_output_write
INSERT INTO job_outputs (tenant_id, job_id, data, truncated) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, job_id) DO UPDATE SET data = EXCLUDED.data, truncated = EXCLUDED.truncated;

-- name: job_file_drop
-- What came of it goes with it.
DELETE FROM job_files WHERE job_id = $1;

-- name: job_file_begin
INSERT INTO job_files (tenant_id, job_id, lease, path, digest, size) VALUES ($1, $2, $3, $4, $5, $6);

-- name: job_file_state
SELECT lease, path, digest, size, received, complete FROM job_files WHERE job_id = $1 FOR UPDATE;

-- name: job_file_chunk
INSERT INTO job_file_chunks (tenant_id, job_id, start, content) VALUES ($1, $2, $3, $4);

-- name: job_file_received
UPDATE job_files SET received = $2, complete = $3 WHERE job_id = $1;

-- name: job_file_chunks
SELECT content FROM job_file_chunks WHERE job_id = $1 ORDER BY start;

-- name: job_files_forget
DELETE FROM job_files WHERE received_at < $1;

-- name: tenants_with_old_files
SELECT DISTINCT tenant_id FROM job_files WHERE received_at < $1;

-- name: tenants_with_due_jobs
-- For the sweep: whose jobs have expired, whose leases have ended, whose rollouts run.
SELECT tenant_id FROM jobs WHERE state IN ('awaiting_approval', 'queued') AND NOT held AND expires_at <= $1
UNION SELECT tenant_id FROM jobs WHERE state IN ('leased', 'running') AND lease_until <= $1
UNION SELECT tenant_id FROM rollouts WHERE state IN ('awaiting_approval', 'running');

-- name: jobs_by_state
-- Of all tenants: those that are not over.
SELECT state, count(*) AS jobs FROM jobs WHERE state IN ('awaiting_approval', 'queued', 'leased', 'running') GROUP BY state;

-- name: jobs_expire
-- Nobody has begun them in their time. What was handed out before and came back is not known not to have run. At most $1:
-- each has its row in the audit chain, which the tenant's other changes wait for. Who is at a job now is left alone.
WITH late AS (
    SELECT tenant_id, job_id FROM jobs
    WHERE state IN ('awaiting_approval', 'queued') AND NOT held AND expires_at <= now()
    ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET state = CASE WHEN attempt > 0 THEN 'failed' ELSE 'expired' END,
                reason = CASE WHEN attempt > 0 THEN 'lease_lost' ELSE 'expired' END, ended_at = now()
FROM late WHERE jobs.tenant_id = late.tenant_id AND jobs.job_id = late.job_id
RETURNING jobs.job_id, jobs.state, jobs.attempt;

-- name: jobs_give_back
-- A lease that has ended: the job is for whoever asks next, until its attempts or its time are used up. At most $1.
WITH lost AS (
    SELECT tenant_id, job_id FROM jobs WHERE state IN ('leased', 'running') AND lease_until <= now()
    ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE jobs SET state = CASE WHEN attempt >= max_attempts OR expires_at <= now() THEN 'failed' ELSE 'queued' END,
                ended_at = CASE WHEN attempt >= max_attempts OR expires_at <= now() THEN now() END,
                reason = 'lease_lost', lease = NULL, lease_until = NULL
FROM lost WHERE jobs.tenant_id = lost.tenant_id AND jobs.job_id = lost.job_id
RETURNING jobs.job_id, jobs.state, jobs.attempt;

-- name: rollout_insert
INSERT INTO rollouts (tenant_id, rollout_id, state, type, labels, waves, gate_s, most_failures, lifetime_s, agents,
                      created_by)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8, $9, $10, $11)
RETURNING rollout_id, state, type, labels::text, waves, gate_s, most_failures, lifetime_s, agents, wave, failures, detail,
          created_by, created_at, approved_by, changed_at;

-- name: rollout_get
SELECT rollout_id, state, type, labels::text, waves, gate_s, most_failures, lifetime_s, agents, wave, failures, detail,
       created_by, created_at, approved_by, changed_at
FROM rollouts WHERE rollout_id = $1;

-- name: rollout_hold
SELECT rollout_id, state, type, labels::text, waves, gate_s, most_failures, lifetime_s, agents, wave, failures, detail,
       created_by, created_at, approved_by, changed_at
FROM rollouts WHERE rollout_id = $1 FOR UPDATE;

-- name: rollout_page
SELECT rollout_id, state, type, labels::text, waves, gate_s, most_failures, lifetime_s, agents, wave, failures, detail,
       created_by, created_at, approved_by, changed_at
FROM rollouts WHERE (created_at, rollout_id) < ($1, $2) ORDER BY created_at DESC, rollout_id DESC LIMIT $3;

-- name: rollouts_open
SELECT rollout_id FROM rollouts WHERE state IN ('awaiting_approval', 'running') ORDER BY created_at, rollout_id;

-- name: rollout_write
UPDATE rollouts SET state = $2, wave = $3, failures = $4, detail = $5, changed_at = now() WHERE rollout_id = $1;

-- name: rollout_approve
UPDATE rollouts SET approved_by = $2 WHERE rollout_id = $1;

-- name: rollout_release
-- The next wave: its time begins now.
UPDATE jobs SET held = false, state = 'queued', approved_by = $3, approved_at = CASE WHEN $3::text IS NOT NULL THEN now() END,
                issued_at = $4, not_before = $4, expires_at = $4::timestamptz + make_interval(secs => $5)
WHERE rollout_id = $1 AND wave = $2 AND held AND state IN ('queued', 'awaiting_approval');

-- name: rollout_cancel_jobs
-- What no agent holds; what one holds cannot be called back.
UPDATE jobs SET state = 'cancelled', reason = $2, ended_at = now(), held = false
WHERE rollout_id = $1 AND state IN ('awaiting_approval', 'queued')
RETURNING job_id;

-- name: rollout_counts
SELECT wave, state, count(*) AS jobs FROM jobs WHERE rollout_id = $1 GROUP BY wave, state ORDER BY wave, state;

-- name: rollout_progress
-- Of the waves that are out: what is open, what failed, whose agent is ill or silent after its job succeeded, and when
-- the last one ended. Silent is who was not heard of since its job ended, and $3 seconds have passed. Of an agent that
-- was revoked nothing more is expected.
SELECT count(*) FILTER (WHERE jobs.wave = $2 AND jobs.state IN ('queued', 'leased', 'running')) AS open,
       count(*) FILTER (WHERE jobs.state IN ('failed', 'rejected', 'expired')) AS failed,
       count(*) FILTER (WHERE jobs.state = 'succeeded' AND agents.state = 'active' AND (
           agents.status = 'failing'
           OR (agents.health #>> '{config,state}' = 'failed')
           OR (coalesce(agents.last_seen <= jobs.ended_at, true) AND jobs.ended_at < now() - make_interval(secs => $3))
       )) AS ill,
       max(jobs.ended_at) FILTER (WHERE jobs.wave = $2) AS ended_at
FROM jobs JOIN agents USING (tenant_id, agent)
WHERE jobs.rollout_id = $1 AND jobs.wave BETWEEN 1 AND $2;
