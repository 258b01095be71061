-- Rule packs that administrators install, and what each tenant makes of them. What is in force stays what the control
-- rows of the journal say; these tables say what should be, so that it can be put in force again after a failure.

-- One row an installation of a pack; the newest that is not removed is the one that tenants follow. The sources are in
-- rule_sets under `digest`. `origin` is the SHA-256 of what was uploaded, `problems` what of it does not load, and why.
CREATE TABLE rule_packs (
    revision      bigint PRIMARY KEY,
    name          text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    digest        text NOT NULL REFERENCES rule_sets,
    origin        text NOT NULL,
    rules         integer NOT NULL,
    correlations  integer NOT NULL,
    filters       integer NOT NULL,
    broken        integer NOT NULL,
    problems      json NOT NULL,
    installed_by  text NOT NULL,
    installed_at  timestamptz NOT NULL DEFAULT now(),
    removed_by    text,
    removed_at    timestamptz,
    CHECK ((removed_by IS NULL) = (removed_at IS NULL))
);
CREATE INDEX rule_packs_by_name ON rule_packs (name, revision DESC);

-- A tenant's packs and overlay. `version` counts changes by people, `revision` changes of the rule set (`digest`), and
-- `enforced` is the revision of the newest control row. `used` are the versions of the packs that the set is made of.
-- A rule set that could not be put in force is remembered, so that it is not tried for ever.
CREATE TABLE tenant_rules (
    tenant_id       uuid PRIMARY KEY REFERENCES tenants,
    version         bigint NOT NULL DEFAULT 1,
    packs           json NOT NULL,
    overlay         json NOT NULL,
    used            json NOT NULL DEFAULT '[]',
    digest          text REFERENCES rule_sets,
    revision        bigint NOT NULL DEFAULT 0,
    enforced        bigint NOT NULL DEFAULT 0,
    next_expiry     timestamptz,
    refused_digest  text,
    refused_reason  text,
    changed_by      text NOT NULL,
    changed_at      timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE tenant_rules ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_rules FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON tenant_rules USING (tenant_id =
    (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));

-- What a rule set holds, for those who list rules: made once a digest, when it is checked.
CREATE TABLE rule_catalogs (
    digest   text PRIMARY KEY REFERENCES rule_sets,
    catalog  bytea STORAGE EXTERNAL NOT NULL
);

-- The writer decides for the whole installation; of a tenant's rules it sees which packs they need, not the overlay.
GRANT SELECT, INSERT, UPDATE (removed_by, removed_at) ON rule_packs TO trustsoc_writer;
GRANT INSERT ON rule_sets TO trustsoc_writer;
GRANT SELECT (tenant_id, packs, used, digest, revision, enforced, next_expiry) ON tenant_rules TO trustsoc_writer;
GRANT SELECT, INSERT, UPDATE ON tenant_rules TO trustsoc_app;
GRANT SELECT ON rule_packs TO trustsoc_app;
GRANT SELECT, INSERT ON rule_catalogs TO trustsoc_app;

-- How often each rule hit, and when last.
CREATE INDEX events_by_rule ON events (tenant_id, rule_id, time DESC);
