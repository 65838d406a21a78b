#!/bin/sh
# Installs the receivers that the end-to-end tests push to, from Debian: VictoriaMetrics and the Pushgateway. Needs root
# where they are missing.
set -eu
for program in victoria-metrics prometheus-pushgateway; do
  command -v "$program" >/dev/null || missing="${missing:-} $program"
done
[ -n "${missing:-}" ] || exit 0
# The words are names of packages.
# shellcheck disable=SC2086
{ apt-get update && apt-get install -y --no-install-recommends $missing; } >/dev/null || {
  echo "receivers.sh: cannot install$missing" >&2
  exit 1
}
