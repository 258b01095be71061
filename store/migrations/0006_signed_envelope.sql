-- The signed envelope: whose signing keys are valid when, and which nonces are spent.

-- A key's secret is not here: it is derived from a master key outside the database and this row's tenant and id.
-- Several keys of one agent may be valid at a time, so that a rotation has an overlap.
CREATE TABLE signing_keys (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    key_id      text NOT NULL,
    agent       text NOT NULL CHECK (agent ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    master      integer NOT NULL CHECK (master > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    not_before  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz,
    PRIMARY KEY (tenant_id, key_id)
);
CREATE INDEX signing_keys_by_agent ON signing_keys (tenant_id, agent);

-- Spent nonces, shared by all replicas until the timestamp window refuses them anyway. Unlogged: a crash empties it, and
-- then a request of the last minutes can be sent again, which finds its signed idempotency key in the journal and
-- stores nothing. So a commit here waits for no disk, and the table costs the write-ahead log nothing.
CREATE UNLOGGED TABLE signing_nonces (
    tenant_id   uuid NOT NULL,
    key_id      text NOT NULL,
    nonce       text NOT NULL,
    expires     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key_id, nonce)
);
CREATE INDEX signing_nonces_by_expiry ON signing_nonces (expires);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['signing_keys', 'signing_nonces'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = '
            '(SELECT nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    END LOOP;
END $$;

GRANT SELECT, INSERT ON signing_keys TO trustsoc_app;
GRANT UPDATE (expires_at, revoked_at) ON signing_keys TO trustsoc_app;
-- Spent in groups over all tenants and swept by the writer, like the journal.
GRANT SELECT ON signing_nonces TO trustsoc_app;
GRANT SELECT, INSERT, DELETE ON signing_nonces TO trustsoc_writer;
