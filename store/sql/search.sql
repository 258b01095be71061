-- name: search_events
-- An event belongs to one incident at most.
-- $1 from, $2 to (exclusive), $3 severities, $4 rule, $5 entity kind, $6 entity value, $7 incident, $8 and $9 the
-- last row of the page before, $10 rows. Range and order are those of the index events_by_time.
SELECT event_id, seq, position, time, end_time, kind, detector, events.rule_id, rule_version, title, description,
    severity, score, activity, outcome, techniques, tactics, entities, evidence, matched, attributes,
    (SELECT member.incident_id FROM incident_events AS member WHERE member.tenant_id = events.tenant_id
        AND member.event_id = events.event_id LIMIT 1) AS incident_id,
    coalesce(fold.repeats, 0) AS repeats, fold.last_time AS last_repeat
FROM events
LEFT JOIN event_folds AS fold USING (tenant_id, event_id)
WHERE time >= $1 AND time < $2 AND severity = ANY ($3::text[])
    AND ($4::text IS NULL OR events.rule_id = $4)
    AND ($6::text IS NULL OR EXISTS (
        SELECT FROM json_array_elements(entities) AS entity
        WHERE entity ->> 'kind' = $5 AND entity ->> 'value' = $6))
    AND ($7::uuid IS NULL OR event_id IN (SELECT member.event_id FROM incident_events AS member
                                          WHERE member.incident_id = $7))
    AND (time, event_id) < ($8, $9)
ORDER BY time DESC, event_id DESC
LIMIT $10;

-- name: search_event
SELECT event_id, seq, position, time, end_time, kind, detector, events.rule_id, rule_version, title, description,
    severity, score, activity, outcome, techniques, tactics, entities, evidence, matched, attributes,
    (SELECT member.incident_id FROM incident_events AS member WHERE member.tenant_id = events.tenant_id
        AND member.event_id = events.event_id LIMIT 1) AS incident_id,
    coalesce(fold.repeats, 0) AS repeats, fold.first_time AS first_repeat, fold.last_time AS last_repeat,
    coalesce(fold.records, '{}') AS repeat_records, coalesce(fold.samples, '[]')::json AS repeat_evidence
FROM events
LEFT JOIN event_folds AS fold USING (tenant_id, event_id)
WHERE event_id = $1;

-- name: search_incidents
-- An incident is in the range when its last event is.
SELECT incident_id, revision, state, title, severity, score, first_time, last_time, created_seq, updated_seq,
    event_count, entities, techniques, tactics, predecessor, closed_at
FROM incidents
WHERE last_time >= $1 AND last_time < $2 AND severity = ANY ($3::text[])
    AND ($4::text IS NULL OR state = $4)
    AND (last_time, incident_id) < ($5, $6)
ORDER BY last_time DESC, incident_id DESC
LIMIT $7;

-- name: search_incident
SELECT incident_id, revision, state, title, severity, score, first_time, last_time, created_seq, updated_seq,
    event_count, entities, techniques, tactics, predecessor, closed_at
FROM incidents WHERE incident_id = $1;

-- name: search_timeline
-- The members of an incident in order, each with its reason, after a position.
SELECT member.position AS place, member.stage, member.reason, event.event_id, event.seq, event.position, event.time,
    event.end_time, event.kind, event.detector, event.rule_id, event.rule_version, event.title, event.description,
    event.severity, event.score, event.activity, event.outcome, event.techniques, event.tactics, event.entities,
    event.evidence, event.matched, event.attributes, coalesce(fold.repeats, 0) AS repeats,
    fold.last_time AS last_repeat
FROM incident_events AS member
JOIN events AS event ON event.tenant_id = member.tenant_id AND event.event_id = member.event_id
LEFT JOIN event_folds AS fold ON fold.tenant_id = member.tenant_id AND fold.event_id = member.event_id
WHERE member.incident_id = $1
ORDER BY member.time, member.position
LIMIT $2;

-- name: search_logs
-- Reads $10 records at most, in the order of the index, and looks into each: that bounds the cost whatever is looked
-- for. The last record read comes along when the bound was met, though it may not match: the search goes on after it.
-- $1 from, $2 to (exclusive), both of event time; $3 the earliest receipt that can hold them (prunes partitions);
-- $4 LIKE pattern over the record's JSON text, $5 entity label, $6 $7 $8 the last row of the page before, $9 rows.
SELECT seq, position, received, time, time_mark, severity, logsource, entities, message, record, matches, place
FROM (
    SELECT scanned.*,
        ($4::text IS NULL OR record::text ILIKE $4) AND ($5::text IS NULL OR $5 = ANY (entities)) AS matches
    FROM (
        SELECT seq, position, received, time, time_mark, severity, logsource, entities, message, record,
            row_number() OVER (ORDER BY time DESC, seq DESC, position DESC) AS place
        FROM raw_logs
        WHERE time >= $1 AND time < $2 AND received >= $3 AND (time, seq, position) < ($6, $7, $8)
        ORDER BY time DESC, seq DESC, position DESC
        LIMIT $10
    ) AS scanned
) AS judged
WHERE matches OR place = $10
ORDER BY time DESC, seq DESC, position DESC
LIMIT $9;

-- name: search_record
SELECT seq, position, received, time, time_mark, severity, logsource, entities, message, record
FROM raw_logs WHERE seq = $1 AND position = $2;

-- name: status_counts
SELECT
    (SELECT coalesce(max(last_seq), 0) FROM journal_heads) AS batches,
    (SELECT coalesce(max(seq), 0) FROM detector_marks) AS judged,
    (SELECT coalesce(sum(records), 0) FROM journal)
        + (SELECT coalesce(sum(records), 0)::bigint FROM journal_pruned) AS records,
    (SELECT count(*) FROM events) AS events,
    (SELECT count(*) FROM advisories) AS advisories,
    (SELECT count(*) FROM advisory_queue) AS advisories_waiting,
    (SELECT count(*) FROM dead_letters) AS dead_letters;

-- name: status_incidents
SELECT state, count(*) AS incidents FROM incidents GROUP BY state;
