#!/bin/bash
# Builds the image from the Dockerfile as it is, without a container engine or a registry, looks at what is in it, and
# runs it as Kubernetes would: as uid 65532, in its own root, read-only, without rights, with PORT=8080, against the
# stand-in API server. Needs root and, from Debian, buildah and busybox-static, which it installs where they are missing.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
limit=$((24 * 1000 * 1000))

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
  unshare --mount --propagation private "$0" --inside "$work"
  exit
fi
work=$2
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }

# golang:1.26 is made of this machine's own Go and certificate authorities, as no registry is to be relied on. What
# the Dockerfile does with it is the same.
base=$(buildah from scratch)
mount=$(buildah mount "$base")
mkdir -p "$mount"/{bin,tmp,etc/ssl/certs,usr/local,root}
cp -a "$(go env GOROOT)" "$mount/usr/local/go"
cp /bin/busybox "$mount/bin/"
for name in sh mkdir rm cp ls cat env; do ln -s busybox "$mount/bin/$name"; done
cp -L /etc/ssl/certs/ca-certificates.crt "$mount/etc/ssl/certs/"
chmod 1777 "$mount/tmp"
buildah umount "$base" >/dev/null
buildah config --env PATH=/usr/local/go/bin:/bin --env GOTOOLCHAIN=local "$base"
buildah commit --quiet --rm "$base" docker.io/library/golang:1.26 >/dev/null

cd "$root"
revision=$(git rev-parse --verify --quiet HEAD 2>/dev/null || echo unknown)
buildah bud --pull-never --quiet --tag metrics-server-prom:ci \
  --build-arg VERSION=ci --build-arg REVISION="$revision" . >"$work/log" 2>&1 || {
  cat "$work/log" >&2
  fail "the build failed"
}

container=$(buildah from --pull-never metrics-server-prom:ci)
image=$(buildah mount "$container")

# What is in it.
found=$(cd "$image" && find . -mindepth 1 ! -type d -printf '%p %m %U\n' | sort)
wanted='./etc/ssl/certs/ca-certificates.crt 644 0
./metrics-server-prom 755 0'
[ "$found" = "$wanted" ] || fail "the image holds not the program and the certificate authorities, but:
$found"
size=$(cd "$image" && find . -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
[ "$size" -le "$limit" ] || fail "the image has $size bytes, more than $limit"
config=$(buildah inspect --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.ExposedPorts}}' "$container")
[ "$config" = '65532:65532 [/metrics-server-prom] map[9100/tcp:{}]' ] || fail "the image is configured as: $config"

# How it runs: the mount points that any container engine adds, then read-only.
cp -a "$image" "$work/root"
buildah umount "$container" >/dev/null
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

echo "image: $size bytes, only the program and the certificate authorities; uid 65532, read-only root: $(paste -sd ';' "$work/ran" | sed 's/;/; /g')"
