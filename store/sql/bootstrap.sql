-- name: create_roles
-- The four roles of an installation, made or put right. Only a superuser may give BYPASSRLS. The detector inherits
-- nothing: inside a transaction it becomes the app or the writer by SET LOCAL ROLE, and is nobody otherwise.
DO $$
DECLARE
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('trustsoc roles', 0));
    FOREACH name IN ARRAY ARRAY['trustsoc_owner', 'trustsoc_writer', 'trustsoc_app', 'trustsoc_detector'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
    END LOOP;
    ALTER ROLE trustsoc_owner LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION INHERIT;
    ALTER ROLE trustsoc_writer LOGIN NOSUPERUSER BYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION INHERIT;
    ALTER ROLE trustsoc_app LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION INHERIT;
    ALTER ROLE trustsoc_detector LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT;
    GRANT trustsoc_app, trustsoc_writer TO trustsoc_detector WITH INHERIT FALSE, SET TRUE;
END $$;

-- name: password_statement
-- The text of the statement that sets a role's password; the server does the quoting.
SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text);

-- name: database_exists
SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1);

-- name: create_database_statement
-- CREATE DATABASE takes no parameters and no transaction, so its text is made here and executed by itself.
SELECT format('CREATE DATABASE %I OWNER trustsoc_owner ENCODING ''UTF8'' TEMPLATE template0', $1::text);

-- name: database_privileges_statement
SELECT format('REVOKE ALL ON DATABASE %1$I FROM PUBLIC; '
    'GRANT CONNECT ON DATABASE %1$I TO trustsoc_owner, trustsoc_writer, trustsoc_app, trustsoc_detector', $1::text);
