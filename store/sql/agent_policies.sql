-- name: agent_policy_lock
-- Two who make a version of one policy at once make two versions.
SELECT pg_advisory_xact_lock(hashtextextended('agent policy ' || $1::text || ' ' || $2::text, 0));

-- name: agent_policy_insert
INSERT INTO agent_policies (tenant_id, name, version, digest, content, created_by)
SELECT $1, $2, coalesce(max(version), 0) + 1, $3, $4, $5 FROM agent_policies WHERE name = $2
RETURNING name, version, digest, octet_length(content) AS bytes, created_by, created_at;

-- name: agent_policy_newest
SELECT name, version, digest, octet_length(content) AS bytes, created_by, created_at
FROM agent_policies WHERE name = $1 ORDER BY version DESC LIMIT 1;

-- name: agent_policy_list
-- Every version, the newest first, without the text.
SELECT name, version, digest, octet_length(content) AS bytes, created_by, created_at
FROM agent_policies ORDER BY name, version DESC LIMIT 1000;

-- name: agent_policy_get
-- Version 0: the newest.
SELECT name, version, digest, octet_length(content) AS bytes, created_by, created_at, content
FROM agent_policies WHERE name = $1 AND (version = $2 OR $2 = 0) ORDER BY version DESC LIMIT 1;

-- name: agent_policy_for_job
-- Only what the agent was told to run: a policy may name what other hosts need not know.
SELECT content FROM agent_policies AS policies
WHERE digest = $1 AND EXISTS (
    SELECT FROM jobs WHERE jobs.agent = $2 AND jobs.type = 'UPDATE_CONFIG' AND jobs.attempt > 0
        AND jobs.args::json ->> 'digest' = policies.digest)
ORDER BY created_at LIMIT 1;
