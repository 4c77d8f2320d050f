-- Run once, by the image's own script, when the volume is empty. What each role may do in the database is given by
-- `luthien migrate`, after there are tables.

\set ON_ERROR_STOP on
\set owner `cat /run/secrets/postgres_owner_password`
\set gateway `cat /run/secrets/postgres_gateway_password`
\set grafana `cat /run/secrets/postgres_grafana_password`

-- Owns the tables, and only migrates.
CREATE ROLE luthien LOGIN PASSWORD :'owner';

-- Records and reads.
CREATE ROLE gateway LOGIN PASSWORD :'gateway';

-- Reads views without payloads; a dashboard that is left open must not hold up the record.
CREATE ROLE grafana LOGIN PASSWORD :'grafana' CONNECTION LIMIT 20;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '30s';
ALTER ROLE grafana SET idle_in_transaction_session_timeout = '60s';

CREATE DATABASE luthien OWNER luthien;
REVOKE ALL ON DATABASE luthien FROM PUBLIC;
GRANT CONNECT ON DATABASE luthien TO grafana;
