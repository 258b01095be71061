-- name: rule_choice_ensure
INSERT INTO tenant_rules (tenant_id, packs, overlay, changed_by) VALUES ($1, $2, '{}', $3)
ON CONFLICT (tenant_id) DO NOTHING;

-- name: rule_choice_read
SELECT version, packs, overlay, used, digest, revision, enforced, next_expiry, refused_digest, refused_reason,
    changed_by, changed_at, masked
FROM tenant_rules;

-- name: rule_choice_lock
SELECT version, packs, overlay, used, digest, revision, enforced, next_expiry, refused_digest, refused_reason,
    changed_by, changed_at, masked
FROM tenant_rules FOR UPDATE;

-- name: rule_choice_write
UPDATE tenant_rules SET packs = $1, overlay = $2, version = version + 1, changed_by = $3, changed_at = now();

-- name: rule_choice_set
-- Another rule set from the next revision on; the same one again changes only what it is made of.
UPDATE tenant_rules SET revision = revision + (digest IS DISTINCT FROM $1)::integer, digest = $1, used = $2,
    next_expiry = $3, masked = $4, refused_digest = NULL, refused_reason = NULL;

-- name: rule_choice_refused
-- What is in force stays. The versions that were tried count as used: only another one is a reason to try again.
UPDATE tenant_rules SET refused_digest = $1, refused_reason = $2, used = $3, next_expiry = $4,
    masked = $5;

-- name: rule_choice_enforced
UPDATE tenant_rules SET enforced = $1;

-- name: rule_choices_due
-- Tenants whose rule set has to be made anew, or be put in force, new ones included: for the housekeeping. $2 is the policy
-- by which literals are masked.
SELECT t.tenant_id FROM tenants AS t LEFT JOIN tenant_rules AS r ON r.tenant_id = t.tenant_id
WHERE r.digest IS NULL OR r.enforced < r.revision OR r.next_expiry <= $1
   OR r.masked IS DISTINCT FROM masking_of_records(t.tenant_id) || ' ' || $2::text
   OR EXISTS (
        SELECT FROM json_array_elements(r.packs) AS chosen (pack)
        WHERE chosen.pack ->> 'digest' IS NULL AND NOT EXISTS (
            SELECT FROM json_array_elements(r.used) AS made (pack)
            WHERE made.pack ->> 'name' = chosen.pack ->> 'name' AND made.pack ->> 'digest' =
                (SELECT p.digest FROM rule_packs AS p
                 WHERE p.name = chosen.pack ->> 'name' AND p.removed_at IS NULL
                 ORDER BY p.revision DESC LIMIT 1)))
ORDER BY t.tenant_id;

-- name: rule_catalog_insert
INSERT INTO rule_catalogs (digest, catalog) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING;

-- name: rule_catalog_read
SELECT catalog FROM rule_catalogs WHERE digest = $1;

-- name: rule_catalog_exists
SELECT EXISTS (SELECT FROM rule_catalogs WHERE digest = $1);

-- name: rule_hits
-- Of some rules: events since $2 with those that were folded, and the time of the last one ever.
SELECT asked.rule_id,
    (SELECT count(*) FROM events AS e WHERE e.rule_id = asked.rule_id AND e.time >= $2)
        + (SELECT coalesce(sum(f.repeats), 0)::bigint FROM event_folds AS f
           WHERE f.rule_id = asked.rule_id AND f.last_time >= $2) AS hits,
    greatest(
        (SELECT e.time FROM events AS e WHERE e.rule_id = asked.rule_id ORDER BY e.time DESC LIMIT 1),
        (SELECT f.last_time FROM event_folds AS f WHERE f.rule_id = asked.rule_id ORDER BY f.last_time DESC LIMIT 1)
    ) AS last_hit
FROM unnest($1::text[]) AS asked (rule_id);
