{{- define "blip-serve.environment" -}}
- {name: BLIP_LISTEN, value: "0.0.0.0:{{ .Values.ports.http }}"}
- {name: BLIP_ADMIN_LISTEN, value: "0.0.0.0:{{ .Values.ports.admin }}"}
- {name: BLIP_MODELS, value: /etc/blip-serve/catalogue/models.toml}
{{- if include "blip-serve.keysSecret" . }}
- {name: BLIP_API_KEYS_FILE, value: "/etc/blip-serve/keys/{{ .Values.auth.secretKey }}"}
{{- end }}
{{- if .Values.tls.secretName }}
- {name: BLIP_TLS_CERT, value: /etc/blip-serve/tls/tls.crt}
- {name: BLIP_TLS_KEY, value: /etc/blip-serve/tls/tls.key}
{{- if .Values.tls.clientCertificates }}
- {name: BLIP_TLS_CLIENT_CA, value: /etc/blip-serve/tls/ca.crt}
{{- end }}
{{- end }}
{{- if .Values.graphCache.enabled }}
- {name: BLIP_GRAPH_CACHE, value: /var/cache/blip-serve}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: BLIP_{{ $name | upper | replace "-" "_" }}
  value: {{ include "blip-serve.text" $value | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "blip-serve.volumeMounts" -}}
- {name: catalogue, mountPath: /etc/blip-serve/catalogue, readOnly: true}
{{- if include "blip-serve.keysSecret" . }}
- {name: keys, mountPath: /etc/blip-serve/keys, readOnly: true}
{{- end }}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: /etc/blip-serve/tls, readOnly: true}
{{- end }}
{{- if .Values.graphCache.enabled }}
- {name: graph-cache, mountPath: /var/cache/blip-serve}
{{- end }}
{{- if ne .Values.bundles.volume "none" }}
- {name: bundles, mountPath: /bundles, readOnly: true}
{{- end }}
{{- end -}}

{{- define "blip-serve.volumes" -}}
- name: catalogue
  configMap: {name: {{ include "blip-serve.fullname" . }}-catalogue}
{{- with include "blip-serve.keysSecret" . }}
- name: keys
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.tls.secretName }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.graphCache }}
{{- if .enabled }}
- name: graph-cache
  {{- if .existingClaim }}
  persistentVolumeClaim: {claimName: {{ .existingClaim }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .sizeLimit }}}
  {{- end }}
{{- end }}
{{- end }}
{{- if eq .Values.bundles.volume "persistentVolumeClaim" }}
- name: bundles
  persistentVolumeClaim: {claimName: {{ include "blip-serve.bundlesClaim" . }}}
{{- else if eq .Values.bundles.volume "emptyDir" }}
- name: bundles
  emptyDir: {sizeLimit: {{ .Values.bundles.size }}}
{{- end }}
{{- if ne .Values.bundles.init.kind "none" }}
- name: work
  emptyDir: {}
{{- end }}
{{- end -}}
