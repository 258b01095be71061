-- Events of a flood that were folded into the first of their window (detect/fold.py): how many, from when to when, and
-- where. `records` are the places (SEQ-POSITION) of the first 1,000, `samples` the evidence of the first 20.
CREATE TABLE event_folds (
    tenant_id   uuid NOT NULL,
    event_id    uuid NOT NULL,
    rule_id     text NOT NULL,
    repeats     bigint NOT NULL CHECK (repeats > 0),
    first_time  timestamptz NOT NULL,
    last_time   timestamptz NOT NULL,
    records     text[] NOT NULL,
    samples     jsonb NOT NULL,
    PRIMARY KEY (tenant_id, event_id),
    FOREIGN KEY (tenant_id, event_id) REFERENCES events
);
ALTER TABLE event_folds ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_folds FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON event_folds USING (tenant_id =
    (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid));

GRANT SELECT, INSERT, UPDATE ON event_folds TO trustsoc_app;

-- How often each rule hit counts the folded ones too.
CREATE INDEX event_folds_by_rule ON event_folds (tenant_id, rule_id, last_time DESC);
