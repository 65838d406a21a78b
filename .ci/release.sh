#!/bin/bash
# Builds all that a release consists of into a folder, and pushes nothing: binaries with their bills of materials (SBOM,
# CycloneDX), the Helm chart set to the release's image, SHA256SUMS of these, and the image of both architectures as an
# OCI archive, which needs what image.sh needs.
#
# usage: release.sh [--no-image] VERSION REGISTRY FOLDER
#
#   VERSION    of the form 1.2.3 or 1.2.3-rc.1
#   REGISTRY   where image and chart are going to be, with the owner: the image is REGISTRY/metrics-server-prom
#   FOLDER     a new or empty one
set -euo pipefail

fail() {
  echo "release.sh: $*" >&2
  exit 1
}
image=true
[ "${1:-}" != --no-image ] || { image=false; shift; }
[ $# = 3 ] || fail "usage: release.sh [--no-image] VERSION REGISTRY FOLDER"
version=$1 registry=$2
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || fail "$version is not a version such as 1.2.3"
[[ $registry =~ ^[a-z0-9.:-]+(/[a-z0-9._-]+)+$ ]] ||
  fail "$registry is not a registry and an owner in it, in lower case"
mkdir -p "$3"
folder=$(cd "$3" && pwd)
[ -z "$(ls -A "$folder")" ] || fail "$folder is not empty"

cd "$(dirname "$0")/.."
export GOTOOLCHAIN=auto # as .ci/run has it
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
name=metrics-server-prom
revision=$(git rev-parse --verify --quiet HEAD || echo unknown)

GOBIN=$work go install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do
  os=${platform%/*} arch=${platform#*/}
  binary=$folder/$name-$version-$os-$arch
  sbom=$binary.sbom.json
  CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -buildvcs=false -o "$binary" \
    -ldflags "-s -w -X main.version=$version -X main.revision=$revision" .
  "$work/cyclonedx-gomod" bin -json -version "$version" -output "$sbom" "$binary" 2>"$work/log" || {
    cat "$work/log" >&2
    fail "no bill of materials of $binary"
  }
  grep -q '"pkg:golang/k8s.io/client-go@' "$sbom" || fail "$sbom does not name what is in $binary"
done
"$folder/$name-$version-$(go env GOHOSTOS)-$(go env GOHOSTARCH)" --help 2>&1 | grep -e --kubeconfig >/dev/null ||
  fail "the program for this machine does not start"

# The chart of a release says where its image is.
helm=$(go -C .ci/manifests tool -n helm)
cp -R deploy/helm/$name "$work/"
sed -i "s|^  repository: $name\$|  repository: $registry/$name|" "$work/$name/values.yaml"
"$helm" package "$work/$name" --version "$version" --app-version "$version" --destination "$folder" >/dev/null
"$helm" template release "$folder/$name-$version.tgz" | grep "image: \"$registry/$name:$version\"" >/dev/null ||
  fail "the chart does not have the image $registry/$name:$version"

(cd "$folder" && sha256sum -- * >"$work/sums" && mv "$work/sums" SHA256SUMS)

if $image; then
  .ci/image.sh "$version" "$folder/$name-$version.oci.tar"
fi
echo "release: $(cd "$folder" && find . -type f | wc -l) files for $registry/$name:$version"
