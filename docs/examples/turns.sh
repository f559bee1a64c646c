#!/bin/sh
# curl: a conversation, a turn in it, a streamed one, and what it holds then. Needs curl and python3 (to read an id).
set -eu
call() { curl -sS "$@" -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json'; }
field() { python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }

conversation=$(call -X POST "$OPENAI_BASE_URL/conversations" -d '{}' | field id)

call "$OPENAI_BASE_URL/responses" -d "{\"model\": \"echo\", \"input\": \"hello\", \"conversation\": \"$conversation\"}" |
    field status
# > completed

call -N "$OPENAI_BASE_URL/responses" \
    -d "{\"model\": \"echo\", \"input\": \"and again\", \"conversation\": \"$conversation\", \"stream\": true}" |
    grep '^event:' | uniq | tail -n 1
# > event: response.completed

call "$OPENAI_BASE_URL/conversations/$conversation/items?order=asc" |
    python3 -c "import json, sys; print([item['role'] for item in json.load(sys.stdin)['data']])"
# > ['user', 'assistant', 'user', 'assistant']
