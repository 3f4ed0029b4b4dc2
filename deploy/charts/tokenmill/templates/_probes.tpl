{{/*
Probes of one container; {tier, probes, tls}. Liveness is answered by the event loop, whatever the load. A worker and a
tokenizer service have started when they are ready; a gateway is ready when there is something behind it, so it has
started when it lives. Kubernetes' gRPC probes speak no TLS: with it the port of metrics is asked, which never has any.
*/}}
{{- define "tokenmill.probes" -}}
{{- $started := eq .tier "gateway" | ternary "liveness" "readiness" -}}
startupProbe:
  {{- include "tokenmill.probed" (dict "tier" .tier "tls" .tls "name" $started) | nindent 2 }}
  periodSeconds: {{ .probes.startup.periodSeconds }}
  timeoutSeconds: {{ .probes.startup.timeoutSeconds }}
  failureThreshold: {{ divf .probes.startup.withinSeconds .probes.startup.periodSeconds | ceil | int64 }}
  terminationGracePeriodSeconds: {{ include "tokenmill.closingSeconds" . }}
readinessProbe:
  {{- include "tokenmill.probed" (dict "tier" .tier "tls" .tls "name" "readiness") | nindent 2 }}
  periodSeconds: {{ .probes.readiness.periodSeconds }}
  timeoutSeconds: {{ .probes.readiness.timeoutSeconds }}
  failureThreshold: {{ .probes.readiness.failureThreshold }}
livenessProbe:
  {{- include "tokenmill.probed" (dict "tier" .tier "tls" .tls "name" "liveness") | nindent 2 }}
  periodSeconds: {{ .probes.liveness.periodSeconds }}
  timeoutSeconds: {{ .probes.liveness.timeoutSeconds }}
  failureThreshold: {{ .probes.liveness.failureThreshold }}
  # What answers no probe finishes no call either: it does not get the grace of a pod that is told to go.
  terminationGracePeriodSeconds: {{ include "tokenmill.closingSeconds" . }}
{{- end -}}

{{- define "tokenmill.probed" -}}
{{- $ports := get (include "tokenmill.ports" . | fromYaml) .tier -}}
{{- if .tls -}}
httpGet:
  path: {{ eq .name "liveness" | ternary "/health" "/ready" }}
  port: {{ $ports.metrics }}
{{- else -}}
grpc:
  port: {{ $ports.grpc }}
  service: {{ .name }}
{{- end -}}
{{- end -}}
