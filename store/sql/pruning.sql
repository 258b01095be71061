-- name: journal_prune
-- See migration 0010: one bounded step. NULL in examined_to: nothing after it can go.
SELECT examined_to, deleted_batches, deleted_records FROM journal_prune($1, $2, $3);

-- name: journal_pruned
SELECT before_seq, batches, records FROM journal_pruned;

-- name: raw_logs_prune
SELECT raw_logs_prune($1, $2);

-- name: rollups_prune
SELECT rollups_prune($1, $2, $3);
