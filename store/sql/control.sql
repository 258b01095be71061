-- name: control_rules_newest
-- The digest of the rule set that the tenant's newest rules row put in force.
SELECT convert_from(payload, 'UTF8')::json ->> 'digest'
FROM journal
WHERE kind = 'control' AND convert_from(payload, 'UTF8')::json ->> 'type' = 'rules'
ORDER BY seq DESC
LIMIT 1;
