-- Agents on hosts, what they are told to do, and what became of it. A job is signed when it is handed out, with keys that
-- are files outside the database: whoever can write here can still make no agent obey.

-- Whoever starts something on hosts needs a right of its own.
ALTER TABLE api_keys DROP CONSTRAINT api_keys_scopes_check;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_scopes_check
    CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['ingest', 'read', 'write', 'operate']);

-- Tokens that enrol one agent each. Random 256-bit secrets, shown once; the SHA-256 of the text is enough to know them by.
-- `agent` is the only name that may use it, or NULL; `labels` are what the agent will carry.
CREATE TABLE agent_tokens (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    token_id    text NOT NULL,
    digest      bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    note        text NOT NULL,
    agent       text CHECK (agent ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    labels      jsonb NOT NULL CHECK (jsonb_typeof(labels) = 'object'),
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    spent_at    timestamptz,
    spent_by    text,
    revoked_at  timestamptz,
    PRIMARY KEY (tenant_id, token_id)
);

-- An agent that was enrolled. `result_key` is the public half of what it signs results with, `signing_key` the id of the
-- key of its requests. Labels are the server's: what an agent says of itself is in `health` and selects nothing.
-- fillfactor: last_seen and health change every half minute, in place, and are in no index.
CREATE TABLE agents (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    agent         text NOT NULL CHECK (agent ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    state         text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'revoked')),
    labels        jsonb NOT NULL CHECK (jsonb_typeof(labels) = 'object'),
    result_key    bytea NOT NULL CHECK (length(result_key) = 32),
    signing_key   text NOT NULL,
    version       text NOT NULL,
    platform      text NOT NULL,
    enrolled_by   text NOT NULL,
    enrolled_at   timestamptz NOT NULL DEFAULT now(),
    revoked_by    text,
    revoked_at    timestamptz,
    last_seen     timestamptz,
    status        text NOT NULL DEFAULT 'unknown' CHECK (status IN ('unknown', 'ok', 'degraded', 'failing')),
    health        json NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, agent),
    CHECK ((state = 'revoked') = (revoked_at IS NOT NULL))
) WITH (fillfactor = 50);

-- Every certificate that was signed for an agent, so that a revocation knows all that are still valid.
CREATE TABLE agent_certificates (
    tenant_id   uuid NOT NULL,
    serial      text NOT NULL CHECK (serial ~ '^[0-9a-f]{1,40}$'),
    agent       text NOT NULL,
    job_id      uuid,
    begins      timestamptz NOT NULL,
    ends        timestamptz NOT NULL,
    revoked_at  timestamptz,
    PRIMARY KEY (tenant_id, serial),
    FOREIGN KEY (tenant_id, agent) REFERENCES agents
);
CREATE INDEX agent_certificates_by_agent ON agent_certificates (tenant_id, agent);

-- Configurations of collectors by name and version. A version never changes; `digest` is the SHA-256 of its text in hex.
CREATE TABLE agent_policies (
    tenant_id   uuid NOT NULL REFERENCES tenants,
    name        text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    version     integer NOT NULL CHECK (version > 0),
    digest      text NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    content     text NOT NULL CHECK (octet_length(content) BETWEEN 1 AND 262144),
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name, version)
);
CREATE INDEX agent_policies_by_digest ON agent_policies (tenant_id, digest);

-- The same job for many agents, wave after wave. `waves` are percents that end with 100; `wave` is the one that is out
-- (0: none yet). `failures` counts jobs that did not succeed and agents that fell ill after theirs.
CREATE TABLE rollouts (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    rollout_id     uuid NOT NULL,
    state          text NOT NULL CHECK (state IN ('awaiting_approval', 'running', 'succeeded', 'stopped', 'cancelled')),
    type           text NOT NULL,
    labels         jsonb NOT NULL,
    waves          integer[] NOT NULL CHECK (cardinality(waves) BETWEEN 1 AND 20),
    gate_s         integer NOT NULL CHECK (gate_s BETWEEN 0 AND 86400),
    most_failures  integer NOT NULL CHECK (most_failures >= 0),
    lifetime_s     integer NOT NULL CHECK (lifetime_s BETWEEN 10 AND 2592000),
    agents         integer NOT NULL CHECK (agents > 0),
    wave           integer NOT NULL DEFAULT 0,
    failures       integer NOT NULL DEFAULT 0,
    detail         text NOT NULL DEFAULT '',
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    approved_by    text,
    changed_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, rollout_id)
);
CREATE INDEX rollouts_by_time ON rollouts (tenant_id, created_at DESC, rollout_id DESC);
CREATE INDEX rollouts_open ON rollouts (tenant_id) WHERE state IN ('awaiting_approval', 'running');

-- What one agent is told to do. `args` is canonical JSON, kept as it is signed; `envelope` and `signature` are what was
-- handed out last, `result` and `result_signature` what the agent said at the end. A lease says who may be at work:
-- while it is held nobody else gets the job, and `attempt` counts how often it was handed out.
-- A job of a wave that is not out yet is `held`: queued, and given to nobody.
CREATE TABLE jobs (
    tenant_id         uuid NOT NULL REFERENCES tenants,
    job_id            uuid NOT NULL,
    agent             text NOT NULL,
    type              text NOT NULL CHECK (type ~ '^[A-Z][A-Z0-9_]{0,39}$'),
    args              text NOT NULL CHECK (octet_length(args) BETWEEN 2 AND 32768),
    dry_run           boolean NOT NULL,
    idempotency_key   text NOT NULL CHECK (idempotency_key ~ '^[!-~]{1,120}$'),
    state             text NOT NULL CHECK (state IN ('awaiting_approval', 'queued', 'leased', 'running', 'succeeded',
                                                     'failed', 'rejected', 'expired', 'cancelled')),
    rollout_id        uuid,
    wave              integer NOT NULL DEFAULT 0,
    held              boolean NOT NULL DEFAULT false,
    created_by        text NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    approved_by       text,
    approved_at       timestamptz,
    issued_at         timestamptz NOT NULL,
    not_before        timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL,
    max_attempts      integer NOT NULL CHECK (max_attempts BETWEEN 1 AND 20),
    attempt           integer NOT NULL DEFAULT 0,
    lease             uuid,
    lease_until       timestamptz,
    key_id            text,
    envelope          text,
    signature         bytea,
    reason            text NOT NULL DEFAULT '',
    detail            text NOT NULL DEFAULT '',
    result            text,
    result_signature  bytea,
    started_at        timestamptz,
    ended_at          timestamptz,
    PRIMARY KEY (tenant_id, job_id),
    UNIQUE (tenant_id, agent, idempotency_key),
    FOREIGN KEY (tenant_id, agent) REFERENCES agents,
    FOREIGN KEY (tenant_id, rollout_id) REFERENCES rollouts,
    CHECK (not_before < expires_at),
    CHECK (expires_at <= issued_at + interval '30 days'),
    CHECK ((lease IS NULL) = (lease_until IS NULL)),
    CHECK ((lease IS NOT NULL) = (state IN ('leased', 'running')))
);
CREATE INDEX jobs_by_time ON jobs (tenant_id, created_at DESC, job_id DESC);
CREATE INDEX jobs_of_rollout ON jobs (tenant_id, rollout_id, wave) WHERE rollout_id IS NOT NULL;
-- What an agent may be given now or soon, what its revocation takes along, and what the sweep has to look at.
CREATE INDEX jobs_open_by_agent ON jobs (tenant_id, agent, created_at)
    WHERE state IN ('awaiting_approval', 'queued', 'leased', 'running');
CREATE INDEX jobs_open_by_expiry ON jobs (expires_at) WHERE state IN ('awaiting_approval', 'queued') AND NOT held;
CREATE INDEX jobs_open_by_lease ON jobs (lease_until) WHERE state IN ('leased', 'running');

-- What a job prints while it runs, at most 64 KiB of it. Beside the jobs, which stay narrow.
CREATE TABLE job_outputs (
    tenant_id  uuid NOT NULL,
    job_id     uuid NOT NULL,
    data       text NOT NULL CHECK (octet_length(data) <= 65536),
    truncated  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, job_id),
    FOREIGN KEY (tenant_id, job_id) REFERENCES jobs
);

-- Files that COLLECT_FILE brings, one a job, kept for days. They come in chunks under one lease; a file counts once it is
-- `complete`: as long as was said and of the SHA-256 that was said.
CREATE TABLE job_files (
    tenant_id    uuid NOT NULL,
    job_id       uuid NOT NULL,
    lease        uuid NOT NULL,
    path         text NOT NULL,
    digest       bytea NOT NULL CHECK (length(digest) = 32),
    size         integer NOT NULL CHECK (size BETWEEN 0 AND 16777216),
    received     integer NOT NULL DEFAULT 0 CHECK (received BETWEEN 0 AND size),
    complete     boolean NOT NULL DEFAULT false,
    received_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, job_id),
    FOREIGN KEY (tenant_id, job_id) REFERENCES jobs
);
CREATE INDEX job_files_by_age ON job_files (received_at);
CREATE TABLE job_file_chunks (
    tenant_id  uuid NOT NULL,
    job_id     uuid NOT NULL,
    start      integer NOT NULL CHECK (start >= 0),
    content    bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (tenant_id, job_id, start),
    FOREIGN KEY (tenant_id, job_id) REFERENCES job_files ON DELETE CASCADE
);

-- Replicas on which an agent waits for jobs learn of one at its commit. The payload is who it is for.
CREATE FUNCTION job_is_due() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM pg_notify('trustsoc_jobs', NEW.tenant_id::text || ' ' || NEW.agent);
    RETURN NULL;
END $$;
CREATE TRIGGER job_is_due AFTER INSERT OR UPDATE OF state, held ON jobs
    FOR EACH ROW WHEN (NEW.state = 'queued' AND NOT NEW.held) EXECUTE FUNCTION job_is_due();

-- What every poll of an agent asks: whether it may ask at all, and when something may be there for it, which is what waits
-- for its time or for the end of another's lease. It enters the tenant for the transaction that it is called in, which row-
-- level security then holds to; a statement by itself is such a transaction.
CREATE FUNCTION agent_standing(
    tenant uuid, name text, OUT state text, OUT result_key bytea, OUT next_at timestamptz
) LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant::text, true);
    SELECT agents.state, agents.result_key,
           (SELECT min(greatest(jobs.not_before, coalesce(jobs.lease_until, jobs.not_before))) FROM jobs
            WHERE jobs.agent = agents.agent AND jobs.state IN ('queued', 'leased', 'running') AND NOT jobs.held
              AND jobs.attempt < jobs.max_attempts AND jobs.expires_at > now()
              AND NOT EXISTS (SELECT FROM rollouts WHERE rollouts.rollout_id = jobs.rollout_id
                              AND rollouts.state IN ('stopped', 'cancelled')))
    INTO state, result_key, next_at
    FROM agents WHERE agents.agent = name;
END $$;
REVOKE ALL ON FUNCTION agent_standing(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION agent_standing(uuid, text) TO trustsoc_app;

-- Replicas remember agents' signing keys for minutes, and forget them when one of a tenant's was changed.
CREATE FUNCTION signing_key_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM pg_notify('trustsoc_jobs', NEW.tenant_id::text || ' ');
    RETURN NULL;
END $$;
CREATE TRIGGER signing_key_changed AFTER UPDATE ON signing_keys
    FOR EACH ROW EXECUTE FUNCTION signing_key_changed();
REVOKE ALL ON FUNCTION job_is_due(), signing_key_changed() FROM PUBLIC;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['agent_tokens', 'agents', 'agent_certificates', 'agent_policies', 'rollouts', 'jobs',
        'job_outputs', 'job_files', 'job_file_chunks'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I USING (tenant_id = '
            '(SELECT nullif(current_setting(''app.tenant_id'', true), '''')::uuid))', name);
    END LOOP;
END $$;

-- A token names its tenant, so it is looked up before the tenant is known: whoever holds it sees its row, no other.
CREATE POLICY holder_of_the_token ON agent_tokens FOR SELECT USING
    (digest = (SELECT decode(nullif(current_setting('app.key_digest', true), ''), 'hex')));

-- What a job, a policy or a certificate is stays as it was made; only what becomes of it changes.
GRANT SELECT, INSERT ON agent_tokens, agents, agent_certificates, agent_policies, rollouts, jobs, job_outputs, job_files,
    job_file_chunks TO trustsoc_app;
GRANT UPDATE (spent_at, spent_by, revoked_at) ON agent_tokens TO trustsoc_app;
GRANT UPDATE (state, labels, result_key, signing_key, version, platform, enrolled_by, enrolled_at, revoked_by, revoked_at,
    last_seen, status, health) ON agents TO trustsoc_app;
GRANT UPDATE (revoked_at) ON agent_certificates TO trustsoc_app;
GRANT UPDATE (state, wave, failures, detail, approved_by, changed_at) ON rollouts TO trustsoc_app;
GRANT UPDATE (state, held, approved_by, approved_at, issued_at, not_before, expires_at, attempt, lease, lease_until,
    key_id, envelope, signature, reason, detail, result, result_signature, started_at, ended_at) ON jobs TO trustsoc_app;
GRANT UPDATE (data, truncated) ON job_outputs TO trustsoc_app;
GRANT UPDATE (received, complete), DELETE ON job_files TO trustsoc_app;

-- The sweep asks which tenants have something to do; what it does there it does as the app.
GRANT SELECT (tenant_id, state, held, expires_at, lease_until) ON jobs TO trustsoc_writer;
GRANT SELECT (tenant_id, state) ON rollouts TO trustsoc_writer;
GRANT SELECT (tenant_id, received_at) ON job_files TO trustsoc_writer;
-- How many agents there are, and how they are, for the gauges.
GRANT SELECT (tenant_id, state, status, last_seen) ON agents TO trustsoc_writer;
