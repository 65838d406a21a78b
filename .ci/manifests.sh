#!/bin/sh
# Checks all manifests without a cluster: the kustomizations, the chart with several sets of values, Knative, Cloud Run,
# the compose example, Prometheus' configuration and rules, the dashboards and the workflow. Needs Go; builds what else
# it needs. The exporter itself says whether it takes the settings.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"

fail() {
  echo "manifests.sh: $*" >&2
  exit 1
}
# Built once, and then called as it is.
helm=$(go -C .ci/manifests tool -n helm)

# The sets of values: a name and what is added to the chart's defaults.
chart=$root/deploy/helm/metrics-server-prom
sets=$work/helm
mkdir "$sets"
release=release
render() {
  name=$1
  shift
  "$helm" template "$release" "$chart" --namespace monitoring "$@" >"$sets/$name.yaml" || fail "helm template, $name"
}
# What a set must have, or must not have, in one of its lines.
has() { grep -qE -e "$2" "$sets/$1.yaml" || fail "the chart's set $1 has no $2"; }
hasNot() { ! grep -nE -e "$2" "$sets/$1.yaml" >&2 || fail "the chart's set $1 has $2"; }
"$helm" lint --strict --quiet "$chart" >&2 || fail "helm lint"
render defaults
render namespaced --set 'settings.namespaces={shop,shop-test}'
render servicemonitor --set serviceMonitor.enabled=true,networkPolicy.enabled=true,settings.telemetryPath=/usage
render podmonitor --set podMonitor.enabled=true,podMonitor.labels.release=prometheus
render other-cluster --set kubeconfig.existingSecret=shop-cluster,kubeconfig.context=shop
render clusters --set kubeconfig.existingSecret=clusters,kubeconfig.key=
has clusters 'kubeconfig=/etc/kube$'
hasNot clusters 'items:|key:'
has other-cluster 'kubeconfig=/etc/kube/config$'
render contexts --set 'kubeconfig.existingSecret=clusters,kubeconfig.context=*'
has contexts '"--context=\*"'
render tls --set webConfig.existingSecret=web,webConfig.probe=https,webConfig.scrape.scheme=https \
  --set serviceMonitor.enabled=true
render basic-auth --set webConfig.existingSecret=web
# The pages, each alone and both, with each way to read and to scrape; what has to fit together is checked below.
pages() {
  render "$1-none" --set "$2"
  for page in cadvisor kube-state-metrics cadvisor,kube-state-metrics; do
    name=$1-$(echo "$page" | tr , -)
    render "$name" --set "$2,pages={$page}"
    has "$name" "value: \"$page\"\$"
  done
}
for namespaces in '' ',settings.namespaces={shop,shop-test}'; do
  pages "pages${namespaces:+-by-roles}" "service.port=9100$namespaces"
  for monitor in serviceMonitor podMonitor; do
    set=pages${namespaces:+-by-roles}-$monitor
    pages "$set" "$monitor.enabled=true$namespaces"
    has "$set-cadvisor" 'replacement: kubelet'
    has "$set-cadvisor" 'replacement: /metrics/cadvisor'
    pages "$set-mixin" "$monitor.enabled=true,$monitor.jobs=mixin$namespaces"
    has "$set-mixin-cadvisor" 'replacement: cadvisor'
    hasNot "$set-mixin-cadvisor-kube-state-metrics" 'metrics_path|kubelet'
  done
done
render push --set push.existingSecret=push,push.interval=30s,serviceAccount.name=reader \
  --set 'push.extraLabels=cluster="shop"'
remote="push.url=https://receiver.example/api/v1/write,push.format=remote-write"
render remote-write --set "$remote,push.httpConfig.existingSecret=push,push.interval=0s"
has remote-write 'push.instance=release-metrics-server-prom'
has remote-write 'push.http-config.file=/etc/metrics-server-prom-push/http-config.yml'
has remote-write 'type: Recreate'
hasNot push 'type: Recreate|push.instance'
# Once and out: no right to watch, and nothing that is only for a server.
for namespaces in '' ',settings.namespaces={shop,shop-test}'; do
  for pages in '' ',pages={cadvisor,kube-state-metrics}'; do
    set=cronjob${namespaces:+-by-roles}${pages:+-pages}
    render "$set" --set "$remote,push.instance=shop,cronJob.enabled=true,networkPolicy.enabled=true$namespaces$pages"
    has "$set" 'kind: CronJob'
    has "$set" 'push.instance=shop'
    hasNot "$set" 'watch|kind: (Deployment|Service$)|Probe:|web\.'
  done
done
render cronjob-secrets --set cronJob.enabled=true,push.existingSecret=push,push.httpConfig.existingSecret=access \
  --set 'push.format=remote-write,cronJob.schedule=*/5 * * * *,kubeconfig.existingSecret=shop' \
  --set webConfig.existingSecret=web
hasNot cronjob-secrets 'web-config'
# As OpenShift's restricted-v2 wants it.
render openshift --set podSecurityContext.runAsUser=,podSecurityContext.runAsGroup=,podSecurityContext.fsGroup=
hasNot openshift 'runAsUser|runAsGroup|fsGroup'
has openshift 'runAsNonRoot: true'
# Names that YAML takes for numbers and the like; the types of the API refuse all but strings.
release=12
render numbers --namespace 123 --set nameOverride=0x1f,fullnameOverride=1e3,serviceMonitor.enabled=true \
  --set-string serviceAccount.name=1_000,kubeconfig.existingSecret=0o7,kubeconfig.key=1.5,kubeconfig.context=null \
  --set-string webConfig.existingSecret=true,push.existingSecret=12,priorityClassName=1e9
render number-roles --namespace 123 --set-string 'settings.namespaces={123,456},settings.excludeNamespaces={789}'
release=release
render other-namespace --set serviceMonitor.enabled=true,serviceMonitor.namespace=prometheus,serviceMonitor.interval= \
  --set serviceMonitor.scrapeTimeout=,strategy.type=Recreate
has other-namespace '^  namespace: "prometheus"'
has other-namespace 'matchNames: \["monitoring"\]'
has other-namespace 'type: Recreate'
hasNot other-namespace 'interval:|scrapeTimeout:'
cat >"$work/everything.yaml" <<'EOF'
fullnameOverride: usage
image:
  repository: images.example/metrics-server-prom
  digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"
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
pages: [kube-state-metrics, cadvisor]
extraArgs: ["--push.header=X-Team: shop"]
extraEnv: [{name: GOGC, value: "50"}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
kubeconfig: {existingSecret: kubeconfig, context: shop}
webConfig:
  existingSecret: web
  scrape: {basicAuth: {username: {name: web, key: user}, password: {name: web, key: password}}}
push: {url: "https://receiver.example/push", interval: 30s, extraLabels: "cluster=\"shop\",team=\"a\""}
serviceAccount: {annotations: {team: shop}}
service: {type: NodePort, port: 80, annotations: {team: shop}}
serviceMonitor:
  enabled: true
  namespace: prometheus
  labels: {release: prometheus}
  interval: 30s
  scrapeTimeout: 20s
  relabelings: [{targetLabel: cluster, replacement: shop}]
  metricRelabelings: [{sourceLabels: [namespace], regex: test-.*, action: drop}]
networkPolicy: {enabled: true, apiServerPorts: [443, 8443], extraEgress: [{ports: [{port: 8428}]}]}
podSecurityContext: {supplementalGroups: [1000]}
securityContext: {privileged: false}
strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
deploymentAnnotations: {reloader.example/auto: "true"}
podAnnotations: {team: shop}
podLabels: {team: shop}
priorityClassName: system-cluster-critical
tolerations: [{operator: Exists}]
affinity: {nodeAffinity: {}}
topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {}}
extraVolumes: [{name: authorities, configMap: {name: authorities}}]
extraVolumeMounts: [{name: authorities, mountPath: /etc/authorities, readOnly: true}]
EOF
render everything --values "$work/everything.yaml"
for line in 'name: GOGC' 'fieldPath: spec.nodeName' 'namespace: "prometheus"' 'release: prometheus' 'interval: 30s' \
  'scrapeTimeout: 20s' 'targetLabel: cluster' 'action: drop' 'port: 8443' 'supplementalGroups' 'privileged: false' \
  'path: "/usage"' 'path: "/usage/cadvisor"' 'path: "/usage/kube-state-metrics"' \
  'maxSurge: 0' 'reloader.example/auto: "true"' 'whenUnsatisfiable: ScheduleAnyway' 'mountPath: /etc/authorities'; do
  has everything "$line"
done
hasNot everything 'port: 6443'
sed 's/^serviceMonitor:/podMonitor:/' "$work/everything.yaml" >"$work/everything-pod.yaml"
render everything-podmonitor --values "$work/everything-pod.yaml"
for line in 'kind: PodMonitor' 'namespace: "prometheus"' 'release: prometheus' 'targetLabel: cluster' 'action: drop'; do
  has everything-podmonitor "$line"
done

# As a part of another chart, which hands it its own global values, turns it on and off, and sets what is OpenShift's.
mkdir -p "$work/parent/charts"
cp -R "$chart" "$work/parent/charts/"
cat >"$work/parent/Chart.yaml" <<'EOF'
apiVersion: v2
name: parent
version: 1.0.0
dependencies:
  - {name: metrics-server-prom, version: 1.x, condition: metrics-server-prom.enabled}
EOF
cat >"$work/parent/values.yaml" <<'EOF'
global: {imageRegistry: images.example}
metrics-server-prom:
  enabled: true
  podSecurityContext: {runAsUser: "", runAsGroup: "", fsGroup: ""}
EOF
"$helm" template release "$work/parent" --namespace monitoring >"$sets/parent.yaml" ||
  fail "helm template of a parent chart"
has parent 'kind: Deployment'
hasNot parent 'runAsUser|runAsGroup|fsGroup'
off=$("$helm" template release "$work/parent" --set metrics-server-prom.enabled=false) ||
  fail "helm template of a parent chart that turns it off"
[ -z "$off" ] || fail "a parent chart cannot turn the chart off:
$off"

# What the schema is there to refuse.
refuse() {
  if "$helm" template release "$chart" --set "$1" >/dev/null 2>&1; then fail "the chart takes $1"; fi
}
refuse setings.selector=app
refuse settings.refreshInterval=15
refuse 'settings.namespaces={Shop}'
refuse settings.logLevel=loud
refuse 'pages={cadvisor,node-exporter}'
refuse 'pages={cadvisor,cadvisor}'
refuse pages=cadvisor
refuse serviceMonitor.jobs=cadvisor
refuse service.port=0
refuse push.url=receiver:8428
refuse push.interval=30s
refuse push.format=remote-write
refuse push.httpConfig.existingSecret=push
refuse push.url=https://receiver.example,push.format=otlp
refuse push.url=https://receiver.example,push.instance=shop
refuse cronJob.enabled=true
refuse push.url=https://receiver.example,cronJob.enabled=true,serviceMonitor.enabled=true
refuse push.url=https://receiver.example,cronJob.enabled=true,push.interval=30s
refuse push.url=https://receiver.example,cronJob.enabled=true,cronJob.schedule=
refuse serviceMonitor.enabled=true,podMonitor.enabled=true
refuse enabled=maybe
refuse podSecurityContext=restricted
refuse serviceMonitor.namespace=Prometheus
refuse serviceMonitor.interval=15
refuse serviceMonitor.relabelings=drop
refuse podMonitor.relabeling=drop
refuse 'networkPolicy.apiServerPorts={https}'
refuse 'networkPolicy.apiServerPorts={443,443}'
refuse 'networkPolicy.apiServerPorts={65536}'
refuse networkPolicy.apiServerPorts=443
refuse strategy.type=OnDelete
refuse strategy.type=Recreate,strategy.rollingUpdate.maxSurge=1
refuse 'extraEnv[0].value=50'
refuse 'extraVolumes[0].emptyDir.medium=Memory'
refuse 'extraVolumeMounts[0].mountPath=/tmp'
refuse topologySpreadConstraints.maxSkew=1
refuse deploymentAnnotations.team=1

# Each flag that the chart can set is one that the exporter has.
go build -o "$work/exporter" .
"$work/exporter" --help >"$work/help" 2>&1 || fail "the exporter's --help ends with an error"
for flag in $(grep -oh -e '--[a-z][a-z.-]*=' "$sets"/*.yaml | tr -d = | sort -u); do
  grep -q -e "$flag\b" "$work/help" || fail "the chart sets $flag, which the exporter does not have"
done

# The components, as an overlay uses them.
overlays=
for component in namespace servicemonitor podmonitor networkpolicy pages; do
  overlay=$work/$component
  mkdir "$overlay"
  base=$(realpath --relative-to="$overlay" deploy/kubernetes)
  printf 'resources: ["%s"]\ncomponents: ["%s"]\n' "$base" "$base/components/$component" >"$overlay/kustomization.yaml"
  overlays="$overlays $overlay"
done

k=deploy/kubernetes
namespace=$k/components/namespace/namespace.yaml
rights=$namespace,$k/serviceaccount.yaml,$k/clusterrole.yaml,$k/clusterrolebinding.yaml
# Not from the cache, which knows nothing of the files outside that module.
go -C .ci/manifests test -count 1 . >&2
# The words of both lists are paths without spaces.
# shellcheck disable=SC2046,SC2086
checked=$(go -C .ci/manifests run . -exporter "$work/exporter" \
  -cloudrun "$root/deploy/cloudrun/service.yaml,$root/deploy/cloudrun/job.yaml" \
  -compose "$root/example/docker-compose.yml" -env "$root/example/env-example" \
  -dashboards "$root/deploy/grafana" -rules "$work/dashboards.yml" \
  $(for set in \
    "$k" deploy/kubernetes-namespaced \
    "$rights,deploy/knative/service.yaml" \
    "$namespace,$k/clusterrole.yaml,deploy/outside/rbac.yaml,deploy/outside/token.yaml" \
    "$namespace,$k/components/pages/clusterrole.yaml,deploy/outside/rbac.yaml,deploy/outside/token.yaml"; do
    echo "$root/$set" | sed "s|,|,$root/|g"
  done) \
  $overlays "$root"/deploy/push/*/ "$sets"/*.yaml)

sh -n deploy/outside/kubeconfig.sh

promtool=$(.ci/prometheus.sh promtool)
"$promtool" check config --lint=all --lint-fatal example/prometheus.yml >&2
"$promtool" check rules --lint=all --lint-fatal deploy/prometheus/rules.yml >&2
"$promtool" check rules --lint=none "$work/dashboards.yml" >&2
"$promtool" test rules deploy/prometheus/rules_test.yml >&2

go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

echo "manifests: $checked valid; compose, Prometheus, Grafana, Cloud Run and workflow files too"
