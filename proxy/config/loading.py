"""Settings loader: a TOML file, over it the environment, over that the command line.

Every value is checked on its own, so that an error names the key, the source it came from and what is expected
there. No message holds a secret.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from proxy.config.flags import FLAGS
from proxy.config.schema import ENVIRONMENT_PREFIX, Key, in_words, keys, sections, variable_part
from proxy.config.section import Section, UpstreamName
from proxy.config.settings import Config, Secret
from proxy.config.upstreams import UPSTREAMS_TABLE, NamedUpstreamConfig
from proxy.config.validation import violations

SectionType = TypeVar("SectionType", bound=Section)

#: Variables that Kubernetes sets in every container for a service whose name begins with `branchline`.
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
#: The variable that tells of an upstream by itself.
_URL_VARIABLE = re.compile(rf"{ENVIRONMENT_PREFIX}{variable_part(UPSTREAMS_TABLE)}_([A-Z0-9][A-Z0-9_]{{0,31}})_URL")
_SERVICE_PORT = re.compile(r"(tcp|udp|sctp)://")

#: Longest value that is quoted in a message, in characters.
_MAX_QUOTED = 60


class ConfigError(Exception):
    """A setting can't be used. `str()` is one line that names the key, its source and what is wrong."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """A value as one source gives it. origin: `in config.toml`, `from --port`. is_text: not typed yet."""

    key: Key
    value: Any
    origin: str
    is_text: bool


@dataclass(frozen=True, slots=True)
class SettingsRead:
    """The configuration, and where each value that is not a default comes from: `in config.toml`, `from --port`."""

    config: Config
    origins: Mapping[str, str]


def load_config(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Config:
    """Return the configuration: defaults, then the file, then the environment, then the flags.

    path: a TOML file; None reads none. environ: only `BRANCHLINE_…` counts, an empty value means unset.
    flags: configuration key → value. Raises ConfigError.
    """
    return read_settings(path, environ, flags).config


def read_settings(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> SettingsRead:
    """Return what `load_config` does, and where it comes from. Raises ConfigError."""
    table = _parse(path) if path is not None else {}
    upstreams = upstream_names(table, path, environ)
    known = keys(upstreams)
    settings = {
        setting.key.name: setting
        for source in (_in_file(table, path, known), _in_environment(environ, known), _in_flags(flags, known))
        for setting in source
    }
    config = build_config(upstreams, {name: _convert(setting) for name, setting in settings.items()})
    for name, problem in violations(config):
        origin = settings[name].origin if name in settings else "(not set)"
        raise ConfigError(f"{name} {origin}: {problem}")
    return SettingsRead(config, {name: setting.origin for name, setting in settings.items()})


def upstream_names(table: Mapping[str, Any], path: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Return the names of the upstreams: those of the file in its order, then those that only variables tell of.

    table: the file's content. A name that variables alone have is told by the one of its URL. Raises ConfigError for
    names that can't be used, or that share their variables.
    """
    named = table.get(UPSTREAMS_TABLE, {})
    if not isinstance(named, dict):
        raise ConfigError(f"{UPSTREAMS_TABLE} in {path}: expected sections, each written [{UPSTREAMS_TABLE}.NAME]")
    found: dict[str, str] = {}
    for name in named:
        try:
            msgspec.convert(name, UpstreamName)
        except msgspec.ValidationError:
            text = f"a name must be {in_words(UpstreamName)}"
            raise ConfigError(f"{UPSTREAMS_TABLE}.{name[:_MAX_QUOTED]} in {path}: {text}") from None
        if (other := found.setdefault(variable_part(name), name)) != name:
            text = f"its variables would be those of {UPSTREAMS_TABLE}.{other}; choose another name"
            raise ConfigError(f"{UPSTREAMS_TABLE}.{name} in {path}: {text}")
    for variable, text in sorted(environ.items()):
        if (only := _URL_VARIABLE.fullmatch(variable)) and text.strip():
            found.setdefault(only[1], only[1].lower())
    return list(found.values())


def _in_file(table: Mapping[str, Any], path: Path | None, known: Mapping[str, Key]) -> Iterator[_Setting]:
    places = {*sections(), UPSTREAMS_TABLE, *(name.rpartition(".")[0] for name in known)}
    for name, value in _flatten(table, path, places):
        if name not in known:
            raise ConfigError(f"{name} in {path}: no such key{_suggestion(name, [*known, *sections()])}")
        yield _Setting(known[name], value, f"in {path}", is_text=False)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"{path}: can't be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text") from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"{path}: is not valid TOML: {exc}") from exc


def _flatten(
    table: Mapping[str, Any], path: Path | None, places: Collection[str], section: str = ""
) -> Iterator[tuple[str, Any]]:
    for field, value in table.items():
        name = f"{section}.{field}" if section else field
        if name not in places:
            yield name, value
        elif isinstance(value, dict):
            yield from _flatten(value, path, places, name)
        else:
            raise ConfigError(f"{name} in {path}: expected a section, written [{name}]")


def _in_environment(environ: Mapping[str, str], known: Mapping[str, Key]) -> Iterator[_Setting]:
    by_variable = {key.variable: key for key in known.values()}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or not text.strip() or _is_service_link(variable, text):
            continue
        if variable not in by_variable:
            raise ConfigError(f"{variable}: no such setting{_suggestion(variable, by_variable)}")
        yield _Setting(by_variable[variable], text.strip(), f"from {variable}", is_text=True)


def _is_service_link(variable: str, text: str) -> bool:
    linked_port = variable.endswith("_PORT") and _SERVICE_PORT.match(text)
    return bool(linked_port or _SERVICE_LINK.search(variable))


def _in_flags(flags: Mapping[str, str], known: Mapping[str, Key]) -> Iterator[_Setting]:
    for name, text in flags.items():
        yield _Setting(known[name], text, f"from {FLAGS[name][0]}", is_text=True)


def _suggestion(name: str, candidates: Iterable[str]) -> str:
    last = name.rpartition(".")[2]
    same_end = [candidate for candidate in candidates if candidate.rpartition(".")[2] == last]
    close = same_end or difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _convert(setting: _Setting) -> Any:
    key = setting.key
    try:
        raw = _split(setting.value, key) if setting.is_text else setting.value
        value = msgspec.convert(raw, key.type, strict=not setting.is_text, dec_hook=_to_secret)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(value)
    except ValueError:
        # without its cause: that may quote the value
        raise ConfigError(
            f"{key.name} {setting.origin}: expected {key.expected}{_quoted(setting.value, key)}"
        ) from None
    return value


def _split(text: str, key: Key) -> Any:
    """Return the text of a variable or a flag as what its key takes: lists and tables have commas in between."""
    if not isinstance(key.default, tuple | dict):
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(key.default, tuple):
        return parts
    pairs = [part.partition("=") for part in parts]
    if not all(separator for _, separator, _ in pairs):
        raise ValueError("a part without =")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _to_secret(wanted: type, value: object) -> Secret:
    if wanted is not Secret or not isinstance(value, str):
        raise ValueError("not text")
    return Secret(value)


def _quoted(value: object, key: Key) -> str:
    if key.is_secret or isinstance(value, list | dict):
        return ""
    if isinstance(value, bool):
        return f", got {str(value).lower()}"
    if isinstance(value, str):
        return f', got "{value if len(value) <= _MAX_QUOTED else value[:_MAX_QUOTED] + "…"}"'
    return f", got {value}"


def build_config(upstreams: Iterable[str], values: Mapping[str, Any]) -> Config:
    """Return the whole tree with `values`; what they leave out has its default. upstreams: the names of all."""
    named = {name: build(NamedUpstreamConfig, f"{UPSTREAMS_TABLE}.{name}", values) for name in upstreams}
    return msgspec.structs.replace(build(Config, "", values), upstreams=named)


def build(section: type[SectionType], name: str, values: Mapping[str, Any]) -> SectionType:
    """Return `section` with the `values` that belong to it; what they leave out has its default."""
    prefix = f"{name}." if name else ""
    inner = {
        inner_name.removeprefix(prefix): build(inner_type, inner_name, values)
        for inner_name, inner_type in sections(section, name).items()
        if "." not in inner_name.removeprefix(prefix)
    }
    own = {
        full.removeprefix(prefix): value
        for full, value in values.items()
        if full.startswith(prefix) and "." not in full.removeprefix(prefix)
    }
    return section(**inner, **own)
