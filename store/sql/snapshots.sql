-- name: snapshot_write
INSERT INTO detector_snapshots (tenant_id, seq, epoch, format, state, received) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant_id, seq) DO UPDATE SET epoch = EXCLUDED.epoch, format = EXCLUDED.format, state = EXCLUDED.state,
    taken_at = now();

-- name: snapshot_thin
-- Keeps the newest $1, and of the last $2 before the newest the first of each day, and a day more: the first day of
-- the horizon needs one before it. By time of receipt, which is the
-- journal's, so the choice does not depend on when it is made. Rows without that time are of before it was kept.
DELETE FROM detector_snapshots AS gone
USING (
    SELECT seq, row_number() OVER (ORDER BY seq DESC) AS place,
           row_number() OVER (PARTITION BY date_trunc('day', received, 'UTC') ORDER BY seq) AS of_day,
           received, max(received) OVER () AS newest
    FROM detector_snapshots
) AS ranked
WHERE gone.seq = ranked.seq AND ranked.place > $1
    AND (ranked.received IS NULL OR ranked.of_day > 1 OR ranked.received <= ranked.newest - $2::interval - interval '1 day');

-- name: snapshot_read
SELECT seq, format, state FROM detector_snapshots ORDER BY seq DESC LIMIT 1;

-- name: snapshot_at
-- The nearest at or before a seq.
SELECT seq, format, state FROM detector_snapshots WHERE seq <= $1 ORDER BY seq DESC LIMIT 1;
