-- name: mark_lock
SELECT seq FROM detector_marks FOR UPDATE;

-- name: mark_read
SELECT seq FROM detector_marks;

-- name: mark_move
INSERT INTO detector_marks (tenant_id, seq, epoch, open_windows, last_received) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id) DO UPDATE SET seq = EXCLUDED.seq, epoch = EXCLUDED.epoch,
    open_windows = EXCLUDED.open_windows, last_received = EXCLUDED.last_received, updated_at = now();

-- name: event_insert
INSERT INTO events (tenant_id, event_id, seq, position, time, end_time, kind, detector, rule_id, rule_version, title,
    description, severity, score, activity, outcome, techniques, tactics, entities, evidence, matched, attributes)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
ON CONFLICT DO NOTHING;

-- name: event_fold_upsert
-- Counts and times are those of all repeats so far; records and samples are the ones that are new.
INSERT INTO event_folds AS stored (tenant_id, event_id, rule_id, repeats, first_time, last_time, records, samples)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, event_id) DO UPDATE SET repeats = EXCLUDED.repeats, first_time = EXCLUDED.first_time,
    last_time = EXCLUDED.last_time, records = stored.records || EXCLUDED.records,
    samples = stored.samples || EXCLUDED.samples
WHERE stored.repeats < EXCLUDED.repeats;

-- name: rollup_upsert_1m
-- A late correction of a window is the whole window again, so the newer replaces the older.
INSERT INTO feature_rollup_1m (tenant_id, entity_kind, entity, window_start, features)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::jsonb[])
ON CONFLICT (tenant_id, entity_kind, entity, window_start) DO UPDATE SET features = EXCLUDED.features;

-- name: rollup_upsert_5m
INSERT INTO feature_rollup_5m (tenant_id, entity_kind, entity, window_start, features)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::jsonb[])
ON CONFLICT (tenant_id, entity_kind, entity, window_start) DO UPDATE SET features = EXCLUDED.features;

-- name: rollup_upsert_1h
INSERT INTO feature_rollup_1h (tenant_id, entity_kind, entity, window_start, features)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::jsonb[])
ON CONFLICT (tenant_id, entity_kind, entity, window_start) DO UPDATE SET features = EXCLUDED.features;

-- name: incident_upsert
-- The newer revision wins; `state` and `closed_at` belong to people and are never touched here.
INSERT INTO incidents AS stored (tenant_id, incident_id, revision, title, severity, score, first_time, last_time,
    created_seq, updated_seq, event_count, entities, techniques, tactics, predecessor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (tenant_id, incident_id) DO UPDATE SET revision = EXCLUDED.revision, title = EXCLUDED.title,
    severity = EXCLUDED.severity, score = EXCLUDED.score, first_time = EXCLUDED.first_time,
    last_time = EXCLUDED.last_time, updated_seq = EXCLUDED.updated_seq, event_count = EXCLUDED.event_count,
    entities = EXCLUDED.entities, techniques = EXCLUDED.techniques, tactics = EXCLUDED.tactics,
    predecessor = EXCLUDED.predecessor
WHERE stored.revision < EXCLUDED.revision;

-- name: incident_member_insert
INSERT INTO incident_events (tenant_id, incident_id, event_id, position, time, stage, reason)
SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::integer[], $5::timestamptz[], $6::text[], $7::text[])
ON CONFLICT DO NOTHING;

-- name: advisory_enqueue
-- A newer revision starts afresh: earlier failures were about an incident that has changed since.
INSERT INTO advisory_queue AS waiting (tenant_id, incident_id, revision)
SELECT $1, * FROM unnest($2::uuid[], $3::integer[])
ON CONFLICT (tenant_id, incident_id) DO UPDATE
SET revision = EXCLUDED.revision, attempts = 0, not_before = now(), last_error = NULL
WHERE waiting.revision < EXCLUDED.revision;
