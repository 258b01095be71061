-- What is thrown away, when, and what forbids it. Every deletion of logs goes through a function of the owner, and every
-- one of these functions looks at the legal holds by itself, so that no caller can forget them.

-- Data that must not be deleted, by time of receipt. NULL on a side means without a bound on that side.
CREATE TABLE legal_holds (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    hold_id      uuid NOT NULL,
    reason       text NOT NULL CHECK (reason <> ''),
    held_from    timestamptz,
    held_to      timestamptz,
    placed_by    text NOT NULL,
    placed_at    timestamptz NOT NULL DEFAULT now(),
    released_by  text,
    released_at  timestamptz,
    PRIMARY KEY (tenant_id, hold_id),
    CHECK (held_from < held_to),
    CHECK ((released_by IS NULL) = (released_at IS NULL))
);

-- How far a tenant's journal has been pruned: batches before `before_seq` may be gone. The sums keep the tenant's totals
-- right after their rows have gone.
CREATE TABLE journal_pruned (
    tenant_id   uuid PRIMARY KEY REFERENCES tenants,
    before_seq  bigint NOT NULL,
    batches     bigint NOT NULL,
    records     bigint NOT NULL,
    pruned_at   timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['legal_holds', 'journal_pruned'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = '
            '(SELECT nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE (released_by, released_at) ON legal_holds TO trustsoc_app;
GRANT SELECT ON journal_pruned TO trustsoc_app;

-- A partition holds every tenant's records, so whoever drops one must know what each tenant needs.
CREATE POLICY read_by_the_owner ON legal_holds FOR SELECT TO trustsoc_owner USING (true);
CREATE POLICY read_by_the_owner ON tenants FOR SELECT TO trustsoc_owner USING (true);

-- A hold waits for deletions that began before it and did not see it: once it is placed, nothing of it goes.
CREATE FUNCTION legal_hold_waits() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('legal holds', 0));
    RETURN NEW;
END $$;
CREATE TRIGGER legal_hold_waits BEFORE INSERT ON legal_holds FOR EACH ROW EXECUTE FUNCTION legal_hold_waits();

-- The tenant's own retention of raw logs in days; NULL when it has none or what stands there is no number of 1 to 3650.
CREATE FUNCTION own_retention_days(settings json) RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public AS $$
    SELECT CASE WHEN settings ->> 'raw_log_retention_days' ~ '^[1-9][0-9]{0,3}$'
                 AND (settings ->> 'raw_log_retention_days')::integer <= 3650
                THEN (settings ->> 'raw_log_retention_days')::integer END
$$;

-- Drops the partitions of days before `before_day` that no tenant needs: none has a longer retention of its own, none
-- has a hold that touches the day. What is kept for one tenant is deleted for the others by raw_logs_prune.
CREATE OR REPLACE FUNCTION raw_logs_drop_partitions(before_day date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '2s' AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    partition text;
    dropped integer := 0;
BEGIN
    IF before_day > today THEN
        RAISE EXCEPTION 'only days that are over can be dropped, not those before %', before_day
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('raw_logs partitions', 0));
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('legal holds', 0));
    FOR partition IN
        SELECT days.relname
        FROM (SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = 'public.raw_logs'::regclass AND c.relname ~ '^raw_logs_\d{8}$') AS days
        WHERE days.day < before_day
          AND NOT EXISTS (SELECT FROM tenants AS t WHERE days.day >= today - own_retention_days(t.settings))
          AND NOT EXISTS (SELECT FROM legal_holds AS h WHERE h.released_at IS NULL
                          AND coalesce(h.held_from < (days.day + 1)::timestamp AT TIME ZONE 'UTC', true)
                          AND coalesce(h.held_to > days.day::timestamp AT TIME ZONE 'UTC', true))
    LOOP
        EXECUTE format('DROP TABLE public.%I', partition);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

-- Deletes at most `max_rows` records of the tenant of the transaction whose day is past the tenant's retention (its own,
-- else the days before `before_day`) and is touched by no hold of the tenant; returns how many.
CREATE FUNCTION raw_logs_prune(before_day date, max_rows integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '5s' AS $$
DECLARE
    me uuid := nullif(current_setting('app.tenant_id', true), '')::uuid;
    today date := (now() AT TIME ZONE 'UTC')::date;
    cutoff date;
    began timestamptz;
    ended timestamptz;
    gone integer;
    deleted integer := 0;
BEGIN
    IF me IS NULL OR before_day > today OR max_rows NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'needs a tenant, a day that is over and 1 to 100000 rows' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('legal holds', 0));
    SELECT coalesce(today - own_retention_days(t.settings), before_day) INTO cutoff FROM tenants AS t
    WHERE t.tenant_id = me;
    FOR began, ended IN
        SELECT days.day::timestamp AT TIME ZONE 'UTC', (days.day + 1)::timestamp AT TIME ZONE 'UTC'
        FROM (SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = 'public.raw_logs'::regclass AND c.relname ~ '^raw_logs_\d{8}$') AS days
        WHERE days.day < cutoff
        ORDER BY 1
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM legal_holds AS h WHERE h.tenant_id = me AND h.released_at IS NULL
                              AND coalesce(h.held_from < ended, true) AND coalesce(h.held_to > began, true));
        DELETE FROM raw_logs AS r
        USING (SELECT o.seq, o.position, o.received FROM raw_logs AS o
               WHERE o.tenant_id = me AND o.received >= began AND o.received < ended
               LIMIT max_rows - deleted) AS old
        WHERE r.tenant_id = me AND r.received >= began AND r.received < ended
          AND r.seq = old.seq AND r.position = old.position AND r.received = old.received;
        GET DIAGNOSTICS gone = ROW_COUNT;
        deleted := deleted + gone;
        EXIT WHEN deleted >= max_rows;
    END LOOP;
    RETURN deleted;
END $$;

-- Looks at the next `max_rows` batches of the tenant of the transaction after `after_seq` (and 64 MiB of payload), and
-- deletes those that nothing needs any more. A batch is needed
--   until it is judged, and so exploded, and the oldest snapshot that is kept is of it or of a later one;
--   until it was received before `horizon` (its sender may still repeat it);
--   while it is the newest control row of its type before that snapshot: a replay needs what was in force;
--   four times as long while something of it is parked: whoever mends it wants to judge it again;
--   while a hold covers its time of receipt.
-- `examined_to` is where to go on, NULL when what follows is too young or is needed.
CREATE FUNCTION journal_prune(horizon timestamptz, after_seq bigint, max_rows integer)
RETURNS TABLE (examined_to bigint, deleted_batches integer, deleted_records bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '5s' AS $$
DECLARE
    me uuid := nullif(current_setting('app.tenant_id', true), '')::uuid;
    parked_horizon timestamptz := now() - 4 * (now() - horizon);
    judged bigint;
    kept_snapshot bigint;
    youngest timestamptz;
    newest_deleted bigint;
BEGIN
    IF me IS NULL OR horizon > now() - interval '1 hour' OR max_rows NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'needs a tenant, a horizon at least an hour ago and 1 to 10000 rows'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('legal holds', 0));
    SELECT seq INTO judged FROM detector_marks WHERE tenant_id = me;
    SELECT min(seq) INTO kept_snapshot FROM detector_snapshots WHERE tenant_id = me;
    IF judged IS NULL OR kept_snapshot IS NULL THEN
        RETURN QUERY SELECT NULL::bigint, 0, 0::bigint;
        RETURN;
    END IF;
    kept_snapshot := least(kept_snapshot, judged);

    WITH next AS MATERIALIZED (
        SELECT j.seq, j.received, j.kind, j.records, octet_length(j.payload) AS bytes,
               CASE WHEN j.kind = 'control' THEN convert_from(j.payload, 'UTF8')::json ->> 'type' END AS control_type
        FROM journal AS j
        WHERE j.tenant_id = me AND j.seq > after_seq AND j.seq <= kept_snapshot
        ORDER BY j.seq LIMIT max_rows
    ), examined AS MATERIALIZED (
        SELECT * FROM (SELECT next.*, sum(next.bytes) OVER (ORDER BY next.seq) - next.bytes AS before FROM next) AS summed
        WHERE summed.before < 64 * 1048576
    ), doomed AS MATERIALIZED (
        SELECT e.seq FROM examined AS e
        WHERE e.received < horizon
          AND (e.control_type IS NULL OR e.control_type = 'tick' OR EXISTS (
                SELECT FROM journal AS newer
                WHERE newer.tenant_id = me AND newer.kind = 'control'
                  AND newer.seq > e.seq AND newer.seq <= kept_snapshot
                  AND convert_from(newer.payload, 'UTF8')::json ->> 'type' = e.control_type))
          AND (e.received < parked_horizon OR NOT EXISTS (
                SELECT FROM dead_letters AS d
                WHERE d.tenant_id = me AND d.seq = e.seq AND d.state IN ('open', 'retrying')))
          AND NOT EXISTS (
                SELECT FROM legal_holds AS h WHERE h.tenant_id = me AND h.released_at IS NULL
                  AND coalesce(h.held_from <= e.received, true) AND coalesce(h.held_to > e.received, true))
    ), deleted AS (
        DELETE FROM journal AS j USING doomed WHERE j.tenant_id = me AND j.seq = doomed.seq RETURNING j.seq, j.records
    )
    SELECT (SELECT max(e.seq) FROM examined AS e), (SELECT max(e.received) FROM examined AS e),
           count(*)::integer, coalesce(sum(d.records), 0)::bigint, max(d.seq)
    INTO examined_to, youngest, deleted_batches, deleted_records, newest_deleted
    FROM deleted AS d;

    IF deleted_batches > 0 THEN
        INSERT INTO journal_pruned AS known (tenant_id, before_seq, batches, records)
        VALUES (me, newest_deleted + 1, deleted_batches, deleted_records)
        ON CONFLICT (tenant_id) DO UPDATE SET before_seq = greatest(known.before_seq, EXCLUDED.before_seq),
            batches = known.batches + EXCLUDED.batches, records = known.records + EXCLUDED.records, pruned_at = now();
    END IF;
    IF youngest >= horizon THEN
        examined_to := NULL;
    END IF;
    RETURN NEXT;
END $$;

-- Deletes at most `max_rows` windows of the tenant of the transaction that began before `before`. Windows are on event
-- time, a hold on time of receipt: while a hold lasts, everything from a day before it on stays.
CREATE FUNCTION rollups_prune(span text, before timestamptz, max_rows integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '5s' AS $$
DECLARE
    me uuid := nullif(current_setting('app.tenant_id', true), '')::uuid;
    held_since timestamptz;
    deleted integer;
BEGIN
    IF me IS NULL OR span NOT IN ('1m', '5m', '1h') OR before > now() - interval '1 hour'
        OR max_rows NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'needs a tenant, a span of 1m, 5m or 1h, a time at least an hour ago and 1 to 100000 rows'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('legal holds', 0));
    SELECT min(coalesce(h.held_from, '-infinity')) INTO held_since FROM legal_holds AS h
    WHERE h.tenant_id = me AND h.released_at IS NULL;
    EXECUTE format('DELETE FROM %I WHERE tenant_id = $1 AND ctid = ANY (ARRAY('
        'SELECT ctid FROM %1$I WHERE tenant_id = $1 AND window_start < $2 ORDER BY window_start LIMIT $3))',
        'feature_rollup_' || span)
    USING me, least(before, held_since - interval '1 day'), max_rows;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
CREATE INDEX feature_rollup_1m_by_time ON feature_rollup_1m (tenant_id, window_start);
CREATE INDEX feature_rollup_5m_by_time ON feature_rollup_5m (tenant_id, window_start);
CREATE INDEX feature_rollup_1h_by_time ON feature_rollup_1h (tenant_id, window_start);

REVOKE ALL ON FUNCTION legal_hold_waits(), own_retention_days(json), raw_logs_prune(date, integer),
    journal_prune(timestamptz, bigint, integer), rollups_prune(text, timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION raw_logs_prune(date, integer), journal_prune(timestamptz, bigint, integer),
    rollups_prune(text, timestamptz, integer) TO trustsoc_app;

-- Deletions come in a few thousand rows every few minutes: at the default of a fifth of the table, the space of days
-- would wait to be used again. The payloads are in TOAST, which has settings of its own.
ALTER TABLE journal SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
    toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 10000);
ALTER TABLE feature_rollup_1m SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE feature_rollup_5m SET (autovacuum_vacuum_scale_factor = 0.05);
