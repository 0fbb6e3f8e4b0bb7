#!/bin/sh
# Runs a command with this cluster's secrets and CPU platform in its environment.
set -eu
exec "$@"
