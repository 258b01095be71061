-- A tenant's quota, taken out of its settings so that the writer can read the quotas of all tenants in one query and
-- none of the other settings. The app role writes settings as before.
ALTER TABLE tenants ADD COLUMN quota json GENERATED ALWAYS AS (settings -> 'quota') STORED;
GRANT SELECT (quota) ON tenants TO trustsoc_writer;
