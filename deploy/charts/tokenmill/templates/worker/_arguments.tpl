{{/* {root, model, worker}: the flags of one model's workers. */}}
{{- define "tokenmill.workerArguments" -}}
--model={{ include "tokenmill.modelFolder" (dict "model" .model "path" .model.path) }}
--served-model-name={{ include "tokenmill.servedName" .model }}
--device={{ gt (int .worker.gpu.count) 0 | ternary "cuda" "cpu" }}
{{- if gt (int .worker.gpu.count) 1 }}
--device-map=auto
{{- end }}
{{- range .model.adapters }}
--lora-modules={{ .name }}={{ include "tokenmill.modelFolder" (dict "model" $.model "path" .path) }}
{{- end }}
{{- /* A folder in the volume, as others may write to a volume itself, and code is loaded from here. */}}
--compile-cache=/var/cache/tokenmill/compiled
{{- include "tokenmill.backendTlsArguments" .root }}
{{- end -}}
