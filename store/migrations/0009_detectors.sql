-- Dead letters that can be worked on, snapshots at several seqs, and the set of detector actors as data.

-- `letter_id` is a name for people, made of the key. One row may stand for several records: those at `positions` of its
-- batch (detect/positions.py), or, when `folded`, `count` failures of one kind in one hour of receipt, seq to last_seq.
ALTER TABLE dead_letters
    ADD COLUMN letter_id  uuid,
    ADD COLUMN state      text NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'retrying', 'retried', 'fixed', 'discarded')),
    ADD COLUMN count      bigint NOT NULL DEFAULT 1 CHECK (count > 0),
    ADD COLUMN positions  text NOT NULL DEFAULT '',
    ADD COLUMN folded     boolean NOT NULL DEFAULT false,
    ADD COLUMN last_seq   bigint,
    ADD COLUMN hour       timestamptz,
    ADD COLUMN attempts   integer NOT NULL DEFAULT 0,
    ADD COLUMN retry_seq  bigint,
    ADD COLUMN settled_by text,
    ADD COLUMN settled_at timestamptz;
-- The owner is bound by a forced policy too, and here it has to see every tenant's rows.
ALTER TABLE dead_letters NO FORCE ROW LEVEL SECURITY;
UPDATE dead_letters SET
    letter_id = md5(concat_ws(':', seq, position, stage, subject))::uuid,
    last_seq = seq,
    hour = date_trunc('hour', created_at, 'UTC');
ALTER TABLE dead_letters FORCE ROW LEVEL SECURITY;
ALTER TABLE dead_letters
    ALTER COLUMN letter_id SET NOT NULL,
    ALTER COLUMN last_seq SET NOT NULL,
    ALTER COLUMN hour SET NOT NULL,
    ADD CONSTRAINT dead_letters_letter UNIQUE (tenant_id, letter_id);
CREATE INDEX dead_letters_by_hour ON dead_letters (tenant_id, hour, stage, subject);
CREATE UNIQUE INDEX dead_letters_folded ON dead_letters (tenant_id, hour, stage, subject) WHERE folded;
CREATE INDEX dead_letters_by_time ON dead_letters (tenant_id, created_at DESC, letter_id DESC);
-- Why something failed may change with a retry; what it was does not, and no letter is deleted.
GRANT UPDATE (state, error, count, last_seq, attempts, retry_seq, settled_by, settled_at) ON dead_letters
    TO trustsoc_app;

-- Several snapshots a tenant, so that a replay can start near any seq: the newest, and one a day (store/snapshots.py).
-- `received` is the journal's time of receipt of the batch `seq`.
ALTER TABLE detector_snapshots
    ADD COLUMN received timestamptz,
    DROP CONSTRAINT detector_snapshots_pkey,
    ADD PRIMARY KEY (tenant_id, seq);
GRANT DELETE ON detector_snapshots TO trustsoc_app;

-- Whether time passing would still close a window, so that a silent tenant gets its tick whoever holds its state.
ALTER TABLE detector_marks
    ADD COLUMN open_windows  boolean NOT NULL DEFAULT false,
    ADD COLUMN last_received timestamptz;
GRANT SELECT (open_windows, last_received) ON detector_marks TO trustsoc_writer;
CREATE INDEX detector_marks_open ON detector_marks (last_received) WHERE open_windows;

-- How many actors share the virtual shards: one row. `configured` is what the installation's settings said last; only
-- a change of the settings overrules what was decided since.
CREATE TABLE shard_plan (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    actors      integer NOT NULL CHECK (actors BETWEEN 1 AND 1024),
    configured  integer NOT NULL,
    revision    bigint NOT NULL DEFAULT 1,
    changed_by  text NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now()
);

-- One row an actor: how often a process took its name. Only the newest may claim shards, so an orphan that comes back
-- cannot take them from its successor.
CREATE TABLE shard_workers (
    actor       text PRIMARY KEY,
    generation  bigint NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now()
);

-- The holder has finished and stored a snapshot: whoever should have the shard need not wait.
ALTER TABLE shard_map ADD COLUMN released boolean NOT NULL DEFAULT false;

-- A tenant with a shard, and so an actor, of its own. Such shards are numbered above the virtual ones.
CREATE TABLE tenant_pins (
    tenant_id  uuid PRIMARY KEY REFERENCES tenants,
    shard      integer NOT NULL UNIQUE CHECK (shard >= 1000000),
    pinned_by  text NOT NULL,
    pinned_at  timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE tenant_pins ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_pins FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON tenant_pins USING (tenant_id =
    (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));

GRANT SELECT, INSERT, UPDATE ON shard_plan, shard_workers TO trustsoc_writer;
GRANT SELECT, INSERT, DELETE ON tenant_pins TO trustsoc_writer;
GRANT SELECT ON tenant_pins TO trustsoc_app;
