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

{{- /*
What a ServiceMonitor and a PodMonitor have in common: the fields beside the port of their one endpoint. "monitor" is
.Values.serviceMonitor or .Values.podMonitor.
*/ -}}
{{- define "metrics-server-prom.endpoint" -}}
{{- with .monitor.interval }}
interval: {{ . }}
{{- end }}
{{- with .monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
honorLabels: true
{{- with .root.Values.settings.telemetryPath }}
path: {{ . | quote }}
{{- end }}
{{- with .monitor.relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.webConfig.scrape }}
{{ toYaml . }}
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
