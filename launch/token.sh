#!/usr/bin/env bash
# Makes the token of Ray's authentication where there is none, readable by its owner alone: Ray
# itself would make it readable by everyone. Called by local.sh and env.sh.
set -euo pipefail

[ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ] || exit 0
token="$HOME/.ray/auth_token"
if [ ! -s "$token" ]; then
  (umask 077 && ray get-auth-token --generate >/dev/null 2>&1) \
    || { echo "could not write $token" >&2; exit 1; }
fi
chmod 600 "$token"
