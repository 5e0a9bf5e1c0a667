{{- define "blip-serve.initContainers" -}}
{{- with .Values.bundles.init }}
{{- if ne .kind "none" }}
{{- if eq $.Values.bundles.volume "none" }}
{{- fail "bundles.init needs bundles.volume" }}
{{- end }}
initContainers:
  - name: bundle
    image: {{ include "blip-serve.initImage" $ }}
    securityContext: {{- include "blip-serve.securityContext" $ | nindent 6 }}
    command: [sh, -euc]
    args:
      - |
        test -e "/bundles/$NAME/manifest.json" && exit 0
        {{- if eq .kind "export" }}
        # If another pod exports at the same time and is first, this container fails, restarts and finds the bundle.
        exec python -m blip_onnx --model "$MODEL" --revision "$REVISION" --output "/bundles/$NAME"
        {{- else }}
        curl --fail --silent --show-error --location --proto =https --output /tmp/bundle.tar.gz "$URL"
        echo "$SHA256  /tmp/bundle.tar.gz" | sha256sum -c -
        # Another pod may do the same, so the complete folder is renamed in one step.
        unpacked="/bundles/.$NAME-$(hostname)"
        trap 'rm -rf "$unpacked"' EXIT
        mkdir -p "$unpacked"
        tar -xzf /tmp/bundle.tar.gz -C "$unpacked"
        mv -T "$unpacked" "/bundles/$NAME" || test -e "/bundles/$NAME/manifest.json"
        {{- end }}
    env:
      - {name: NAME, value: {{ quote .name }}}
      {{- if eq .kind "export" }}
      - {name: HF_HOME, value: /tmp/huggingface}
      - {name: MODEL, value: {{ quote .export.model }}}
      - {name: REVISION, value: {{ quote .export.revision }}}
      {{- else }}
      - {name: URL, value: {{ required "bundles.init.fetch.url" .fetch.url | quote }}}
      - {name: SHA256, value: {{ required "bundles.init.fetch.sha256" .fetch.sha256 | quote }}}
      {{- end }}
    resources: {{- toYaml .resources | nindent 6 }}
    volumeMounts:
      - {name: bundles, mountPath: /bundles}
      - {name: work, mountPath: /tmp}
{{- end }}
{{- end }}
{{- end -}}
