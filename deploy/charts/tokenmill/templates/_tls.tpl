{{/* What a tier behind the gateway is told of mTLS, and has mounted for it; {root, secretName}. */}}
{{- define "tokenmill.backendTlsArguments" -}}
{{- with .Values.tls.internal }}
{{- if .enabled }}
--ssl-certfile=/etc/tokenmill/tls/tls.crt
--ssl-keyfile=/etc/tokenmill/tls/tls.key
--ssl-ca-certs=/etc/tokenmill/tls/ca.crt
{{- range .gatewayNames }}
--ssl-client-names={{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "tokenmill.tlsVolume" -}}
{{- $keys := .ca | ternary (list "tls.crt" "tls.key" "ca.crt") (list "tls.crt" "tls.key") -}}
{{- include "tokenmill.secretVolume" (dict "name" .name "mountPath" (printf "/etc/tokenmill/%s" .name) "secretName" .secretName "keys" $keys) -}}
{{- end -}}
