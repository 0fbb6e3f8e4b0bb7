#!/bin/sh
# Runs a command with this cluster's secrets and CPU platform in its environment.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
while IFS= read -r line; do
  [ -z "$line" ] || export "${line?}"
done < "$here/secrets.env"
exec "$@"
