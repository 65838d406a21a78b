{{- /* The pod of the Deployment or of the CronJob, as their template. */ -}}
{{- define "metrics-server-prom.pod" -}}
{{- $v := .Values -}}
{{- $once := .Values.cronJob.enabled -}}
metadata:
  labels:
    {{- include "metrics-server-prom.labels" . | nindent 4 }}
    {{- with $v.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $v.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "metrics-server-prom.serviceAccountName" . | quote }}
  automountServiceAccountToken: {{ not $v.kubeconfig.existingSecret }}
  enableServiceLinks: false
  {{- if $once }}
  restartPolicy: Never
  {{- else }}
  terminationGracePeriodSeconds: 10
  {{- end }}
  {{- with $v.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with $v.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "metrics-server-prom.nonEmpty" $v.podSecurityContext }}
  securityContext:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: metrics-server-prom
      image: {{ include "metrics-server-prom.image" . | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args:
        {{- with $v.settings.namespaces }}
        - {{ printf "--namespaces=%s" (join "," .) | quote }}
        {{- end }}
        {{- with $v.settings.excludeNamespaces }}
        - {{ printf "--exclude-namespaces=%s" (join "," .) | quote }}
        {{- end }}
        {{- with $v.settings.selector }}
        - {{ printf "--selector=%s" . | quote }}
        {{- end }}
        {{- with $v.settings.podLabels }}
        - {{ printf "--pod-labels=%s" (join "," .) | quote }}
        {{- end }}
        {{- with $v.settings.refreshInterval }}
        - --refresh-interval={{ . }}
        {{- end }}
        {{- with $v.settings.maxAge }}
        - --max-age={{ . }}
        {{- end }}
        {{- with $v.settings.telemetryPath }}
        - {{ printf "--web.telemetry-path=%s" . | quote }}
        {{- end }}
        {{- with $v.settings.logLevel }}
        - --log.level={{ . }}
        {{- end }}
        {{- with $v.settings.logFormat }}
        - --log.format={{ . }}
        {{- end }}
        {{- if $v.kubeconfig.existingSecret }}
        - --kubeconfig=/etc/kube{{ if $v.kubeconfig.key }}/config{{ end }}
        {{- end }}
        {{- with $v.kubeconfig.context }}
        - {{ printf "--context=%s" . | quote }}
        {{- end }}
        {{- if and $v.webConfig.existingSecret (not $once) }}
        - --web.config.file=/etc/metrics-server-prom/web-config.yml
        {{- end }}
        {{- with $v.push.url }}
        - {{ printf "--push.url=%s" . | quote }}
        {{- end }}
        {{- with $v.push.format }}
        - --push.format={{ . }}
        {{- end }}
        {{- if eq $v.push.format "remote-write" }}
        # By default it is the pod's name, with which every restart would begin new series.
        - {{ printf "--push.instance=%s" (default (include "metrics-server-prom.fullname" .) $v.push.instance) | quote }}
        {{- end }}
        {{- if $v.push.httpConfig.existingSecret }}
        - {{ printf "--push.http-config.file=/etc/metrics-server-prom-push/%s" $v.push.httpConfig.key | quote }}
        {{- end }}
        {{- with $v.push.interval }}
        - --push.interval={{ . }}
        {{- end }}
        {{- with $v.push.extraLabels }}
        - {{ printf "--push.extra-labels=%s" . | quote }}
        {{- end }}
        {{- with $v.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        - {{ ternary "--once" "--web.listen-address=:9100" $once }}
      {{- if or $v.pages $v.push.existingSecret $v.extraEnv }}
      env:
        {{- with $v.pages }}
        - name: PAGES
          value: {{ join "," . | quote }}
        {{- end }}
        {{- with $v.push.existingSecret }}
        {{- if not $v.push.url }}
        - name: PUSH_URL
          valueFrom:
            secretKeyRef:
              name: {{ . | quote }}
              key: url
        {{- end }}
        - name: PUSH_HEADER
          valueFrom:
            secretKeyRef:
              name: {{ . | quote }}
              key: header
              optional: true
        {{- end }}
        {{- with $v.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- if not $once }}
      ports:
        - name: metrics
          containerPort: 9100
      # Alive is asked at the start too, not ready: without a metrics API the exporter waits, it needs no restart.
      startupProbe:
        {{- include "metrics-server-prom.probe" (dict "root" . "path" "/-/healthy") | nindent 8 }}
        periodSeconds: 1
        failureThreshold: 30
      livenessProbe:
        {{- include "metrics-server-prom.probe" (dict "root" . "path" "/-/healthy") | nindent 8 }}
        periodSeconds: 10
        timeoutSeconds: 5
      readinessProbe:
        {{- include "metrics-server-prom.probe" (dict "root" . "path" "/-/ready") | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 5
      {{- end }}
      {{- with $v.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "metrics-server-prom.nonEmpty" $v.securityContext }}
      securityContext:
        {{- . | nindent 8 }}
      {{- end }}
      {{- $web := ternary "" $v.webConfig.existingSecret $once }}
      {{- $push := $v.push.httpConfig.existingSecret }}
      {{- if or $v.kubeconfig.existingSecret $web $push $v.extraVolumeMounts }}
      # Whole directories: a file mounted by subPath would never see its Secret renewed.
      volumeMounts:
        {{- if $v.kubeconfig.existingSecret }}
        - name: kubeconfig
          mountPath: /etc/kube
          readOnly: true
        {{- end }}
        {{- if $web }}
        - name: web-config
          mountPath: /etc/metrics-server-prom
          readOnly: true
        {{- end }}
        {{- if $push }}
        - name: push
          mountPath: /etc/metrics-server-prom-push
          readOnly: true
        {{- end }}
        {{- with $v.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
  {{- if or $v.kubeconfig.existingSecret $web $push $v.extraVolumes }}
  volumes:
    {{- with $v.kubeconfig.existingSecret }}
    - name: kubeconfig
      secret:
        secretName: {{ . | quote }}
        defaultMode: 0440
        {{- with $v.kubeconfig.key }}
        items:
          - key: {{ . | quote }}
            path: config
        {{- end }}
    {{- end }}
    {{- with $web }}
    - name: web-config
      secret:
        secretName: {{ . | quote }}
        defaultMode: 0440
    {{- end }}
    {{- with $push }}
    - name: push
      secret:
        secretName: {{ . | quote }}
        defaultMode: 0440
    {{- end }}
    {{- with $v.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
{{- end -}}
