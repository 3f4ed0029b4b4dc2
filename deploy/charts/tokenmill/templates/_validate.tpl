{{/* What a schema cannot say. Rendered once, with the gateway. */}}
{{- define "tokenmill.validate" -}}
{{- with .Values.access }}
{{- $isAsked := or .apiKeys.secretName .jwt.secretName }}
{{- if not (or $isAsked .anonymous) }}
{{- fail "access: name a secret in apiKeys or jwt, or say anonymous: true, and whoever reaches the gateway may use it" }}
{{- end }}
{{- if and $isAsked .anonymous }}
{{- fail "access.anonymous: with apiKeys or jwt callers are asked who they are; leave apiKeys.secretName empty" }}
{{- end }}
{{- if and .jwt.secretName (not (and .jwt.issuer .jwt.audience)) }}
{{- fail "access.jwt: issuer and audience belong to the secret" }}
{{- end }}
{{- end }}
{{- with .Values.tls.internal }}
{{- $given := list .gatewaySecretName .tokenizerSecretName .workerSecretName .serverName .gatewayNames }}
{{- if and .enabled (not (eq (compact $given | len) 5)) }}
{{- fail "tls.internal: needs gatewaySecretName, tokenizerSecretName, workerSecretName, serverName and gatewayNames" }}
{{- end }}
{{- end }}
{{- if and (or .Values.tls.gateway.clientCa .Values.tls.gateway.clientNames) (not .Values.tls.gateway.secretName) }}
{{- fail "tls.gateway: clientCa and clientNames need secretName" }}
{{- end }}
{{- if and .Values.tls.gateway.clientNames (not .Values.tls.gateway.clientCa) }}
{{- fail "tls.gateway.clientNames: needs clientCa" }}
{{- end }}
{{- $names := list }}
{{- range .Values.models }}
{{- $names = concat $names (list (printf "object %s" .name) (printf "model %s" (include "tokenmill.servedName" .))) }}
{{- range .adapters }}{{ $names = append $names (printf "model %s" .name) }}{{ end }}
{{- $worker := include "tokenmill.worker" (dict "root" $ "model" .) | fromJson }}
{{- include "tokenmill.validateRollout" (list (printf "models: %s" .name) $worker.rollout) }}
{{- if and $worker.autoscaling.enabled (not $worker.autoscaling.prometheusAddress) }}
{{- fail (printf "models: %s: autoscaling needs prometheusAddress" .name) }}
{{- end }}
{{- end }}
{{- range $name := uniq $names }}
{{- $count := 0 }}{{ range $names }}{{ if eq . $name }}{{ $count = add1 $count }}{{ end }}{{ end }}
{{- if gt (int $count) 1 }}{{ fail (printf "models: %s: the name is given twice" $name) }}{{ end }}
{{- end }}
{{- include "tokenmill.validateRollout" (list "gateway" .Values.gateway.rollout) }}
{{- include "tokenmill.validateRollout" (list "tokenizer" .Values.tokenizer.rollout) }}
{{- end -}}

{{- define "tokenmill.validateRollout" -}}
{{- $rollout := index . 1 -}}
{{- if and (eq (toString $rollout.maxSurge) "0") (eq (toString $rollout.maxUnavailable) "0") }}
{{- fail (printf "%s: rollout: with maxSurge 0 and maxUnavailable 0 nothing could ever be replaced" (index . 0)) }}
{{- end }}
{{- end -}}
