#!/bin/sh
# Fails for lines of more than 120 characters, in code and in prose. Rows of tables are exempt: lines that begin with |,
# and in Go lines that are one whole element of a list, {…}, or of a map, "…": …, and samples of a page;
# in promtool's tests series.
set -eu
export LC_ALL=C.UTF-8 # characters, not bytes
cd "$(dirname "$0")/.."

# The backquotes are Go's.
# shellcheck disable=SC2016
long=$(git ls-files '*.go' '*.md' '*.sh' '*.yml' '*.yaml' .ci/run | xargs grep -HnE '^.{121,}' |
  grep -vE '^[^:]+:[0-9]+:(\||[[:space:]]*(\{.*\},?$|"[^"]*": |`[^`]*`: |(want: *`)?[a-z_]+\{.*\} [0-9.]+(`|$)))' |
  grep -vE '^[^:]+_test\.yml:[0-9]+: *- (series|labels): ') || true
[ -z "$long" ] || {
  echo "lines.sh: more than 120 characters:" >&2
  echo "$long" >&2
  exit 1
}
