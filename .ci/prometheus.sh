#!/bin/sh
# Prints the path of Prometheus' own prometheus or promtool, which is built where it is missing: some minutes, once for
# this machine. It stays where the end-to-end tests keep theirs.
#
# usage: prometheus.sh prometheus|promtool
set -eu
version=v0.316.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/metrics-server-prom-e2e
tool=$cache/$1-$version
if [ ! -x "$tool" ]; then
  echo "prometheus.sh: building $1 $version" >&2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # Without the tag a dependency of the service discoveries is missing.
  GOBIN=$work GOFLAGS='' CGO_ENABLED=0 go install -ldflags '-s -w' -tags remove_all_sd \
    "github.com/prometheus/prometheus/cmd/$1@$version"
  mkdir -p "$cache"
  mv "$work/$1" "$tool"
fi
echo "$tool"
