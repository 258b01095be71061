-- name: advisory_lease
-- Due work of all tenants, oldest first. Moving not_before is the lease: a worker that dies loses it by time alone.
UPDATE advisory_queue AS queue SET not_before = $3, attempts = queue.attempts + 1
FROM (
    SELECT tenant_id, incident_id FROM advisory_queue WHERE not_before <= $1
    ORDER BY not_before LIMIT $2 FOR UPDATE SKIP LOCKED
) AS due
WHERE queue.tenant_id = due.tenant_id AND queue.incident_id = due.incident_id
RETURNING queue.tenant_id, queue.incident_id, queue.revision, queue.attempts;

-- name: advisory_finish
-- A revision that came in meanwhile stays in the queue.
DELETE FROM advisory_queue WHERE incident_id = $1 AND revision <= $2 RETURNING revision;

-- name: advisory_postpone
UPDATE advisory_queue SET not_before = $3, last_error = $4 WHERE incident_id = $1 AND revision = $2 RETURNING revision;

-- name: advisory_lock_incident
-- One writer of an incident's versions at a time, so that version numbers have no gaps.
SELECT incident_id FROM incidents WHERE incident_id = $1 FOR NO KEY UPDATE;

-- name: advisory_insert
INSERT INTO advisories (tenant_id, incident_id, version, revision, generator, fallback_reason, body)
SELECT $1, $2, coalesce(max(version), 0) + 1, $3, $4, $5, $6 FROM advisories WHERE incident_id = $2
RETURNING version;

-- name: advisory_latest
SELECT version, revision, generator, fallback_reason, body, created_at
FROM advisories WHERE incident_id = $1 ORDER BY version DESC LIMIT 1;
