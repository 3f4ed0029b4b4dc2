{{/* Names and labels. The longest name is FULLNAME-worker-MODEL: 26 + 8 + 29 = 63 characters, what a label holds. */}}
{{- define "tokenmill.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 26 | trimSuffix "-" -}}
{{- end -}}

{{/* Of one tier, or of all where there is none; {root, tier, model}. Never changes, so Deployments can select by it. */}}
{{- define "tokenmill.selector" -}}
app.kubernetes.io/name: {{ .root.Values.nameOverride | default .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .tier }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .model }}
tokenmill/model: {{ . }}
{{- end }}
{{- end -}}

{{- define "tokenmill.labels" -}}
{{ include "tokenmill.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* {root, image, variant}: a digest wins over a tag, and an image's own tag over that of all, which a variant follows. */}}
{{- define "tokenmill.image" -}}
{{- $registry := .root.Values.images.registry -}}
{{- $repository := empty $registry | ternary .image.repository (printf "%s/%s" $registry .image.repository) -}}
{{- $ofAll := .root.Values.images.tag | default .root.Chart.AppVersion -}}
{{- if .image.digest -}}
{{ $repository }}@{{ .image.digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default (printf "%s%s" $ofAll (.variant | default "")) }}
{{- end -}}
{{- end -}}
