#!/bin/bash
# Builds the image for amd64 and arm64 from the Dockerfile as it is, without a container engine or a registry, looks at
# what is in it, and runs it as Kubernetes would: as uid 65532, in its own root, read-only, without rights, with
# PORT=8080, against the stand-in API server. Needs root and, from Debian, buildah and busybox-static, which it installs
# where they are missing.
#
# usage: image.sh [VERSION [ARCHIVE]]
#
#   VERSION   what the program says of itself, ci by default
#   ARCHIVE   an OCI archive to write, which holds the image of both architectures
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
limit=$((24 * 1000 * 1000))
name=metrics-server-prom

fail() {
  echo "image.sh: $*" >&2
  exit 1
}
[ "$(id -u)" = 0 ] || fail "needs root, for mounts and another user"
if ! command -v buildah >/dev/null || [ ! -x /bin/busybox ]; then
  { apt-get update && apt-get install -y --no-install-recommends buildah busybox-static; } >/dev/null ||
    fail "cannot install buildah and busybox-static"
fi

# Everything is in one folder, images too, and in a mount namespace of its own: when this script ends, however it
# ends, no mount is left.
if [ "${1:-}" != --inside ]; then
  work=$(mktemp -d)
  trap 'rm -rf --one-file-system "$work"' EXIT
  archive=${2:+$(realpath "$2")}
  unshare --mount --propagation private "$0" --inside "$work" "${1:-ci}" "$archive"
  exit
fi
work=$2 version=$3 archive=$4
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }

# golang:1.26 is made of this machine's own Go and certificate authorities, as no registry is to be relied on. What
# the Dockerfile does with it is the same. Go, modules and built packages are mounted, which saves time.
cd "$root"
base=$(buildah from scratch)
mount=$(buildah mount "$base")
mkdir -p "$mount"/{bin,tmp,etc/ssl/certs,root}
cp /bin/busybox "$mount/bin/"
for tool in sh mkdir rm cp ls cat env; do ln -s busybox "$mount/bin/$tool"; done
cp -L /etc/ssl/certs/ca-certificates.crt "$mount/etc/ssl/certs/"
chmod 1777 "$mount/tmp"
buildah umount "$base" >/dev/null
buildah config --env PATH=/usr/local/go/bin:/bin --env GOTOOLCHAIN=local \
  --env GOMODCACHE=/cache/modules --env GOCACHE=/cache/build "$base"
buildah commit --quiet --rm "$base" docker.io/library/golang:1.26 >/dev/null

# The program is cross-compiled: nothing of arm64 runs here. BUILDPLATFORM is what BuildKit sets by itself.
host=$(go env GOHOSTARCH)
revision=$(git rev-parse --verify --quiet HEAD 2>/dev/null || echo unknown)
mounts=(--volume "$(go env GOROOT):/usr/local/go:ro" --volume "$(go env GOMODCACHE):/cache/modules"
  --volume "$(go env GOCACHE):/cache/build")
for arch in amd64 arm64; do
  buildah bud --pull-never --quiet --tag "$name:$arch" --platform "linux/$arch" "${mounts[@]}" \
    --build-arg BUILDPLATFORM="linux/$host" --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    . >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    fail "the build for $arch failed"
  }
done

# What is in them.
wanted='./etc/ssl/certs/ca-certificates.crt 644 0
./metrics-server-prom 755 0'
about='{{.OCIv1.Architecture}} {{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.ExposedPorts}}'
sizes=''
for arch in amd64 arm64; do
  container=$(buildah from --pull-never --arch "$arch" "$name:$arch")
  image=$(buildah mount "$container")
  found=$(cd "$image" && find . -mindepth 1 ! -type d -printf '%p %m %U\n' | sort)
  [ "$found" = "$wanted" ] || fail "the image for $arch holds not the program and the certificate authorities, but:
$found"
  size=$(cd "$image" && find . -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
  [ "$size" -le "$limit" ] || fail "the image for $arch has $size bytes, more than $limit"
  sizes="$sizes$arch $size bytes, "
  config=$(buildah inspect --format "$about" "$container")
  [ "$config" = "$arch 65532:65532 [/metrics-server-prom] map[9100/tcp:{}]" ] ||
    fail "the image for $arch is configured as: $config"
  for setting in GOOS=linux "GOARCH=$arch" CGO_ENABLED=0; do
    go version -m "$image/metrics-server-prom" | grep "$setting\$" >/dev/null ||
      fail "the program for $arch is not built with $setting"
  done
  [ "$arch" != "$host" ] || cp -a "$image" "$work/root"
  buildah umount "$container" >/dev/null
done
[ -d "$work/root" ] || fail "no image runs on $host"

if [ -n "$archive" ]; then
  buildah manifest create "$name:$version" >/dev/null
  for arch in amd64 arm64; do buildah manifest add "$name:$version" "$name:$arch" >/dev/null; done
  buildah manifest push --all --quiet "$name:$version" "oci:$work/oci:$version" >/dev/null
  tar -C "$work/oci" -cf "$archive" .
fi

# How it runs: the mount points that any container engine adds, then read-only.
account=var/run/secrets/kubernetes.io/serviceaccount
mkdir -p "$work/root/proc" "$work/root/etc/kube" "$work/kube" "$work/root/$account" "$work/account"
mount --bind "$work/root" "$work/root"
mount -t proc proc "$work/root/proc"
mount --bind "$work/kube" "$work/root/etc/kube"
mount -o remount,bind,ro "$work/root/etc/kube"
mount --bind "$work/account" "$work/root/$account"
mount -o remount,bind,ro "$work/root/$account"
mount -o remount,bind,ro "$work/root"
printf '127.0.0.1 localhost target\n' >"$work/hosts"
mount --bind "$work/hosts" /etc/hosts

# In a network of its own, where every port is free. Compiled out here, as go build may need the other one.
prometheus=$(.ci/prometheus.sh prometheus)
go build -o "$work/image" ./.ci/image
unshare --net sh -c '/bin/busybox ip link set lo up && exec "$@"' sh \
  "$work/image" -root "$work/root" -kube "$work/kube" -account "$work/account" \
  -prometheus "$prometheus" -prometheus-config example/prometheus.yml >"$work/ran" 2>"$work/log" || {
  cat "$work/log" >&2
  fail "the image does not run as it should"
}

echo "image: ${sizes}only the program and the certificate authorities; uid 65532, read-only root:" \
  "$(paste -sd ';' "$work/ran" | sed 's/;/; /g')"
