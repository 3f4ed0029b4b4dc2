{{/* Volumes and where they are mounted, as JSON lists: {volumes, mounts}. Each define gives one of both. */}}

{{/* {name, mountPath, secretName, keys} */}}
{{- define "tokenmill.secretVolume" -}}
{{- $items := list -}}
{{- range .keys }}{{ $items = append $items (dict "key" . "path" .) }}{{ end -}}
{{- /* Readable by the pod's group, and by nobody else: 0440. Never a subPath, or a new secret would not arrive. */ -}}
{{- $secret := dict "secretName" .secretName "defaultMode" 288 "items" $items -}}
{{- $mount := dict "name" .name "mountPath" .mountPath "readOnly" true -}}
{{- dict "volume" (dict "name" .name "secret" $secret) "mount" $mount | toJson -}}
{{- end -}}

{{/* {root, model} */}}
{{- define "tokenmill.modelVolume" -}}
{{- $name := printf "model-%s" .model.name -}}
{{- $claim := dict "persistentVolumeClaim" (dict "claimName" "tokenmill-models") -}}
{{- $storage := deepCopy (.model.storage | default .root.Values.modelStorage | default $claim) -}}
{{- with $storage.persistentVolumeClaim }}{{ $_ := set . "readOnly" true }}{{ end -}}
{{- with $storage.hostPath }}{{ $_ := set . "type" "Directory" }}{{ end -}}
{{- $mount := dict "name" $name "mountPath" (printf "/models/%s" .model.name) "readOnly" true -}}
{{- dict "volume" (set $storage "name" $name) "mount" $mount | toJson -}}
{{- end -}}

{{/* {name, mountPath, source} of a volume that is written to */}}
{{- define "tokenmill.writtenVolume" -}}
{{- $mount := dict "name" .name "mountPath" .mountPath -}}
{{- dict "volume" (set (deepCopy .source) "name" .name) "mount" $mount | toJson -}}
{{- end -}}
