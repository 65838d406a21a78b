#!/bin/sh
# Checks all manifests without a cluster: the kustomizations, the chart with several sets of values, Knative, Cloud Run,
# the compose example, the Prometheus configuration and the workflow. Needs Go; builds what else it needs.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"

fail() {
  echo "manifests.sh: $*" >&2
  exit 1
}
helm() { go -C .ci/manifests tool helm "$@"; }

# The sets of values: a name and what is added to the chart's defaults.
chart=$root/deploy/helm/metrics-server-prom
sets=$work/helm
mkdir "$sets"
render() {
  name=$1
  shift
  helm template release "$chart" --namespace monitoring "$@" >"$sets/$name.yaml" || fail "helm template, $name"
}
helm lint --strict --quiet "$chart" >&2 || fail "helm lint"
render defaults
render namespaced --set 'settings.namespaces={shop,shop-test}'
render servicemonitor --set serviceMonitor.enabled=true,networkPolicy.enabled=true,settings.telemetryPath=/usage
render podmonitor --set podMonitor.enabled=true,podMonitor.labels.release=prometheus
render other-cluster --set kubeconfig.existingSecret=shop-cluster,kubeconfig.context=shop
render tls --set webConfig.existingSecret=web,webConfig.probe=https,serviceMonitor.enabled=true,webConfig.scrape.scheme=https
render basic-auth --set webConfig.existingSecret=web
render push --set push.existingSecret=push,push.interval=30s,'push.extraLabels=cluster="shop"',serviceAccount.name=reader
cat >"$work/everything.yaml" <<'EOF'
fullnameOverride: usage
image: {repository: images.example/metrics-server-prom, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
imagePullSecrets: [{name: images}]
settings:
  excludeNamespaces: [kube-system]
  selector: app.kubernetes.io/part-of=shop,tier!=test
  podLabels: [app, app.kubernetes.io/name]
  refreshInterval: 30s
  maxAge: 2m
  telemetryPath: /usage
  logLevel: debug
  logFormat: json
extraArgs: [--max-age=3m]
kubeconfig: {existingSecret: kubeconfig, context: shop}
webConfig: {existingSecret: web, scrape: {basicAuth: {username: {name: web, key: user}, password: {name: web, key: password}}}}
push: {url: "https://receiver.example/push", interval: 30s, extraLabels: "cluster=\"shop\",team=\"a\""}
serviceAccount: {annotations: {team: shop}}
service: {type: NodePort, port: 80, annotations: {team: shop}}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
networkPolicy: {enabled: true, extraEgress: [{ports: [{port: 8428}]}]}
podAnnotations: {team: shop}
podLabels: {team: shop}
priorityClassName: system-cluster-critical
tolerations: [{operator: Exists}]
affinity: {nodeAffinity: {}}
EOF
render everything --values "$work/everything.yaml"

# What the schema is there to refuse.
refuse() {
  if helm template release "$chart" --set "$1" >/dev/null 2>&1; then fail "the chart takes $1"; fi
}
refuse setings.selector=app
refuse settings.refreshInterval=15
refuse 'settings.namespaces={Shop}'
refuse settings.logLevel=loud
refuse service.port=0
refuse push.url=receiver:8428
refuse push.interval=30s
refuse serviceMonitor.enabled=true,podMonitor.enabled=true

# Each flag that the chart can set is one that the exporter has.
go build -o "$work/exporter" .
"$work/exporter" --help >"$work/help" 2>&1 || fail "the exporter's --help ends with an error"
for flag in $(grep -oh -e '--[a-z][a-z.-]*=' "$sets"/*.yaml | tr -d = | sort -u); do
  grep -q -e "$flag\b" "$work/help" || fail "the chart sets $flag, which the exporter does not have"
done

# The components, as an overlay uses them.
overlays=
for component in namespace servicemonitor podmonitor networkpolicy; do
  overlay=$work/$component
  mkdir "$overlay"
  base=$(realpath --relative-to="$overlay" deploy/kubernetes)
  printf 'resources: ["%s"]\ncomponents: ["%s"]\n' "$base" "$base/components/$component" >"$overlay/kustomization.yaml"
  overlays="$overlays $overlay"
done

k=deploy/kubernetes
namespace=$k/components/namespace/namespace.yaml
rights=$namespace,$k/serviceaccount.yaml,$k/clusterrole.yaml,$k/clusterrolebinding.yaml
go -C .ci/manifests test . >&2
# The words of the inner list are paths without spaces.
# shellcheck disable=SC2046
checked=$(go -C .ci/manifests run . -cloudrun "$root/deploy/cloudrun/service.yaml" \
  -compose "$root/example/docker-compose.yml" -env "$root/example/env-example" \
  $(for set in \
    "$k" deploy/kubernetes-namespaced \
    "$rights,deploy/knative/service.yaml" \
    "$namespace,$k/clusterrole.yaml,deploy/outside/rbac.yaml,deploy/outside/token.yaml"; do
    echo "$root/$set" | sed "s|,|,$root/|g"
  done) \
  $overlays "$sets"/*.yaml)

sh -n deploy/outside/kubeconfig.sh

promtool=$(.ci/prometheus.sh promtool)
"$promtool" check config --lint=all --lint-fatal example/prometheus.yml >&2

go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

echo "manifests: $checked valid; compose, Prometheus, Cloud Run and workflow files too"
