-- name: become_read_only
-- Whatever the code says from here on, the server refuses to write.
SELECT set_config('transaction_read_only', 'on', true);

-- name: replay_lock
-- One replay a tenant, over all replicas; the connection's end frees it.
SELECT pg_try_advisory_lock(hashtextextended('replay:' || $1::text, 0));

-- name: replay_bounds
SELECT coalesce((SELECT max(seq) FROM detector_marks), 0) AS mark,
       coalesce((SELECT max(last_seq) FROM journal_heads), 0) AS last_seq;

-- name: replay_stored_events
-- In the order of events_by_seq; $2 to $4 are the last row of the page before. `repeats` are those up to batch `judged`.
SELECT event_id, seq, position, time, end_time, kind, detector, rule_id, rule_version, title, description, severity,
    score, activity, outcome, techniques, tactics, entities, evidence, matched, attributes,
    coalesce((SELECT f.repeats FROM event_folds AS f WHERE f.event_id = e.event_id), 0) AS repeats,
    coalesce((SELECT max(m.seq) FROM detector_marks AS m), 0) AS judged
FROM events AS e
WHERE seq <= $1 AND (seq, position, event_id) > ($2, $3, $4)
ORDER BY seq, position, event_id
LIMIT $5;

-- name: replay_retried_later
-- Batches of which something was judged again after the range, so that its events are not this range's to say.
SELECT DISTINCT seq FROM dead_letters WHERE seq BETWEEN $1 AND $2 AND retry_seq > $2;

-- name: batch_received_from
-- The first batch that was received at or after a time.
SELECT seq, received FROM journal WHERE received >= $1 ORDER BY seq LIMIT 1;

-- name: batch_received_before
SELECT seq, received FROM journal WHERE received < $1 ORDER BY seq DESC LIMIT 1;

-- name: replayable_from
-- From which batch on a replay can begin: the first of the journal while it is whole, else after the oldest snapshot.
SELECT CASE WHEN EXISTS (SELECT FROM journal WHERE seq = 1) THEN 1
            ELSE coalesce((SELECT min(seq) + 1 FROM detector_snapshots), 1) END;

-- name: batch_received
SELECT received FROM journal WHERE seq = $1;
