-- name: quota_list
-- Every tenant that has a quota of its own.
SELECT tenant_id, quota FROM tenants WHERE quota IS NOT NULL;

-- name: quota_get
-- Under the tenant's policy: its own row.
SELECT quota FROM tenants;

-- name: quota_set
-- Null takes the tenant back to the installation's defaults. Other settings stay as they are.
UPDATE tenants SET settings = CASE
    WHEN $1::text IS NULL THEN (settings::jsonb - 'quota')::json
    ELSE (settings::jsonb || jsonb_build_object('quota', $1::jsonb))::json
END;

-- name: admission_backlog
-- What detectors have not judged, per tenant: batches exactly, records and bytes from the first $1 of them (exact when
-- there are no more). The length of a payload is read from its pointer, without fetching it.
SELECT late.tenant_id, late.mark, late.batches, first.batches AS counted, first.records, first.bytes
FROM (
    SELECT heads.tenant_id, coalesce(marks.seq, 0) AS mark, heads.last_seq - coalesce(marks.seq, 0) AS batches
    FROM journal_heads AS heads
    LEFT JOIN detector_marks AS marks ON marks.tenant_id = heads.tenant_id
    WHERE heads.last_seq > coalesce(marks.seq, 0)
) AS late
CROSS JOIN LATERAL (
    SELECT count(*) AS batches, coalesce(sum(records), 0)::bigint AS records,
           coalesce(sum(octet_length(payload)), 0)::bigint AS bytes
    FROM (
        SELECT records, payload FROM journal
        WHERE journal.tenant_id = late.tenant_id AND journal.seq > late.mark ORDER BY seq LIMIT $1
    ) AS sample
) AS first;
