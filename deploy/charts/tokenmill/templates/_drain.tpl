{{/*
The time to end in. Kubernetes counts it from the moment in which a pod is told to go:

  preStop sleep | SIGTERM, not ready: drain_seconds | grace_seconds | closing

All of it has to be over when terminationGracePeriodSeconds are, or the process is killed.
*/}}
{{- define "tokenmill.terminationGracePeriodSeconds" -}}
{{- addf .preStopSleepSeconds .drainSeconds .graceSeconds (include "tokenmill.closingSeconds" . | float64) | ceil | int64 -}}
{{- end -}}

{{- define "tokenmill.drainArguments" -}}
--drain-seconds={{ include "tokenmill.number" .drainSeconds }}
--grace-seconds={{ include "tokenmill.number" .graceSeconds }}
{{- end -}}

{{/* How long a Deployment may show no progress: a pod has to start, and where none is added first, one has to end. */}}
{{- define "tokenmill.progressDeadlineSeconds" -}}
{{- $ending := include "tokenmill.terminationGracePeriodSeconds" .drain | float64 -}}
{{- addf .probes.startup.withinSeconds $ending 120 | ceil | int64 -}}
{{- end -}}
