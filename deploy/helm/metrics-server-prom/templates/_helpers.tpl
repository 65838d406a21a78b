{{- define "metrics-server-prom.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* A ClusterRole has no namespace: its name carries that of the release, or two releases would share it. */ -}}
{{- define "metrics-server-prom.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "metrics-server-prom.fullname" .) -}}
{{- end -}}

{{- define "metrics-server-prom.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "metrics-server-prom.labels" -}}
{{ include "metrics-server-prom.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "metrics-server-prom.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "metrics-server-prom.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "metrics-server-prom.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* The fields of a map that are not "". Null would do for that, but Helm drops it from a parent chart's own values. */ -}}
{{- define "metrics-server-prom.nonEmpty" -}}
{{- $fields := dict -}}
{{- range $name, $value := . -}}
{{- if ne (toString $value) "" -}}
{{- $_ := set $fields $name $value -}}
{{- end -}}
{{- end -}}
{{- with $fields -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- /* What the exporter does with objects that it keeps: a CronJob reads them once. */ -}}
{{- define "metrics-server-prom.watch" -}}
{{- ternary "[list]" "[list, watch]" .Values.cronJob.enabled -}}
{{- end -}}

{{- define "metrics-server-prom.ownerRules" -}}
# kube_replicaset_owner: which Deployment a pod belongs to.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: {{ include "metrics-server-prom.watch" . }}
# kube_job_owner: which CronJob a pod belongs to.
- apiGroups: [batch]
  resources: [jobs]
  verbs: {{ include "metrics-server-prom.watch" . }}
{{- end -}}

{{- /*
What a ServiceMonitor and a PodMonitor have in common: their endpoints, one for the exporter's own names and one for
each page. "monitor" is .Values.serviceMonitor or .Values.podMonitor.
*/ -}}
{{- define "metrics-server-prom.endpoints" -}}
{{- $path := .root.Values.settings.telemetryPath -}}
{{- $cadvisor := dict "job" "kubelet" "metrics_path" "/metrics/cadvisor" -}}
{{- if eq (toString .monitor.jobs) "mixin" -}}
{{- $cadvisor = dict "job" "cadvisor" -}}
{{- end -}}
{{- $labels := dict "cadvisor" $cadvisor "kube-state-metrics" (dict "job" "kube-state-metrics") -}}
{{- include "metrics-server-prom.endpoint" (merge (dict "path" $path) .) }}
{{- range .root.Values.pages }}
{{ include "metrics-server-prom.endpoint"
  (merge (dict "path" (printf "%s/%s" (default "/metrics" $path | trimSuffix "/") .) "labels" (get $labels .)) $) }}
{{- end }}
{{- end -}}

{{- /* One endpoint. "path" is empty for Prometheus' own default, "labels" are set of the target. */ -}}
{{- define "metrics-server-prom.endpoint" -}}
- port: metrics
  {{- with .monitor.interval }}
  interval: {{ . }}
  {{- end }}
  {{- with .monitor.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  honorLabels: true
  {{- with .path }}
  path: {{ . | quote }}
  {{- end }}
  {{- if or .labels .monitor.relabelings }}
  relabelings:
    {{- range $name, $value := .labels }}
    - targetLabel: {{ $name }}
      replacement: {{ $value }}
    {{- end }}
    {{- if .labels }}
    # A sample about a node would get these from the exporter's own pod, and pass for one about a container.
    - action: labeldrop
      regex: namespace|pod|container|service|endpoint
    {{- end }}
    {{- with .monitor.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- with .monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.webConfig.scrape }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* The handler of a probe for a path: the kubelet has neither credentials nor a client certificate. */ -}}
{{- define "metrics-server-prom.probe" -}}
{{- $web := .root.Values.webConfig -}}
{{- if and $web.existingSecret (eq $web.probe "tcp") -}}
tcpSocket:
  port: metrics
{{- else -}}
httpGet:
  path: {{ .path }}
  port: metrics
  {{- if $web.existingSecret }}
  scheme: HTTPS
  {{- end }}
{{- end -}}
{{- end -}}
