-- Control rows are few among many batches; finding the newest must not read the journal.
CREATE INDEX journal_control ON journal (tenant_id, seq DESC) WHERE kind = 'control';
