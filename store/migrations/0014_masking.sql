-- Masking: whether the agents of a tenant mask what they send, and by which keys. The keys themselves are not here: each is
-- derived from a master key outside the database and the tenant, so nothing in these rows turns a token back.

-- Turning tokens back needs a right of its own.
ALTER TABLE api_keys DROP CONSTRAINT api_keys_scopes_check;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_scopes_check
    CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['ingest', 'read', 'write', 'operate', 'reveal']);

-- Every masking key that a tenant has had, named by its master: stored records hold tokens of all of them.
CREATE TABLE masking_keys (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    master     integer NOT NULL CHECK (master > 0),
    made_by    text NOT NULL,
    made_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, master)
);

-- Whether the tenant masks; no row: it never did. `master` names the key that agents are given. It changes by somebody's
-- word only, never with the newest master, because tokens of two keys do not compare.
CREATE TABLE tenant_masking (
    tenant_id   uuid PRIMARY KEY REFERENCES tenants,
    enabled     boolean NOT NULL,
    master      integer NOT NULL,
    changed_by  text NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, master) REFERENCES masking_keys
);

-- Which key an agent was given when it was enrolled; NULL: none.
ALTER TABLE agents ADD COLUMN masking_master integer CHECK (masking_master > 0);
CREATE INDEX agents_by_masking ON agents (tenant_id, masking_master) WHERE state = 'active';

-- How the records are masked that the tenant's rule set was made for, as masking_of_records says, and by which policy;
-- NULL: not at all.
ALTER TABLE tenant_rules ADD COLUMN masked text;

-- How the records of a tenant's active agents are masked, and those of the next one: the masters of their keys, `clear`
-- for those that mask nothing. NULL when nobody masks.
CREATE FUNCTION masking_of_records(wanted uuid) RETURNS text STABLE LANGUAGE sql AS $$
    SELECT CASE WHEN count(master) > 0 THEN string_agg(coalesce(master::text, 'clear'), ' ' ORDER BY master) END
    FROM (
        SELECT masking_master AS master FROM agents WHERE tenant_id = wanted AND state = 'active'
        UNION
        SELECT master FROM tenant_masking WHERE tenant_id = wanted AND enabled
    ) AS known
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['masking_keys', 'tenant_masking'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = '
            '(SELECT nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    END LOOP;
END $$;

-- A key that was used once stays known: nobody takes a row away.
GRANT SELECT, INSERT ON masking_keys, tenant_masking TO trustsoc_app;
GRANT UPDATE (enabled, master, changed_by, changed_at) ON tenant_masking TO trustsoc_app;
GRANT UPDATE (masking_master) ON agents TO trustsoc_app;
-- For the housekeeping of rules, over all tenants.
GRANT SELECT (tenant_id, enabled, master) ON tenant_masking TO trustsoc_writer;
GRANT SELECT (masking_master) ON agents TO trustsoc_writer;
GRANT SELECT (masked) ON tenant_rules TO trustsoc_writer;
GRANT EXECUTE ON FUNCTION masking_of_records(uuid) TO trustsoc_app, trustsoc_writer;
