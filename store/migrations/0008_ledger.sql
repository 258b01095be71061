-- The loss ledger: what each sender sent, as the journal knows it, and what the senders say of it themselves. A run is
-- the life of a sender's spool, named by the sender ('' for senders that keep no books). The equations that the two
-- must fulfil are in serve/ingest/balance.py.

-- Which run stored a batch first: tells a retry from a repeat of what an earlier run had stored.
ALTER TABLE journal ADD COLUMN run text NOT NULL DEFAULT '';

-- Written by journal_append alone, in the transaction that stores the batches: exact whatever dies. `elsewhere_records`
-- are the part of duplicate_records whose batch another run had stored; `last_seq` is of the newest batch in `stored`.
-- fillfactor: every commit changes some of these rows in place, and no column that changes is indexed.
CREATE TABLE ingest_ledger (
    tenant_id          uuid NOT NULL,
    agent              text NOT NULL,
    run                text NOT NULL,
    stored_batches     bigint NOT NULL,
    stored_records     bigint NOT NULL,
    duplicate_batches  bigint NOT NULL,
    duplicate_records  bigint NOT NULL,
    elsewhere_records  bigint NOT NULL,
    last_seq           bigint NOT NULL,
    first_at           timestamptz NOT NULL,
    last_at            timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, agent, run)
) WITH (fillfactor = 50);

-- Refusals by reason, brought here about once a second: a killed replica may take the last second's with it.
-- `retryable` are those that a sender repeats (429, 503); `records` where they were counted before the refusal.
CREATE TABLE ingest_rejections (
    tenant_id  uuid NOT NULL,
    agent      text NOT NULL,
    run        text NOT NULL,
    reason     text NOT NULL,
    retryable  boolean NOT NULL,
    requests   bigint NOT NULL,
    records    bigint NOT NULL,
    last_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, agent, run, reason, retryable)
) WITH (fillfactor = 70);

-- The newest statement of each run with its verdict. `known_*` are the server's books as they were when it was judged,
-- for the next one; `raised_*` say which gap has become a control row of the journal.
CREATE TABLE ledger_statements (
    tenant_id        uuid NOT NULL,
    agent            text NOT NULL,
    run              text NOT NULL,
    accepted         bigint NOT NULL,
    stored           bigint NOT NULL,
    duplicate        bigint NOT NULL,
    in_flight        bigint NOT NULL,
    rejected         json NOT NULL,
    known_stored     bigint NOT NULL,
    known_elsewhere  bigint NOT NULL,
    known_seq        bigint NOT NULL,
    missing          bigint NOT NULL,
    excess           bigint NOT NULL,
    detail           text NOT NULL,
    raised_missing   bigint NOT NULL DEFAULT 0,
    raised_excess    bigint NOT NULL DEFAULT 0,
    stated_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, agent, run)
) WITH (fillfactor = 70);
CREATE INDEX ledger_statements_with_a_gap ON ledger_statements (tenant_id) WHERE missing > 0 OR excess > 0;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ingest_ledger', 'ingest_rejections', 'ledger_statements'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = '
            '(SELECT nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    END LOOP;
END $$;

-- The books are the writer's to keep and the app's to read; statements and refusals are the app's.
GRANT SELECT, INSERT, UPDATE ON ingest_ledger TO trustsoc_writer;
GRANT SELECT, DELETE ON ingest_ledger TO trustsoc_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest_rejections, ledger_statements TO trustsoc_app;
-- For the metrics, which are sums over all tenants.
GRANT SELECT (tenant_id, missing, excess) ON ledger_statements TO trustsoc_writer;

-- As in 0003, with the ledger: for every (tenant, agent, run) of the group one row is brought up to date. The tenants'
-- heads are locked already, so that two groups never want the same ledger row in different order. Control rows are
-- nobody's. `stored_records` and `elsewhere` speak of the batch that a duplicate repeats.
DROP FUNCTION journal_append(uuid[], text[], bytea[], bytea[], text[], text[], integer[], bytea[], timestamptz[]);
CREATE FUNCTION journal_append(
    tenants uuid[], agents text[], idempotency_keys bytea[], digests bytea[], kinds text[], encodings text[],
    record_counts integer[], payloads bytea[], times timestamptz[], runs text[]
) RETURNS TABLE (place integer, appended_seq bigint, verdict text, stored_records integer, elsewhere boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, public SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
    seqs bigint[];
    verdicts text[];
    counts integer[];
    elsewheres boolean[];
BEGIN
    PERFORM 1 FROM journal_heads WHERE tenant_id = ANY (tenants) ORDER BY tenant_id FOR UPDATE;

    WITH given AS (
        SELECT * FROM unnest(tenants, agents, idempotency_keys, digests, record_counts, runs)
            WITH ORDINALITY AS g (tenant_id, agent, idempotency_key, digest, records, run, place)
    ), judged AS (
        SELECT given.*, heads.last_seq, stored.seq AS stored_seq,
               coalesce(stored.digest, first_value(given.digest) OVER same) AS true_digest,
               coalesce(stored.records, first_value(given.records) OVER same) AS true_records,
               coalesce(stored.run, first_value(given.run) OVER same) AS true_run,
               first_value(given.place) OVER same AS first_place
        FROM given
        LEFT JOIN journal_heads AS heads ON heads.tenant_id = given.tenant_id
        LEFT JOIN journal AS stored ON stored.tenant_id = given.tenant_id AND stored.agent = given.agent
            AND stored.idempotency_key = given.idempotency_key
        WINDOW same AS (PARTITION BY given.tenant_id, given.agent, given.idempotency_key ORDER BY given.place)
    ), numbered AS (
        SELECT judged.*, last_seq + count(*) FILTER (WHERE stored_seq IS NULL AND place = first_place)
            OVER (PARTITION BY tenant_id ORDER BY place) AS next_seq
        FROM judged
    ), answered AS (
        SELECT place, true_records, true_run <> run AS elsewhere,
               coalesce(stored_seq, first_value(next_seq)
                   OVER (PARTITION BY tenant_id, agent, idempotency_key ORDER BY place)) AS seq,
               CASE WHEN last_seq IS NULL THEN 'unknown_tenant'
                    WHEN digest <> true_digest THEN 'conflict'
                    WHEN stored_seq IS NOT NULL OR place <> first_place THEN 'duplicate'
                    ELSE 'appended' END AS verdict
        FROM numbered
    )
    SELECT array_agg(seq ORDER BY place), array_agg(verdict ORDER BY place), array_agg(true_records ORDER BY place),
           array_agg(elsewhere ORDER BY place)
    INTO seqs, verdicts, counts, elsewheres FROM answered;

    INSERT INTO journal (tenant_id, seq, received, agent, idempotency_key, digest, kind, encoding, records, payload, run)
    SELECT g.tenant_id, g.seq, g.received, g.agent, g.idempotency_key, g.digest, g.kind, g.encoding, g.records, g.payload,
           g.run
    FROM unnest(tenants, seqs, times, agents, idempotency_keys, digests, kinds, encodings, record_counts, payloads, runs,
                verdicts) AS g (tenant_id, seq, received, agent, idempotency_key, digest, kind, encoding, records,
                                payload, run, verdict)
    WHERE g.verdict = 'appended';

    INSERT INTO ingest_ledger AS books (tenant_id, agent, run, stored_batches, stored_records, duplicate_batches,
        duplicate_records, elsewhere_records, last_seq, first_at, last_at)
    SELECT g.tenant_id, g.agent, g.run,
           count(*) FILTER (WHERE g.verdict = 'appended'),
           coalesce(sum(g.records) FILTER (WHERE g.verdict = 'appended'), 0),
           count(*) FILTER (WHERE g.verdict = 'duplicate'),
           coalesce(sum(g.records) FILTER (WHERE g.verdict = 'duplicate'), 0),
           coalesce(sum(g.records) FILTER (WHERE g.verdict = 'duplicate' AND g.elsewhere), 0),
           coalesce(max(g.seq) FILTER (WHERE g.verdict = 'appended'), 0),
           min(g.received), max(g.received)
    FROM unnest(tenants, agents, runs, seqs, verdicts, counts, elsewheres, times)
        AS g (tenant_id, agent, run, seq, verdict, records, elsewhere, received)
    WHERE g.verdict IN ('appended', 'duplicate') AND g.agent <> ''
    GROUP BY g.tenant_id, g.agent, g.run
    ON CONFLICT (tenant_id, agent, run) DO UPDATE SET
        stored_batches = books.stored_batches + EXCLUDED.stored_batches,
        stored_records = books.stored_records + EXCLUDED.stored_records,
        duplicate_batches = books.duplicate_batches + EXCLUDED.duplicate_batches,
        duplicate_records = books.duplicate_records + EXCLUDED.duplicate_records,
        elsewhere_records = books.elsewhere_records + EXCLUDED.elsewhere_records,
        last_seq = greatest(books.last_seq, EXCLUDED.last_seq),
        last_at = greatest(books.last_at, EXCLUDED.last_at);

    UPDATE journal_heads AS heads SET last_seq = moved.seq
    FROM (SELECT g.tenant_id, max(g.seq) AS seq FROM unnest(tenants, seqs, verdicts) AS g (tenant_id, seq, verdict)
          WHERE g.verdict = 'appended' GROUP BY g.tenant_id) AS moved
    WHERE heads.tenant_id = moved.tenant_id;

    RETURN QUERY SELECT g.place::integer, g.seq, g.verdict, g.records, g.elsewhere
        FROM unnest(seqs, verdicts, counts, elsewheres) WITH ORDINALITY AS g (seq, verdict, records, elsewhere, place);
END $$;

REVOKE ALL ON FUNCTION journal_append(uuid[], text[], bytea[], bytea[], text[], text[], integer[], bytea[],
    timestamptz[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION journal_append(uuid[], text[], bytea[], bytea[], text[], text[], integer[], bytea[],
    timestamptz[], text[]) TO trustsoc_writer;
