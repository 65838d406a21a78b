#!/usr/bin/env bash
# Fails where the program can reach a vulnerability that was known on the day of the database below. It is the Go
# project's own, which also comes as a module; the public workflow asks the one on the Internet as it is by then.
set -euo pipefail
cd "$(dirname "$0")/.."

export GOTOOLCHAIN=auto # as .ci/run has it
version=v0.0.0-20261105234957-e22db6528018
db=$(mktemp -d)
trap 'rm -rf "$db"' EXIT
reports=$(go mod download -json "golang.org/x/vulndb@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/data/osv
go run "golang.org/x/vulndb/cmd/indexdb@$version" -vulns "$reports" -out "$db"
go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 -db "file://$db" ./...
