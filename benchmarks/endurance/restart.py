"""Three turns against a real model, with `kill -9` of the proxy between them; shows what the model was sent.

    python -m benchmarks.endurance.restart --upstream http://127.0.0.1:9000/v1 --model NAME

Twice: streamed with `conversation`, and with `previous_response_id`. A recorder between the proxy and the model
prints the third turn's input. Needs any server with a Responses API (llama.cpp's, vLLM, Ollama).
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from openai import OpenAI

from benchmarks.processes import free_port

QUESTIONS = ["My name is Ada and I live in Paris.", "I have a cat called Tom.", "What is my name, and my cat's?"]


class Recorder(ThreadingHTTPServer):
    """Passes requests on to the model and keeps their bodies."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.bodies: list[Any] = []


class _Handler(BaseHTTPRequestHandler):
    server: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(orjson.loads(body))
        request = urllib.request.Request(
            self.server.upstream + self.path.removeprefix("/v1"), body, {"Content-Type": "application/json"}
        )
        try:
            answer = urllib.request.urlopen(request, timeout=600)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            while chunk := answer.read1(65536):
                self.wfile.write(chunk)

    def log_message(self, *_: Any) -> None:
        """Be silent."""


@contextmanager
def branchline(port: int, upstream: str, data: str) -> Iterator[OpenAI]:
    """Run the proxy, and end it with kill -9."""
    command = [sys.executable, "-m", "proxy", "serve", "--port", str(port), "--upstream", upstream, "--data-dir", data]
    proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz")
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-restart") as client:
            yield client
    finally:
        proxy.send_signal(signal.SIGKILL)
        proxy.wait()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def ask(client: OpenAI, model: str, question: str, state: dict[str, Any], *, stream: bool) -> Any:
    if not stream:
        return client.responses.create(model=model, input=question, max_output_tokens=60, **state)
    with client.responses.stream(model=model, input=question, max_output_tokens=60, **state) as events:
        for _ in events:
            pass
        return events.get_final_response()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    recorder = Recorder(options.upstream)
    threading.Thread(target=recorder.serve_forever, daemon=True).start()
    through = f"http://127.0.0.1:{recorder.server_address[1]}/v1"
    port = free_port()
    for stream, kind in ((True, "conversation"), (False, "previous_response_id")):
        print(f"\n=== {kind}, {'streamed' if stream else 'plain'}, kill -9 after each turn")
        state: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as data:
            for question in QUESTIONS:
                with branchline(port, through, data) as client:
                    if kind == "conversation" and not state:
                        state = {"conversation": client.conversations.create().id}
                    answer = ask(client, options.model, question, state, stream=stream)
                    if kind != "conversation":
                        state = {"previous_response_id": answer.id}
                    print(f"user:  {question}\nmodel: {answer.output_text.strip()}  [{answer.status}]")
        print("the model was sent at the third turn:")
        print(orjson.dumps(recorder.bodies[-1], option=orjson.OPT_INDENT_2).decode())


if __name__ == "__main__":
    main()
