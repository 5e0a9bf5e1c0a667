{{- define "blip-serve.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "blip-serve.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "blip-serve.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "blip-serve.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "blip-serve.selectorLabels" -}}
app.kubernetes.io/name: {{ include "blip-serve.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "blip-serve.labels" -}}
{{ include "blip-serve.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "blip-serve.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default (printf "%s%s" $.Chart.AppVersion .variant) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "blip-serve.initImage" -}}
{{- with .Values.bundles.init -}}
{{- if .image -}}
{{ .image }}
{{- else if eq .kind "export" -}}
{{ $.Values.image.repository }}:{{ $.Chart.AppVersion }}-export
{{- else -}}
{{ fail "bundles.init.image: required, an image that has curl, tar and sha256sum" }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "blip-serve.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "blip-serve.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "blip-serve.keysSecret" -}}
{{- if .Values.auth.existingSecret -}}
{{ .Values.auth.existingSecret }}
{{- else if .Values.auth.keys -}}
{{ include "blip-serve.fullname" . }}-api-keys
{{- end -}}
{{- end -}}

{{- define "blip-serve.bundlesClaim" -}}
{{- default (printf "%s-bundles" (include "blip-serve.fullname" .)) .Values.bundles.existingClaim -}}
{{- end -}}

{{/* The value of a setting as text; Helm reads whole numbers as floats. */}}
{{- define "blip-serve.text" -}}
{{- if kindIs "slice" . -}}
{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ printf "%d" (int64 .) }}
{{- else -}}
{{ toString . }}
{{- end -}}
{{- end -}}

{{/* preStop, then the service's drain delay and shutdown grace, then a margin, so that no request ends by SIGKILL. */}}
{{- define "blip-serve.gracePeriod" -}}
{{- $delay := dig "drain-delay" 2 .Values.settings | float64 -}}
{{- $drain := dig "shutdown-grace" 30 .Values.settings | float64 -}}
{{- addf (float64 .Values.preStopSeconds) $delay $drain 5 | ceil | int -}}
{{- end -}}

{{/* The label matchers of this release's pods in Prometheus. */}}
{{- define "blip-serve.series" -}}
{namespace={{ .Release.Namespace | quote }}, pod=~"{{ include "blip-serve.fullname" . }}-.+"}
{{- end -}}

{{- define "blip-serve.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "blip-serve.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
