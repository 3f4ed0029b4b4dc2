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

{{/*
A connection through the gateway's service stays with its pod until the pod ends it, and calls go on coming over it. So
connections are given half of the time between the moment in which the service leaves the pod out and the end of the
drain: in the other half the service's address may learn of that, and then all of them have gone elsewhere.
*/}}
{{- define "tokenmill.connectionAgeArgument" -}}
{{- $seconds := divf (addf .preStopSleepSeconds .drainSeconds) 2 -}}
{{- if ge $seconds 0.1 }}--max-connection-age-seconds={{ include "tokenmill.number" $seconds }}{{ end -}}
{{- end -}}

{{/* How long a Deployment may show no progress: a pod has to start, and where none is added first, one has to end. */}}
{{- define "tokenmill.progressDeadlineSeconds" -}}
{{- $ending := include "tokenmill.terminationGracePeriodSeconds" .drain | float64 -}}
{{- addf .probes.startup.withinSeconds $ending 120 | ceil | int64 -}}
{{- end -}}
