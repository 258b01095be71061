-- name: rule_set_insert
INSERT INTO rule_sets (digest, pack) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING;

-- name: rule_set_read
SELECT pack FROM rule_sets WHERE digest = $1;
