#!/bin/sh
# Writes a kubeconfig with which metrics-server-prom reads a cluster from outside it: least rights, a token, no exec
# plugin. Safe to run again.
#
# usage: kubeconfig.sh [--duration TIME] [--server URL] [--pages] FILE
#
#   --duration TIME   a token that expires, for example 24h, instead of one that lives until it is revoked;
#                     the cluster may grant less than asked
#   --server URL      where the exporter reaches the API server, if not where kubectl does
#   --pages           with the rights for the pages /metrics/cadvisor and /metrics/kube-state-metrics
#
# FILE is replaced as a whole, by renaming: who reads it meanwhile sees the old one or the new one. So a container has
# to mount the folder that FILE is in, which should hold nothing else; a mount of the file alone never sees a new one.
#
# KUBECTL names another kubectl or carries options for it, for example KUBECTL="kubectl --context prod".
# To take the access away: kubectl delete --ignore-not-found -f rbac.yaml -f token.yaml
set -eu

namespace=metrics-server-prom
account=metrics-server-prom-outside
kubectl=${KUBECTL:-kubectl}
here=$(cd "$(dirname "$0")" && pwd)

fail() {
  echo "kubeconfig.sh: $*" >&2
  exit 1
}

duration='' server='' file='' role=clusterrole.yaml
while [ $# -gt 0 ]; do
  case $1 in
    --duration | --server)
      [ $# -ge 2 ] || fail "$1 needs a value"
      if [ "$1" = --duration ]; then duration=$2; else server=$2; fi
      shift
      ;;
    --pages) role=components/pages/clusterrole.yaml ;;
    -*) fail "unknown option $1; allowed are --duration TIME, --server URL and --pages" ;;
    *) [ -z "$file" ] || fail "one FILE, not two: $file and $1"; file=$1 ;;
  esac
  shift
done
[ -n "$file" ] || fail "usage: kubeconfig.sh [--duration TIME] [--server URL] [--pages] FILE"
# Container engines make a folder where a file is to be mounted that is not there.
[ ! -d "$file" ] || fail "$file is a folder; name a file in it: $file/config"
[ -d "$(dirname "$file")" ] || fail "there is no folder $(dirname "$file")"

cluster() { $kubectl config view --raw --minify --flatten -o "jsonpath={.clusters[0].cluster.$1}"; }
[ -n "$server" ] || server=$(cluster server)
[ -n "$server" ] ||
  fail "kubectl's current context names no API server; choose one with KUBECTL=\"kubectl --context NAME\""
ca=$(cluster certificate-authority-data)

$kubectl apply -f "$here/../kubernetes/components/namespace/namespace.yaml" \
  -f "$here/../kubernetes/$role" -f "$here/rbac.yaml" >&2

if [ -n "$duration" ]; then
  token=$($kubectl create token "$account" --namespace "$namespace" --duration "$duration")
else
  $kubectl apply -f "$here/token.yaml" >&2
  $kubectl wait --namespace "$namespace" "secret/$account" --for='jsonpath={.data.token}' --timeout=60s >&2 ||
    fail "the cluster's token controller did not fill in the Secret $namespace/$account;" \
      "--duration needs no such controller"
  token=$($kubectl get secret "$account" --namespace "$namespace" -o 'go-template={{.data.token | base64decode}}')
fi

# The token is a password: for nobody else to read, not even while it is being written.
umask 077
new=$(mktemp "$file.XXXXXX")
trap 'rm -f "$new"' EXIT
cat >"$new" <<EOF
apiVersion: v1
kind: Config
current-context: metrics-server-prom
contexts:
  - name: metrics-server-prom
    context:
      cluster: metrics-server-prom
      user: $account
clusters:
  - name: metrics-server-prom
    cluster:
      server: "$server"${ca:+
      certificate-authority-data: $ca}
users:
  - name: $account
    user:
      token: $token
EOF
mv -f "$new" "$file"

# The metrics API behind the new file, asked as the exporter will ask it. A kubeconfig from the environment must not
# help.
KUBECONFIG='' $kubectl --kubeconfig "$file" --context metrics-server-prom \
  get --raw /apis/metrics.k8s.io/v1beta1/nodes >/dev/null ||
  fail "$file is written, but a first request with it did not work, see above"
echo "$file works against $server" >&2
