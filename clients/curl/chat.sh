#!/usr/bin/env bash
# chat.sh URL [QUESTION]: OpenAI's HTTP API with curl alone. Prints the events of four streams as they arrive: a whole
# answer with its usage, one that a stop string ends, one with log-probabilities, and one that is left in the middle.
set -euo pipefail
url=$1 question=${2:-What is the capital of France?}
LEFT_AFTER_EVENTS=5

stream() { # stream 'FIELDS': the events of a chat with these fields beside the usual ones
  curl --silent --show-error --no-buffer --fail-with-body "$url/v1/chat/completions" \
    --header 'content-type: application/json' \
    --data "{\"messages\": [{\"role\": \"user\", \"content\": \"$question\"}], \"stream\": true, \"temperature\": 0, $1}" |
    sed -n 's/^data: //p'
}

echo '# usage'
stream '"max_tokens": 24, "stream_options": {"include_usage": true}'
echo '# stop'
stream '"max_tokens": 24, "stop": ["is"]'
echo '# logprobs'
stream '"max_tokens": 4, "logprobs": true, "top_logprobs": 2'
echo '# left'
(stream '"max_tokens": 4000, "ignore_eos": true' || true) 2> /dev/null | head -n "$LEFT_AFTER_EVENTS"
