-- Who may do what. Roles are made by store/sql/bootstrap.sql; nothing is left to PUBLIC.
-- trustsoc_detector is a member of app and writer without inheriting: it has no right but to become one of them.

REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO trustsoc_writer, trustsoc_app, trustsoc_detector;

-- The writer passes by row-level security, so it gets the few columns that its work needs and no more.
GRANT SELECT, INSERT ON journal TO trustsoc_writer;
GRANT INSERT ON raw_logs TO trustsoc_writer;
GRANT SELECT, INSERT, UPDATE ON journal_heads TO trustsoc_writer;
GRANT SELECT (tenant_id, name, created_at) ON tenants TO trustsoc_writer;
GRANT SELECT (tenant_id, seq, epoch) ON detector_marks TO trustsoc_writer;
GRANT SELECT (tenant_id, incident_id, revision, attempts, not_before), UPDATE (attempts, not_before)
    ON advisory_queue TO trustsoc_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON shard_map TO trustsoc_writer;
GRANT SELECT ON rule_sets TO trustsoc_writer;

-- The app sees the rows of one tenant. What is a record of the past has no UPDATE and no DELETE.
GRANT SELECT, INSERT ON tenants, api_keys, journal_heads, events, incident_events, advisories, dead_letters, audit_log,
    rule_sets TO trustsoc_app;
GRANT UPDATE (settings) ON tenants TO trustsoc_app;
GRANT UPDATE (label, expires_at, revoked_at) ON api_keys TO trustsoc_app;
GRANT SELECT ON admin_keys, journal, raw_logs, shard_map TO trustsoc_app;
GRANT SELECT, INSERT, UPDATE ON feature_rollup_1m, feature_rollup_5m, feature_rollup_1h, incidents, detector_snapshots,
    detector_marks TO trustsoc_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON advisory_queue TO trustsoc_app;
GRANT EXECUTE ON FUNCTION raw_logs_make_partitions(date, integer), raw_logs_drop_partitions(date) TO trustsoc_app;

-- The owner is bound by the forced policies like everybody. Administrators are made by whoever holds the owner's
-- password, on the server's own machine: a hole in a service that runs as the app must not be able to make one.
CREATE POLICY made_by_the_owner ON admin_keys TO trustsoc_owner USING (true) WITH CHECK (true);
