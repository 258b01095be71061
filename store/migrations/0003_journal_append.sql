-- Appends a group of batches in one statement, so that one round trip and one fsync serve every sender that waits.
-- The tenants' heads are locked in tenant order; the statements after it see all that earlier holders committed, so seq
-- is gapless in commit order and a repeated (tenant, agent, idempotency_key) is always found. Verdict of each place:
-- appended; duplicate (appended_seq is the original's); conflict (same key, other digest); unknown_tenant.
-- work_mem: the payloads of a group pass through one tuplestore, which must not spill to disk.
CREATE FUNCTION journal_append(
    tenants uuid[], agents text[], idempotency_keys bytea[], digests bytea[], kinds text[], encodings text[],
    record_counts integer[], payloads bytea[], times timestamptz[]
) RETURNS TABLE (place integer, appended_seq bigint, verdict text)
LANGUAGE plpgsql SET search_path = pg_catalog, public SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
    seqs bigint[];
    verdicts text[];
BEGIN
    PERFORM 1 FROM journal_heads WHERE tenant_id = ANY (tenants) ORDER BY tenant_id FOR UPDATE;

    WITH given AS (
        SELECT * FROM unnest(tenants, agents, idempotency_keys, digests)
            WITH ORDINALITY AS g (tenant_id, agent, idempotency_key, digest, place)
    ), judged AS (
        SELECT given.*, heads.last_seq, stored.seq AS stored_seq,
               coalesce(stored.digest, first_value(given.digest) OVER same) AS true_digest,
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
        SELECT place,
               coalesce(stored_seq, first_value(next_seq)
                   OVER (PARTITION BY tenant_id, agent, idempotency_key ORDER BY place)) AS seq,
               CASE WHEN last_seq IS NULL THEN 'unknown_tenant'
                    WHEN digest <> true_digest THEN 'conflict'
                    WHEN stored_seq IS NOT NULL OR place <> first_place THEN 'duplicate'
                    ELSE 'appended' END AS verdict
        FROM numbered
    )
    SELECT array_agg(seq ORDER BY place), array_agg(verdict ORDER BY place) INTO seqs, verdicts FROM answered;

    INSERT INTO journal (tenant_id, seq, received, agent, idempotency_key, digest, kind, encoding, records, payload)
    SELECT g.tenant_id, g.seq, g.received, g.agent, g.idempotency_key, g.digest, g.kind, g.encoding, g.records, g.payload
    FROM unnest(tenants, seqs, times, agents, idempotency_keys, digests, kinds, encodings, record_counts, payloads,
                verdicts) AS g (tenant_id, seq, received, agent, idempotency_key, digest, kind, encoding, records,
                                payload, verdict)
    WHERE g.verdict = 'appended';

    UPDATE journal_heads AS heads SET last_seq = moved.seq
    FROM (SELECT g.tenant_id, max(g.seq) AS seq FROM unnest(tenants, seqs, verdicts) AS g (tenant_id, seq, verdict)
          WHERE g.verdict = 'appended' GROUP BY g.tenant_id) AS moved
    WHERE heads.tenant_id = moved.tenant_id;

    RETURN QUERY SELECT g.place::integer, g.seq, g.verdict
        FROM unnest(seqs, verdicts) WITH ORDINALITY AS g (seq, verdict, place);
END $$;

REVOKE ALL ON FUNCTION journal_append(uuid[], text[], bytea[], bytea[], text[], text[], integer[], bytea[],
    timestamptz[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION journal_append(uuid[], text[], bytea[], bytea[], text[], text[], integer[], bytea[],
    timestamptz[]) TO trustsoc_writer;
