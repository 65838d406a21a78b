#!/bin/sh
# Installs from Debian the browsers that the end-to-end tests look at the page with, and npm, which fetches axe-core.
# Needs root where they are missing.
set -eu
has() { for program; do ! command -v "$program" >/dev/null || return 0; done; return 1; }
has chromium google-chrome || missing=chromium
has firefox-esr firefox || missing="${missing:-} firefox-esr"
has npm || missing="${missing:-} npm"
[ -n "${missing:-}" ] || exit 0
# The words are names of packages.
# shellcheck disable=SC2086
{ apt-get update && apt-get install -y --no-install-recommends $missing; } >/dev/null || {
  echo "browsers.sh: cannot install $missing" >&2
  exit 1
}
