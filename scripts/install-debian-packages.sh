#!/bin/sh
# Debian's packages for the layers ssh and lab, where this user may install them.
set -eu
missing=
for pair in dockerd:docker.io sshd:openssh-server ssh:openssh-client ip:iproute2 nsenter:util-linux curl:curl; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "The layers that need these Debian packages will be skipped:$missing" >&2
  exit 0
fi
apt-get update -q
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
