"""Stands in for Codex CLI: `codex exec PROMPT` with what 0.171 reads of its configuration and sends to its provider.

over HTTP        one turn, the whole history
over WebSocket   a warm-up that no model sees, then a turn that continues it with the rest
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from websockets.sync.client import connect

Item = dict[str, Any]


def message(role: str, text: str) -> Item:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def completed(events: Iterable[str | bytes]) -> Item:
    """Read events up to the last one of a turn; return its response."""
    for event in map(json.loads, events):
        if event["type"] == "response.completed":
            response: Item = event["response"]
            return response
        if event["type"] in ("error", "response.failed"):
            raise SystemExit(str(event))
    raise SystemExit("a turn without an end")


def ask(url: str, headers: dict[str, str], request: Item, history: list[Item]) -> Item:
    """Take a turn over HTTP; return its response."""
    body = json.dumps({**request, "stream": True, "input": history}).encode()
    with urlopen(Request(url, body, {**headers, "Content-Type": "application/json"})) as answer:
        return completed(line[6:] for line in answer if line.startswith(b"data: {"))


def ask_on_a_websocket(url: str, headers: dict[str, str], request: Item, history: list[Item]) -> Item:
    """Take a turn on a connection that was warmed up with the first item; return its response."""
    with connect(url.replace("http", "ws", 1), additional_headers=headers, max_size=None) as connection:

        def turn(**fields: Any) -> Item:
            connection.send(json.dumps({"type": "response.create", **request, **fields}))
            return completed(connection)

        warm = turn(input=history[:1], generate=False)
        return turn(input=history[1:], previous_response_id=warm["id"])


def main() -> None:
    command, prompt = sys.argv[1:]
    assert command == "exec"
    config = tomllib.loads((Path(os.environ["CODEX_HOME"]) / "config.toml").read_text("utf-8"))
    provider = config["model_providers"][config["model_provider"]]
    assert provider["wire_api"] == "responses"
    headers = {"Authorization": f"Bearer {os.environ[provider['env_key']]}"}
    request = {"model": config["model"], "store": False, "include": ["reasoning.encrypted_content"]}
    history = [message("developer", "You are a coding agent."), message("user", prompt)]
    take_turn = ask_on_a_websocket if provider.get("supports_websockets") else ask
    response = take_turn(f"{provider['base_url']}/responses", headers, request, history)
    print(response["output"][-1]["content"][0]["text"])


main()
