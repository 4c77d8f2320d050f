#!/bin/sh
# Makes what docker-compose.yml needs and nobody should choose: random passwords, each in a file of .secrets/.
# What is there stays, since a database keeps the passwords that it was made with. Run it again after an upgrade.
set -eu
umask 077
cd "$(dirname "$0")/.."
mkdir -p .secrets
# Nobody else on this machine may enter. The files themselves can be read by all: they are bound into containers as
# they are, where each service has a user of its own, and may not even as root read what belongs to somebody else.
chmod 700 .secrets
# So it is with what is below otel/, which a checkout under umask 077 would keep to its owner.
chmod -R a+rX otel || true

write() { # name, contents: unless it is there
  [ -s ".secrets/$1" ] && return
  printf '%s' "$2" > ".secrets/$1.new"
  chmod 444 ".secrets/$1.new"
  mv ".secrets/$1.new" ".secrets/$1"
  echo "made .secrets/$1"
}

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

for name in postgres_password postgres_owner_password postgres_gateway_password postgres_grafana_password \
  grafana_admin_password grafana_secret_key luthien_debug_token; do
  write "$name" "$(random)"
done
write database_url_owner "postgresql://luthien:$(cat .secrets/postgres_owner_password)@postgres:5432/luthien"
write database_url_gateway "postgresql://gateway:$(cat .secrets/postgres_gateway_password)@postgres:5432/luthien"

# Compose reads .env by itself; without this line it says what to do.
if ! grep -qs '^SECRETS_DIR=' .env; then
  echo 'SECRETS_DIR=./.secrets' >> .env
  echo "added SECRETS_DIR to .env"
fi
