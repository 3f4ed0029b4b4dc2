{{/* What the services' code says; tests/deploy holds these to it. */}}
{{- define "tokenmill.ports" -}}
gateway: {grpc: 50051, metrics: 9091, http: 8080}
tokenizer: {grpc: 50052, metrics: 9092}
worker: {grpc: 50053, metrics: 9093}
{{- end -}}

{{/* What a service may need to end after its grace: to take in what has come, twice, to clean up, to close its ports. */}}
{{- define "tokenmill.closingSeconds" -}}30{{- end -}}
