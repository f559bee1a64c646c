"""Somebody who follows a page of the documentation: types its blocks and compares what they print."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from benchmarks.processes import free_port
from tests.processes import fork

#: Where `make run` serves; the server of a test is at a port of its own.
AS_TYPED = "http://127.0.0.1:8080"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MAKE_RUN = re.compile(r"((?:\w+=\S+ )*)make run")
_SAID = "# > "


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """Return a page's fenced code blocks in these languages: language and text."""
    found = [(match[1], match[2]) for match in _BLOCK.finditer(page.read_text("utf-8"))]
    return [(language, code) for language, code in found if language in languages]


def expected_output(code: str) -> list[str]:
    """Return the lines that a block says it prints."""
    return [line.removeprefix(_SAID) for line in code.splitlines() if line.startswith(_SAID)]


def matches(pattern: str, line: str) -> bool:
    """Tell whether a printed line is the expected one, in which `…` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line, re.DOTALL) is not None


def check_output(code: str, printed: str) -> None:
    """Compare what a block printed with what it says that it prints, if it says anything."""
    expected, lines = expected_output(code), printed.splitlines()
    if expected:
        same = len(expected) == len(lines) and all(map(matches, expected, lines))
        assert same, f"{code}\nprinted:\n{printed}"


class Reader:
    """Somebody who follows a page: a terminal for the server, one for the rest, and a Python session."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._server: BaseProcess | None = None
        self._session: dict[str, Any] = {"__name__": "__main__"}
        self._set_up_codex()

    def follow(self, found: list[tuple[str, str]]) -> None:
        """Do what the blocks say, one after the other."""
        does = {"python": self._type_python, "sh": self._type_shell, "toml": self._configure_codex}
        for language, code in found:
            does[language](code.replace(AS_TYPED, self.url))

    def serve(self, **environment: str) -> None:
        """Start the server that `make run` starts; kill the one that runs."""
        self.kill()
        # a lease of 1 s in place of 10: what a killed server was doing is taken up that much sooner
        environment = {**os.environ, "BRANCHLINE_TURNS_LOCK_LEASE_SECONDS": "1", **environment}
        command = f"serve --port {self.url.rpartition(':')[2]} --upstream echo --data-dir".split()
        command.append(str(self._folder / "data"))
        with (self._folder / "log").open("ab") as log:
            self._server = fork(command, environment, log.fileno(), log.fileno())
        deadline = time.monotonic() + 20
        while not self._is_ready():
            assert self._server.exitcode is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End the server as `kill -9` does."""
        if self._server is not None:
            self._server.kill()
            self._server.join()

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/readyz") as answer:
                return bool(answer.status == 200)
        except URLError:
            return False

    def _type_python(self, code: str) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # without the `from __future__` of this file
            exec(compile(code, "guide", "exec", dont_inherit=True), self._session)
        check_output(code, printed.getvalue())

    def _type_shell(self, code: str) -> None:
        if (run := _MAKE_RUN.fullmatch(code.strip())) is not None:
            return self.serve(**dict(setting.split("=", 1) for setting in shlex.split(run[1])))
        after = self._folder / "environment"
        script = f"set -eua\n{code}\nenv -0 >{shlex.quote(str(after))}"
        done = subprocess.run(["bash", "-c", script], check=False, stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0, code
        check_output(code, done.stdout)
        for pair in after.read_text().rstrip("\0").split("\0"):
            self._monkeypatch.setenv(*pair.split("=", 1))
        return None

    def _set_up_codex(self) -> None:
        command = self._folder / "bin" / "codex"
        command.parent.mkdir()
        stand_in = shlex.join([sys.executable, str(Path(__file__).with_name("codex_stand_in.py"))])
        command.write_text(f'#!/bin/sh\nexec {stand_in} "$@"\n')
        command.chmod(0o755)
        self._monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
        self._monkeypatch.setenv("CODEX_HOME", str(self._folder))

    def _configure_codex(self, code: str) -> None:
        (self._folder / "config.toml").write_text(code)
