-- The first schema. Runs as the owner, in one transaction; roles are made beforehand by store/sql/bootstrap.sql.
-- Every tenant table has row-level security enabled and forced: the app role sees the rows of app.tenant_id only.

-- A tenant is the customer or unit whose data must never meet another's.
CREATE TABLE tenants (
    tenant_id   uuid PRIMARY KEY,
    name        text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    settings    json NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Keys are random 256-bit secrets, so a plain SHA-256 is enough; the secret itself is shown once and never stored.
CREATE TABLE api_keys (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    key_id      text PRIMARY KEY,
    label       text NOT NULL,
    digest      bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    scopes      text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['ingest', 'read', 'write']),
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);

-- Keys of the installation's administrators: they make tenants and keys, and read no tenant's data.
CREATE TABLE admin_keys (
    key_id      text PRIMARY KEY,
    label       text NOT NULL,
    digest      bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);

-- The last sequence number given out per tenant. Its row lock orders commits, so seq is gapless in commit order.
CREATE TABLE journal_heads (
    tenant_id   uuid PRIMARY KEY REFERENCES tenants,
    last_seq    bigint NOT NULL DEFAULT 0
);

-- One row a batch, committed before the sender is answered: the unit of durability, idempotency and replay.
CREATE TABLE journal (
    tenant_id        uuid NOT NULL,
    seq              bigint NOT NULL,
    received         timestamptz NOT NULL,
    agent            text NOT NULL,
    idempotency_key  bytea NOT NULL,
    digest           bytea NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('otlp_protobuf', 'otlp_json', 'control')),
    encoding         text NOT NULL CHECK (encoding IN ('identity', 'gzip')),
    records          integer NOT NULL,
    payload          bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (tenant_id, seq),
    UNIQUE (tenant_id, agent, idempotency_key)
);

-- What analysts search: the exploded records. `record` is canonical JSON kept byte for byte (type json, not jsonb), so
-- that its SHA-256 can be recomputed. Partitioned by receive time, because event time is the sender's to choose.
CREATE TABLE raw_logs (
    tenant_id   uuid NOT NULL,
    seq         bigint NOT NULL,
    position    integer NOT NULL,
    received    timestamptz NOT NULL,
    time        timestamptz NOT NULL,
    time_mark   text NOT NULL,
    severity    smallint NOT NULL,
    logsource   text NOT NULL,
    entities    text[] NOT NULL,
    message     text NOT NULL,
    record      json NOT NULL,
    PRIMARY KEY (tenant_id, seq, position, received)
) PARTITION BY RANGE (received);
CREATE INDEX raw_logs_by_time ON raw_logs (tenant_id, time DESC, seq DESC, position DESC);

-- One thing a detector said.
CREATE TABLE events (
    tenant_id     uuid NOT NULL,
    event_id      uuid NOT NULL,
    seq           bigint NOT NULL,
    position      integer NOT NULL,
    time          timestamptz NOT NULL,
    end_time      timestamptz NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('rule', 'correlation', 'anomaly', 'ioc', 'yara', 'hybrid')),
    detector      text NOT NULL,
    rule_id       text NOT NULL,
    rule_version  text NOT NULL,
    title         text NOT NULL,
    description   text NOT NULL,
    severity      text NOT NULL CHECK (severity IN ('informational', 'low', 'medium', 'high', 'critical')),
    score         real NOT NULL CHECK (score BETWEEN 0 AND 100),
    activity      text NOT NULL,
    outcome       text NOT NULL,
    techniques    text[] NOT NULL,
    tactics       text[] NOT NULL,
    entities      json NOT NULL,
    evidence      json NOT NULL,
    matched       json NOT NULL,
    attributes    json NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);
CREATE INDEX events_by_time ON events (tenant_id, time DESC, event_id DESC);
CREATE INDEX events_by_seq ON events (tenant_id, seq, position);

-- Counts and distinct counts of a window for an entity, on event time; closed windows only.
CREATE TABLE feature_rollup_1m (
    tenant_id    uuid NOT NULL,
    entity_kind  text NOT NULL,
    entity       text NOT NULL,
    window_start timestamptz NOT NULL,
    features     jsonb NOT NULL,
    PRIMARY KEY (tenant_id, entity_kind, entity, window_start)
);
CREATE TABLE feature_rollup_5m (LIKE feature_rollup_1m INCLUDING ALL);
CREATE TABLE feature_rollup_1h (LIKE feature_rollup_1m INCLUDING ALL);

-- Detection events that belong together.
CREATE TABLE incidents (
    tenant_id    uuid NOT NULL,
    incident_id  uuid NOT NULL,
    revision     integer NOT NULL,
    state        text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'acknowledged', 'closed')),
    title        text NOT NULL,
    severity     text NOT NULL CHECK (severity IN ('informational', 'low', 'medium', 'high', 'critical')),
    score        real NOT NULL,
    first_time   timestamptz NOT NULL,
    last_time    timestamptz NOT NULL,
    created_seq  bigint NOT NULL,
    updated_seq  bigint NOT NULL,
    event_count  integer NOT NULL,
    entities     json NOT NULL,
    techniques   text[] NOT NULL,
    tactics      text[] NOT NULL,
    predecessor  uuid,
    closed_at    timestamptz,
    PRIMARY KEY (tenant_id, incident_id)
);
CREATE INDEX incidents_by_time ON incidents (tenant_id, last_time DESC, incident_id DESC);

-- Why each event is a member of its incident.
CREATE TABLE incident_events (
    tenant_id    uuid NOT NULL,
    incident_id  uuid NOT NULL,
    event_id     uuid NOT NULL,
    position     integer NOT NULL,
    time         timestamptz NOT NULL,
    stage        text NOT NULL,
    reason       text NOT NULL,
    PRIMARY KEY (tenant_id, incident_id, event_id),
    FOREIGN KEY (tenant_id, incident_id) REFERENCES incidents,
    FOREIGN KEY (tenant_id, event_id) REFERENCES events
);
CREATE INDEX incident_events_by_event ON incident_events (tenant_id, event_id);

-- What the advisor says about a revision of an incident; every version is kept.
CREATE TABLE advisories (
    tenant_id      uuid NOT NULL,
    incident_id    uuid NOT NULL,
    version        integer NOT NULL,
    revision       integer NOT NULL,
    generator      text NOT NULL,
    fallback_reason text,
    body           json NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, incident_id, version),
    FOREIGN KEY (tenant_id, incident_id) REFERENCES incidents
);

-- Incidents that wait for an advisory; written in the transaction that changed the incident.
CREATE TABLE advisory_queue (
    tenant_id    uuid NOT NULL,
    incident_id  uuid NOT NULL,
    revision     integer NOT NULL,
    attempts     integer NOT NULL DEFAULT 0,
    not_before   timestamptz NOT NULL DEFAULT now(),
    last_error   text,
    PRIMARY KEY (tenant_id, incident_id),
    FOREIGN KEY (tenant_id, incident_id) REFERENCES incidents
);
CREATE INDEX advisory_queue_due ON advisory_queue (not_before);

-- Detector state as a function of the journal up to seq. `format` is the version of the snapshot's encoding.
CREATE TABLE detector_snapshots (
    tenant_id  uuid PRIMARY KEY,
    seq        bigint NOT NULL,
    epoch      bigint NOT NULL,
    format     integer NOT NULL,
    state      bytea STORAGE EXTERNAL NOT NULL,
    taken_at   timestamptz NOT NULL DEFAULT now()
);

-- How far a tenant's journal has been judged; moves in the transaction that stores the judgement.
CREATE TABLE detector_marks (
    tenant_id   uuid PRIMARY KEY,
    seq         bigint NOT NULL,
    epoch       bigint NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- Virtual shard -> actor. Whoever claims a shard raises its epoch; writes that carry an older epoch are refused.
CREATE TABLE shard_map (
    shard       integer PRIMARY KEY,
    actor       text NOT NULL,
    epoch       bigint NOT NULL DEFAULT 0,
    claimed_at  timestamptz NOT NULL DEFAULT now()
);

-- Rule packs by digest, so that a replay judges with the rules that were in force.
CREATE TABLE rule_sets (
    digest      text PRIMARY KEY,
    pack        bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Records, rules or batches (position -1) that failed: parked with their reason.
CREATE TABLE dead_letters (
    tenant_id   uuid NOT NULL,
    seq         bigint NOT NULL,
    position    integer NOT NULL,
    stage       text NOT NULL,
    subject     text NOT NULL,
    error       text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, seq, position, stage, subject)
);

-- Every state change by a human, job or detector, as an append-only hash chain per tenant.
CREATE TABLE audit_log (
    tenant_id   uuid NOT NULL,
    position    bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor       text NOT NULL,
    action      text NOT NULL,
    object      text NOT NULL,
    detail      json NOT NULL,
    previous    bytea NOT NULL,
    hash        bytea NOT NULL,
    PRIMARY KEY (tenant_id, position)
);

CREATE FUNCTION audit_chain() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    last record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('audit_log:' || NEW.tenant_id::text, 0));
    SELECT position, hash INTO last FROM audit_log WHERE tenant_id = NEW.tenant_id ORDER BY position DESC LIMIT 1;
    NEW.position := coalesce(last.position, 0) + 1;
    NEW.at := clock_timestamp();
    NEW.previous := coalesce(last.hash, '\x'::bytea);
    -- Every part carries its length, so that no two different rows have the same text.
    SELECT sha256(NEW.previous || convert_to(string_agg(octet_length(part) || ':' || part, '' ORDER BY place), 'UTF8'))
    INTO NEW.hash
    FROM unnest(ARRAY[NEW.tenant_id::text, NEW.position::text, extract(epoch FROM NEW.at)::text, NEW.actor, NEW.action,
        NEW.object, NEW.detail::text]) WITH ORDINALITY AS parts (part, place);
    RETURN NEW;
END $$;
CREATE TRIGGER audit_chain BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_chain();

-- Row-level security: one policy a tenant table, the same for all. nullif: after a transaction the setting is '',
-- not NULL; the sub-select makes it one InitPlan a query.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tenants', 'api_keys', 'journal_heads', 'journal', 'raw_logs', 'events',
        'feature_rollup_1m', 'feature_rollup_5m', 'feature_rollup_1h', 'incidents', 'incident_events', 'advisories',
        'advisory_queue', 'detector_snapshots', 'detector_marks', 'dead_letters', 'audit_log'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = '
            '(SELECT nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    END LOOP;
END $$;

-- Authentication happens before the tenant is known: whoever holds a key's digest may see that key's row, no other.
CREATE POLICY holder_of_the_key ON api_keys FOR SELECT USING
    (digest = (SELECT decode(nullif(current_setting('app.key_digest', true), ''), 'hex')));
ALTER TABLE admin_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE admin_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY holder_of_the_key ON admin_keys FOR SELECT USING
    (digest = (SELECT decode(nullif(current_setting('app.key_digest', true), ''), 'hex')));

-- Partitions of raw_logs are made ahead and dropped by these two functions, the only DDL that the app role can cause.
-- Built beside the parent and then attached: that lock lets readers and writers of the parent go on.
CREATE FUNCTION raw_logs_make_partitions(first_day date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '10s' AS $$
DECLARE
    day date;
    partition text;
    made integer := 0;
BEGIN
    IF days NOT BETWEEN 1 AND 400 THEN
        RAISE EXCEPTION 'between 1 and 400 days of partitions can be made at once, not %', days
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('raw_logs partitions', 0));
    FOR day IN SELECT generate_series(first_day, first_day + days - 1, interval '1 day')::date LOOP
        partition := 'raw_logs_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('public.' || partition) IS NULL THEN
            EXECUTE format('CREATE TABLE public.%I (LIKE public.raw_logs INCLUDING ALL)', partition);
            EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', partition);
            EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', partition);
            EXECUTE format('ALTER TABLE public.raw_logs ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                partition, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;

CREATE FUNCTION raw_logs_drop_partitions(before_day date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '10s' AS $$
DECLARE
    partition text;
    dropped integer := 0;
BEGIN
    IF before_day > (now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'only days that are over can be dropped, not those before %', before_day
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('raw_logs partitions', 0));
    FOR partition IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'public.raw_logs'::regclass AND c.relname ~ '^raw_logs_\d{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < before_day
    LOOP
        EXECUTE format('DROP TABLE public.%I', partition);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
