"""Settings schema: every key of the configuration with its type, its default and its environment variable."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import inspect

from proxy.config.section import Section
from proxy.config.settings import Config, Secret
from proxy.config.upstreams import UPSTREAMS_TABLE, NamedUpstreamConfig

#: What every environment variable of ours begins with.
ENVIRONMENT_PREFIX = "BRANCHLINE_"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. name: with its sections (`auth.jwt.secret`). type: as annotated. default: what `Config()` has."""

    name: str
    type: Any
    default: Any

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return f"{ENVIRONMENT_PREFIX}{variable_part(self.name)}"

    @property
    def is_secret(self) -> bool:
        """Whether the value must not be shown: secrets, and tables, which hold hashes of keys."""
        return self.type is Secret or isinstance(self.default, dict)

    @property
    def expected(self) -> str:
        """What a value has to be, in words: `an integer between 0 and 65535`."""
        if typing.get_origin(self.type) is Literal:
            return "one of " + ", ".join(f'"{value}"' for value in typing.get_args(self.type))
        return in_words(self.type)


def sections(section: type[Section] = Config, name: str = "") -> dict[str, type[Section]]:
    """Return every section below `section` by its name, a section before those inside it."""
    found: dict[str, type[Section]] = {}
    for field, annotation in _fields(section):
        if _is_section(annotation):
            inner = f"{name}.{field}" if name else field
            found |= {inner: annotation, **sections(annotation, inner)}
    return found


def named_sections(upstreams: Iterable[str]) -> dict[str, type[Section]]:
    """Return the sections of upstreams with these names."""
    return {f"{UPSTREAMS_TABLE}.{name}": NamedUpstreamConfig for name in upstreams}


def keys(upstreams: Iterable[str] = ()) -> dict[str, Key]:
    """Return every key by its name, in the order of the tree. upstreams: names of those that are configured."""
    known = {**sections(), **named_sections(upstreams)}
    return {key.name: key for name, section in known.items() for key in _keys(section, name)}


def variable_part(name: str) -> str:
    """Return what stands for a name in an environment variable's: `upstreams.qwen-2.url` is `UPSTREAMS_QWEN_2_URL`."""
    return name.replace(".", "_").replace("-", "_").upper()


def _keys(section: type[Section], name: str) -> Iterator[Key]:
    defaults = section()
    for field, annotation in _fields(section):
        if not _is_section(annotation):
            yield Key(f"{name}.{field}", annotation, getattr(defaults, field))


def _fields(section: type[Section]) -> list[tuple[str, Any]]:
    return list(typing.get_type_hints(section, include_extras=True).items())


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def in_words(annotation: Any) -> str:
    """Return what a value of a type has to be, in words."""
    return _words(inspect.type_info(annotation))


def _words(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata(extra_json_schema={"description": str(words)}):
            return words
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"an integer{_bounds(info)}"
        case inspect.FloatType():
            return f"a number{_bounds(info)}"
        case inspect.VarTupleType():
            inner = _words(info.item_type)
            return "a list of text" if inner == "text" else f"a list: {inner}"
        case inspect.DictType():
            return f"a table of names ({_words(info.key_type)}) and values ({_words(info.value_type)})"
        case inspect.LiteralType(values):
            return ", ".join(f'"{value}"' for value in values)
        case inspect.UnionType(types):
            return " or ".join(_words(one) for one in types if not isinstance(one, inspect.NoneType))
        case _:
            return "text"


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" between {info.ge} and {info.le}"
    if info.ge is not None:
        return f" of at least {info.ge}"
    return f" above {info.gt}" if info.gt is not None else ""
