{{/* A number as people write it: Helm has floats only, and prints large ones as 1e+06. */}}
{{- define "tokenmill.number" -}}
{{- if not (kindIs "float64" .) }}{{ . }}{{ else if eq . (floor .) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* A map of options as TOML. The types of its values are those of the schema, so whole numbers stay whole. */}}
{{- define "tokenmill.toml" -}}
{{- range $option, $value := . }}
{{- if or (kindIs "string" $value) (kindIs "slice" $value) (kindIs "bool" $value) }}
{{ $option }} = {{ toRawJson $value }}
{{- else }}
{{ $option }} = {{ include "tokenmill.number" $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* JSON of one map with another on top. Sprig's mergeOverwrite takes no false, 0 or "" for an answer. */}}
{{- define "tokenmill.merged" -}}
{{- $merged := deepCopy (index . 0) -}}
{{- range $key, $value := index . 1 -}}
{{- $below := get $merged $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $below) -}}
{{- $value = include "tokenmill.merged" (list $below $value) | fromJson -}}
{{- end -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- toJson $merged -}}
{{- end -}}

{{/* {root, model}: what holds for one model's workers, as JSON: `worker`, and the model's own on top. */}}
{{- define "tokenmill.worker" -}}
{{- $own := omit .model "name" "servedName" "path" "storage" "adapters" "compileCache" -}}
{{- $worker := include "tokenmill.merged" (list .root.Values.worker $own) | fromJson -}}
{{- /* One kind of volume is not to be merged with another. */ -}}
{{- $cache := .model.compileCache | default .root.Values.worker.compileCache -}}
{{- $_ := set $worker "compileCache" ($cache | default (dict "emptyDir" (dict "sizeLimit" "2Gi"))) -}}
{{- toJson $worker -}}
{{- end -}}

{{- define "tokenmill.servedName" -}}{{ .servedName | default .name }}{{- end -}}

{{/* The folder of a path in a model's storage, in every pod that has the model; {model, path}. */}}
{{- define "tokenmill.modelFolder" -}}
/models/{{ .model.name }}{{ with .path }}/{{ . }}{{ end }}
{{- end -}}
