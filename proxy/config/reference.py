"""Settings reference: writes docs/configuration.md and config.example.toml (`python -m proxy.config.reference`).

What a key is for is the `#:` comment above it; section texts are the first lines of the docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from proxy.config.flags import FLAGS
from proxy.config.schema import Key, keys, named_sections, sections
from proxy.config.section import Section

#: Width of the comments in the example, in characters.
COMMENT_WIDTH = 100

#: Where what model servers have in common stands, and each of several.
_COMMON = "upstream"
_NAMED = named_sections(["NAME"])

_COMMENTED_FIELD = re.compile(r"((?:^    #: .*\n)+)^    (\w+):", re.MULTILINE)

_PREAMBLE = """\
# Configuration

<!-- Written by `python -m proxy.config.reference` from proxy/config/settings.py. Change it there. -->

Nothing has to be configured: without settings `branchline serve` listens on 127.0.0.1:8080, keeps its state in an
embedded Valkey below the working directory and sends requests on to `https://api.openai.com/v1`.

A setting comes from, the last one winning:

1. the default,
2. a TOML file, `branchline serve --config config.toml`; [config.example.toml](../config.example.toml) has every key;
3. the environment, `BRANCHLINE_` + section + `_` + key in capitals,
4. the command line.

In the environment lists are separated by commas (`BRANCHLINE_AUTH_JWT_ALGORITHMS=RS256,ES256`), tables are written
`name=value,name=value`, switches `true` or `false`, blanks around a value are dropped, and an empty variable counts
as unset. In the names of `[upstreams.NAME]` a hyphen is an underscore there, and one that no file has is told by the
variable of its URL: `BRANCHLINE_UPSTREAMS_QWEN_URL` makes `[upstreams.qwen]`. Keys and variables that are not known are
errors, so that a typing mistake does not pass unseen; only the variables that Kubernetes adds for a service
(`BRANCHLINE_SERVICE_HOST`, `BRANCHLINE_PORT=tcp://…`) are passed over.
`branchline check` says whether the settings work without serving anything.

The hash of a key for `auth.api_keys`: `printf %s "$KEY" | sha256sum`.
"""

_EXAMPLE_PREAMBLE = """\
# Every setting with its default. Written by `python -m proxy.config.reference` from proxy/config/settings.py.
# Use it with `branchline serve --config FILE`; keep only what you change. The environment and the
# command line win over this file: docs/configuration.md.
"""


def markdown() -> str:
    """Return docs/configuration.md."""
    flags = "\n".join(f"| `{flag} {value}` | `{name}` |" for name, (flag, value, _) in FLAGS.items())
    parts = [_PREAMBLE, f"| flag | key |\n|---|---|\n{flags}\n"]
    parts += [_section_table(name, section) for name, section in _all_sections().items()]
    return "\n".join(parts)


def example() -> str:
    """Return config.example.toml: every key, explained, at its default."""
    parts = [_EXAMPLE_PREAMBLE]
    for name, section in _all_sections().items():
        # a section that need not be there would be one more model server
        mark = "# " if name in _NAMED else ""
        lines = [*_comment(_purpose(section)), f"{mark}[{name}]"]
        for key in _keys_of(name):
            lines += [*_comment(comments(section)[_field(key)]), f"{mark}{_field(key)} = {_toml(_default(key))}"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _all_sections() -> dict[str, type[Section]]:
    """Return every section by its name, that of named upstreams behind that of the only one."""
    found: dict[str, type[Section]] = {}
    for name, section in sections().items():
        found[name] = section
        if name == _COMMON:
            found |= _NAMED
    return found


def _default(key: Key) -> object:
    """Return what holds where a key is left out."""
    if key.default is None and key.name.rpartition(".")[0] in _NAMED:
        return keys()[f"{_COMMON}.{_field(key)}"].default
    return key.default


@cache
def comments(section: type[Section]) -> dict[str, str]:
    """Return what the `#:` lines above each field of `section` say; reading a class's source takes long."""
    found = _COMMENTED_FIELD.findall(inspect.getsource(section))
    return {field: " ".join(line.strip()[3:] for line in text.splitlines()) for text, field in found}


def write_reference() -> None:
    """Write both files into the tree that this package stands in."""
    root = Path(__file__).parents[2]
    (root / "docs" / "configuration.md").write_text(markdown(), "utf-8")
    (root / "config.example.toml").write_text(example(), "utf-8")


def _section_table(name: str, section: type[Section]) -> str:
    explained = comments(section)
    rows = [
        f"| `{_field(key)}` | {_cell(key.expected)} | `{_toml(_default(key))}` | {_cell(explained[_field(key)])} "
        f"`{key.variable}` |"
        for key in _keys_of(name)
    ]
    head = f"## {name}\n\n{_purpose(section)}\n\n| key | value | default | meaning, environment variable |"
    return "\n".join([head, "|---|---|---|---|", *rows]) + "\n"


def _keys_of(section: str) -> list[Key]:
    return [key for key in keys(["NAME"]).values() if key.name.rpartition(".")[0] == section]


def _field(key: Key) -> str:
    return key.name.rpartition(".")[2]


def _purpose(section: type[Section]) -> str:
    return inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _comment(text: str) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(text, COMMENT_WIDTH - 2))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() if value >= 1_000_000:
            return f"{value:_}"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{json.dumps(name)} = {_toml(item)}" for name, item in value.items()) + "}"
        case _:
            return str(value)


if __name__ == "__main__":
    write_reference()
