{{/*
The Deployment and the settings file of one tier, or of one model's workers.
{root, tier, model, name, values, arguments (one a line), tls, mounted: a list of {volume, mount}, limits,
variant of the image}
*/}}
{{- define "tokenmill.deployment" -}}
{{- $toml := include "tokenmill.toml" .values.config | trim -}}
{{- $selector := include "tokenmill.selector" . -}}
{{- $isAutoscaled := .values.autoscaling.enabled -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .name }}
  labels:
    {{- include "tokenmill.labels" . | nindent 4 }}
data:
  config.toml: |
    {{- $toml | nindent 4 }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  labels:
    {{- include "tokenmill.labels" . | nindent 4 }}
spec:
  {{- if not $isAutoscaled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  progressDeadlineSeconds: {{ include "tokenmill.progressDeadlineSeconds" .values }}
  selector:
    matchLabels:
      {{- $selector | nindent 6 }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      {{- toYaml .values.rollout | nindent 6 }}
  template:
    metadata:
      labels:
        {{- $selector | nindent 8 }}
        {{- with .values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # Settings are read at the start: other ones are other pods.
        checksum/config: {{ $toml | sha256sum }}
        {{- with .values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "tokenmill.pod" . | nindent 6 }}
      containers:
        - name: {{ .tier }}
          {{- include "tokenmill.container" . | nindent 10 }}
      volumes:
        - name: config
          configMap:
            name: {{ .name }}
        - name: tmp
          emptyDir: {sizeLimit: 1Gi}
        {{- range .mounted }}
        - {{ toYaml .volume | nindent 10 | trim }}
        {{- end }}
{{- end -}}

{{- define "tokenmill.pod" -}}
{{- $selector := include "tokenmill.selector" . -}}
serviceAccountName: {{ include "tokenmill.fullname" .root }}
automountServiceAccountToken: false
# They would be variables such as TOKENMILL_PORT, which are options of ours.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "tokenmill.terminationGracePeriodSeconds" .values.drain }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  # Else every start would go over all files, and make folders of code writable for the group, which workers refuse.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml . | nindent 4 | trim }}
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end -}}

{{- define "tokenmill.container" -}}
{{- $ports := get (include "tokenmill.ports" . | fromYaml) .tier -}}
image: {{ include "tokenmill.image" (dict "root" .root "image" .values.image "variant" .variant) }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
args:
  {{- range splitList "\n" (include "tokenmill.arguments" .) }}
  {{- if . }}
  - {{ quote . }}
  {{- end }}
  {{- end }}
ports:
  {{- if not .root.Values.gateway.http.enabled }}
  {{- $ports = omit $ports "http" }}
  {{- end }}
  {{- range $name, $port := $ports }}
  - name: {{ $name }}
    containerPort: {{ $port }}
  {{- end }}
{{ include "tokenmill.probes" (dict "tier" .tier "probes" .values.probes "tls" .tls) }}
{{- with .values.drain.preStopSleepSeconds }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ . }}
{{- end }}
resources:
  {{- include "tokenmill.merged" (list .values.resources (dict "limits" (.limits | default dict))) | fromJson | toYaml | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  readOnlyRootFilesystem: true
volumeMounts:
  - {name: config, mountPath: /etc/tokenmill/config, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  {{- range .mounted }}
  - {{ toJson .mount }}
  {{- end }}
{{- end -}}

{{/* One a line. Those of every service, and the tier's own. */}}
{{- define "tokenmill.arguments" -}}
{{- $ports := get (include "tokenmill.ports" . | fromYaml) .tier -}}
--config=/etc/tokenmill/config/config.toml
--host={{ .root.Values.listenAddress }}
--port={{ $ports.grpc }}
--metrics-port={{ $ports.metrics }}
{{ include "tokenmill.drainArguments" .values.drain }}
{{- with .root.Values.tracing.endpoint }}
--otlp-traces-endpoint={{ . }}
{{- end }}
{{ .arguments }}
{{- end -}}
