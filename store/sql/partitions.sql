-- name: partitions_make
SELECT raw_logs_make_partitions($1, $2);

-- name: partitions_drop
SELECT raw_logs_drop_partitions($1);
