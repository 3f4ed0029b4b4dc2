{{- define "tokenmill.gatewayArguments" -}}
{{- $fullname := include "tokenmill.fullname" . -}}
{{- $ports := include "tokenmill.ports" . | fromYaml -}}
{{ include "tokenmill.connectionAgeArgument" .Values.gateway.drain }}
{{- if .Values.gateway.http.enabled }}
--http-port={{ $ports.gateway.http }}
{{- end }}
{{- /* The names of headless services, which the gateway looks up again and again; the search list of its pod completes them. */}}
--tokenizer=dns:{{ $fullname }}-tokenizer:{{ $ports.tokenizer.grpc }}
--worker=dns:{{ $fullname }}-worker:{{ $ports.worker.grpc }}
{{- with .Values.tls.gateway }}
{{- if .secretName }}
--ssl-certfile=/etc/tokenmill/tls/tls.crt
--ssl-keyfile=/etc/tokenmill/tls/tls.key
{{- if .clientCa }}
--ssl-ca-certs=/etc/tokenmill/tls/ca.crt
{{- end }}
{{- range .clientNames }}
--ssl-client-names={{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.tls.internal }}
{{- if .enabled }}
--backend-ssl-ca-certs=/etc/tokenmill/backend-tls/ca.crt
--backend-ssl-certfile=/etc/tokenmill/backend-tls/tls.crt
--backend-ssl-keyfile=/etc/tokenmill/backend-tls/tls.key
--backend-ssl-server-name={{ .serverName }}
{{- end }}
{{- end }}
{{- with .Values.access.apiKeys }}
{{- if .secretName }}
--api-key-file=/etc/tokenmill/api-keys/{{ .key }}
{{- end }}
{{- end }}
{{- with .Values.access.jwt }}
{{- if .secretName }}
--jwt-jwks-file=/etc/tokenmill/jwt/{{ .key }}
--jwt-issuer={{ .issuer }}
--jwt-audience={{ .audience }}
{{- end }}
{{- end }}
{{- end -}}
