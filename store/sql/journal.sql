-- name: journal_append
-- See migrations 0003 and 0008: one group of batches, one row of verdict each.
SELECT place, appended_seq, verdict, stored_records, elsewhere
FROM journal_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ORDER BY place;

-- name: journal_read
-- Batches after a seq, at most $2 rows and about $3 bytes of payload; always at least one when there is one.
-- The length of a payload is read from its pointer, without fetching it.
SELECT seq, received, agent, idempotency_key, digest, kind, encoding, records, payload
FROM (
    SELECT batch.*, sum(octet_length(payload)) OVER (ORDER BY seq) - octet_length(payload) AS bytes_before
    FROM (SELECT * FROM journal WHERE seq > $1 ORDER BY seq LIMIT $2) AS batch
) AS counted
WHERE bytes_before < $3
ORDER BY seq;

-- name: journal_heads
SELECT tenant_id, last_seq FROM journal_heads;

-- name: journal_behind
-- Tenants whose journal goes further than it has been judged.
SELECT heads.tenant_id, coalesce(marks.seq, 0) AS mark, heads.last_seq
FROM journal_heads AS heads
LEFT JOIN detector_marks AS marks ON marks.tenant_id = heads.tenant_id
WHERE heads.last_seq > coalesce(marks.seq, 0)
ORDER BY heads.tenant_id;
