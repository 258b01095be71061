-- name: dead_letter_insert
INSERT INTO dead_letters (tenant_id, seq, position, stage, subject, error, count, positions, last_seq, hour, letter_id)
SELECT $1, seq, position, stage, subject, error, count, positions, seq, hour,
       md5(concat_ws(':', seq, position, stage, subject))::uuid
FROM unnest($2::bigint[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
            $9::timestamptz[]) AS given (seq, position, stage, subject, error, count, positions, hour)
ON CONFLICT (tenant_id, seq, position, stage, subject) DO UPDATE
-- The same record fails again at the same stage in a retry of another letter: open again, with the newer reason.
SET error = EXCLUDED.error, state = 'open';

-- name: dead_letter_fold
-- What is too much to keep one by one is counted in the one folded row of its hour, stage and subject.
INSERT INTO dead_letters AS stored (tenant_id, seq, position, stage, subject, error, count, last_seq, hour, folded,
    letter_id)
SELECT $1, seq, position, stage, subject, error, count, last_seq, hour, true,
       md5(concat_ws(':', seq, position, stage, subject))::uuid
FROM unnest($2::bigint[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
            $9::timestamptz[]) AS given (seq, position, stage, subject, error, count, last_seq, hour)
ON CONFLICT (tenant_id, hour, stage, subject) WHERE folded DO UPDATE
SET count = stored.count + EXCLUDED.count, last_seq = greatest(stored.last_seq, EXCLUDED.last_seq), state = 'open';

-- name: dead_letter_hours
-- How many letters each hour, stage and subject has already.
SELECT hour, stage, subject, count(*) AS letters FROM dead_letters
WHERE hour = ANY ($1::timestamptz[]) AND NOT folded
GROUP BY hour, stage, subject;

-- name: dead_letter_outcome
-- How a retry went, in the transaction of the judgement. A letter that was settled otherwise stays as it is. `attempts`
-- is part of the next retry's idempotency key.
UPDATE dead_letters AS parked SET
    attempts = parked.attempts + 1,
    state = CASE WHEN given.error = '' THEN 'retried' ELSE 'open' END,
    error = CASE WHEN given.error = '' THEN parked.error ELSE given.error END
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::text[]) AS given (seq, position, stage, subject,
    error)
WHERE parked.seq = given.seq AND parked.position = given.position AND parked.stage = given.stage
    AND parked.subject = given.subject AND parked.state IN ('open', 'retrying');

-- name: dead_letter_list
-- $1 state, $2 stage, $3 $4 the last row of the page before, $5 rows.
SELECT letter_id, seq, position, stage, subject, error, state, count, positions, folded, last_seq, hour, attempts,
    retry_seq, settled_by, settled_at, created_at
FROM dead_letters
WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR stage = $2) AND (created_at, letter_id) < ($3, $4)
ORDER BY created_at DESC, letter_id DESC
LIMIT $5;

-- name: dead_letter_read
SELECT letter_id, seq, position, stage, subject, error, state, count, positions, folded, last_seq, hour, attempts,
    retry_seq, settled_by, settled_at, created_at
FROM dead_letters WHERE letter_id = $1;

-- name: dead_letter_lock
SELECT letter_id, seq, position, stage, subject, error, state, count, positions, folded, last_seq, hour, attempts,
    retry_seq, settled_by, settled_at, created_at
FROM dead_letters WHERE letter_id = $1 FOR UPDATE;

-- name: dead_letter_settle
UPDATE dead_letters SET state = $2, settled_by = $3, settled_at = now(), retry_seq = coalesce($4, retry_seq)
WHERE letter_id = $1;

-- name: dead_letter_batch
SELECT seq, received, agent, idempotency_key, digest, kind, encoding, records, payload FROM journal WHERE seq = $1;
