#!/usr/bin/env bash
# Captions one image with curl:  examples/curl.sh [--url URL] [--model NAME] [--prompt TEXT] [IMAGE]
set -euo pipefail

url=http://127.0.0.1:8080 model=scenes prompt="" image=$(dirname "$0")/images/cats.jpg
while [[ $# -gt 0 ]]; do
  case $1 in
    --url) url=$2; shift 2 ;;
    --model) model=$2; shift 2 ;;
    --prompt) prompt=$2; shift 2 ;;
    --help) sed -n '2s/^# //p' "$0"; exit ;;
    *) image=$1; shift ;;
  esac
done

ask() { curl --silent --show-error --fail-with-body --no-buffer "$@" && echo; }
encoded() { base64 <"$image" | tr -d '\n'; }

echo "# A file as a form, as a browser sends it; parameters are fields too"
ask --form "image=@$image" --form-string "prompt=$prompt" --form max_new_tokens=30 "$url/v1/captions"

echo "# The same as JSON"
printf '{"model": "%s", "image": "%s", "prompt": "%s"}' "$model" "$(encoded)" "$prompt" |
  ask --header 'content-type: application/json' --data @- "$url/v1/captions"

echo "# Open Inference Protocol: the template's tensors, with the file in place of its URL"
printf '{"inputs": [
    {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["%s"]},
    {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["%s"]}
  ], "outputs": [{"name": "generated_output"}, {"name": "score"}]}' "$(encoded)" "$prompt" |
  ask --data @- "$url/v2/models/$model/infer"

echo "# Streamed as server-sent events"
printf '{"image": "%s", "text_input": "%s"}' "$(encoded)" "$prompt" |
  ask --data @- "$url/v2/models/$model/generate_stream"
