-- name: ledger_statement_lock
-- One statement of a run at a time: a later one waits here and is judged against what the earlier one left.
SELECT pg_advisory_xact_lock(hashtextextended('ledger ' || $1::text || chr(31) || $2::text || chr(31) || $3::text, 0));

-- name: ledger_statement_read
SELECT accepted, stored, duplicate, in_flight, rejected, known_stored, known_elsewhere, known_seq, missing, excess, detail,
    raised_missing, raised_excess, stated_at
FROM ledger_statements WHERE agent = $1 AND run = $2;

-- name: ledger_books_read
-- The head is what a sender may take for seen once it has the answer.
SELECT heads.last_seq AS head, coalesce(books.stored_records, 0) AS stored, coalesce(books.elsewhere_records, 0) AS elsewhere,
    coalesce(books.last_seq, 0) AS last_seq, coalesce(books.stored_batches, 0) AS stored_batches,
    coalesce(books.duplicate_batches, 0) AS duplicate_batches, coalesce(books.duplicate_records, 0) AS duplicate
FROM journal_heads AS heads LEFT JOIN ingest_ledger AS books ON books.agent = $1 AND books.run = $2;

-- name: ledger_statement_write
INSERT INTO ledger_statements AS old (tenant_id, agent, run, accepted, stored, duplicate, in_flight, rejected,
    known_stored, known_elsewhere, known_seq, missing, excess, detail, stated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (tenant_id, agent, run) DO UPDATE SET accepted = EXCLUDED.accepted, stored = EXCLUDED.stored,
    duplicate = EXCLUDED.duplicate, in_flight = EXCLUDED.in_flight, rejected = EXCLUDED.rejected,
    known_stored = EXCLUDED.known_stored, known_elsewhere = EXCLUDED.known_elsewhere, known_seq = EXCLUDED.known_seq,
    missing = EXCLUDED.missing, excess = EXCLUDED.excess, detail = EXCLUDED.detail, stated_at = EXCLUDED.stated_at;

-- name: ledger_gap_raised
UPDATE ledger_statements SET raised_missing = $3, raised_excess = $4 WHERE agent = $1 AND run = $2;

-- name: ledger_rejections_add
INSERT INTO ingest_rejections AS books (tenant_id, agent, run, reason, retryable, requests, records, last_at)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[], $6::bigint[], $7::bigint[], $8::timestamptz[])
ON CONFLICT (tenant_id, agent, run, reason, retryable) DO UPDATE SET requests = books.requests + EXCLUDED.requests,
    records = books.records + EXCLUDED.records, last_at = greatest(books.last_at, EXCLUDED.last_at);

-- name: ledger_page
-- $1 one agent or null for all, $2 and $3 the last row of the page before, $4 rows. The three tables are merged in the
-- order of their keys, so that a page reads no more of them than it shows.
SELECT run.agent, run.run, books.stored_batches, books.stored_records, books.duplicate_batches, books.duplicate_records,
    books.elsewhere_records, books.first_at, books.last_at,
    said.accepted, said.stored, said.duplicate, said.in_flight, said.rejected, said.missing, said.excess, said.detail,
    said.stated_at,
    (SELECT json_agg(json_build_object('reason', refused.reason, 'retryable', refused.retryable,
        'requests', refused.requests, 'records', refused.records) ORDER BY refused.reason, refused.retryable)
     FROM ingest_rejections AS refused WHERE refused.agent = run.agent AND refused.run = run.run) AS refusals,
    (SELECT max(refused.last_at) FROM ingest_rejections AS refused
     WHERE refused.agent = run.agent AND refused.run = run.run) AS refused_at
FROM (
    SELECT agent, run FROM (
        SELECT agent, run FROM ingest_ledger WHERE ($1::text IS NULL OR agent = $1) AND (agent, run) > ($2, $3)
        UNION
        SELECT agent, run FROM ledger_statements WHERE ($1::text IS NULL OR agent = $1) AND (agent, run) > ($2, $3)
        UNION
        SELECT agent, run FROM ingest_rejections WHERE ($1::text IS NULL OR agent = $1) AND (agent, run) > ($2, $3)
    ) AS known
    ORDER BY agent, run
    LIMIT $4
) AS run
LEFT JOIN ingest_ledger AS books ON books.agent = run.agent AND books.run = run.run
LEFT JOIN ledger_statements AS said ON said.agent = run.agent AND said.run = run.run
ORDER BY run.agent, run.run;

-- name: ledger_gaps
-- Over all tenants, as the writer; the partial index has only the runs with a gap.
SELECT count(*) AS runs, coalesce(sum(missing), 0)::bigint AS missing, coalesce(sum(excess), 0)::bigint AS excess
FROM ledger_statements WHERE missing > 0 OR excess > 0;

-- name: ledger_forget
-- Runs of which nothing was heard since $1; what is left is what happened lately.
WITH silent AS (
    DELETE FROM ingest_ledger AS books WHERE last_at < $1
        AND NOT EXISTS (SELECT FROM ledger_statements AS said WHERE said.agent = books.agent AND said.run = books.run
                        AND said.stated_at >= $1)
    RETURNING 1
), unsaid AS (
    DELETE FROM ledger_statements AS said WHERE stated_at < $1
        AND NOT EXISTS (SELECT FROM ingest_ledger AS books WHERE books.agent = said.agent AND books.run = said.run
                        AND books.last_at >= $1)
    RETURNING 1
), unrefused AS (
    DELETE FROM ingest_rejections WHERE last_at < $1 RETURNING 1
)
SELECT (SELECT count(*) FROM silent) + (SELECT count(*) FROM unsaid) + (SELECT count(*) FROM unrefused);

-- name: batch_read
-- One batch that a sender sent, without its body; control rows are nobody's.
SELECT seq, received, agent, run, idempotency_key, digest, kind, encoding, records, octet_length(payload) AS bytes
FROM journal WHERE seq = $1 AND kind <> 'control';
