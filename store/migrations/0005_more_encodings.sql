-- Bodies are kept as they came: senders may compress with deflate (RFC 1950) and Zstandard (RFC 8878) as well.
ALTER TABLE journal DROP CONSTRAINT journal_encoding_check;
ALTER TABLE journal ADD CONSTRAINT journal_encoding_check
    CHECK (encoding IN ('identity', 'gzip', 'deflate', 'zstd'));
