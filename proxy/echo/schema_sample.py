"""A value that fits a JSON schema, for the echo model's tool arguments and structured answers."""

from __future__ import annotations

import re
from typing import Any

#: Nesting below which arrays stay empty and unions take their last member: what ends a recursive schema.
DEEP = 6

_NUMBER_KEYS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def specimen(schema: dict[str, Any], word: str = "echo") -> Any:
    """Return a value that fits `schema`: `word` where a string goes, 1 for a number, one element an array.

    Read are: type (the first of several), properties, required, items, minItems, enum, const, anyOf, oneOf,
    allOf, local $ref, bounds of numbers and lengths of strings. Other keywords (pattern, format) are not.
    """
    return _fit(schema, word, schema, 0)


def _fit(schema: Any, word: str, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict) or depth > 4 * DEEP:
        return None
    if "$ref" in schema:
        return _fit(_resolve(schema["$ref"], root), word, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if schema.get(union):
            return _fit(schema[union][-1 if depth > DEEP else 0], word, root, depth + 1)
    return _fit_type(schema, word, root, depth)


def _fit_type(schema: dict[str, Any], word: str, root: dict[str, Any], depth: int) -> Any:
    match _type(schema):
        case "object":
            properties = schema.get("properties") or {}
            names = schema.get("required", properties)
            return {name: _fit(properties.get(name, {}), word, root, depth + 1) for name in names}
        case "array":
            count = schema.get("minItems", 0 if depth > DEEP else 1)
            return [_fit(schema.get("items", {}), word, root, depth + 1) for _ in range(count)]
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return word.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    return str(kind or ("object" if "properties" in schema else "string"))


def _number(schema: dict[str, Any]) -> float:
    least, above, most, below = (schema.get(key) for key in _NUMBER_KEYS)
    value: float = 1
    if least is not None:
        value = max(value, least)
    if above is not None:
        value = max(value, above + 1)
    if most is not None:
        value = min(value, most)
    if below is not None:
        value = min(value, below - 1)
    return value


def _resolve(reference: str, root: dict[str, Any]) -> Any:
    """Return what a local reference (`#/$defs/Name`, RFC 6901 pointers) names; None for any other."""
    target: Any = root
    for step in re.findall(r"/([^/]*)", reference):
        step = step.replace("~1", "/").replace("~0", "~")
        target = target.get(step) if isinstance(target, dict) else None
    return target
