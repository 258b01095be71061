-- name: rule_packs_lock
-- Installing and removing packs, and choosing them, wait for one another: no tenant chooses what is being removed.
SELECT pg_advisory_xact_lock(hashtextextended('rule packs', 0));

-- name: rule_packs_share
SELECT pg_advisory_xact_lock_shared(hashtextextended('rule packs', 0));

-- name: rule_pack_insert
INSERT INTO rule_packs (revision, name, digest, origin, rules, correlations, filters, broken, problems, installed_by)
SELECT coalesce(max(revision), 0) + 1, $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM rule_packs
RETURNING revision, name, digest, origin, rules, correlations, filters, broken, problems, installed_by, installed_at;

-- name: rule_pack_versions
-- Newest first.
SELECT revision, name, digest, origin, rules, correlations, filters, broken, problems, installed_by, installed_at
FROM rule_packs WHERE name = $1 AND removed_at IS NULL ORDER BY revision DESC LIMIT $2;

-- name: rule_packs_newest
-- Without the problems, which may be many.
SELECT DISTINCT ON (name) revision, name, digest, origin, rules, correlations, filters, broken, '[]' AS problems,
    installed_by, installed_at
FROM rule_packs WHERE removed_at IS NULL ORDER BY name, revision DESC;

-- name: rule_pack_exists
SELECT EXISTS (SELECT FROM rule_packs WHERE name = $1 AND digest = $2 AND removed_at IS NULL);

-- name: rule_pack_users
-- The tenants that have chosen a pack.
SELECT t.name FROM tenant_rules AS r JOIN tenants AS t USING (tenant_id)
WHERE EXISTS (SELECT FROM json_array_elements(r.packs) AS chosen (pack) WHERE chosen.pack ->> 'name' = $1)
ORDER BY t.name LIMIT 6;

-- name: rule_pack_remove
UPDATE rule_packs SET removed_by = $2, removed_at = now() WHERE name = $1 AND removed_at IS NULL;
