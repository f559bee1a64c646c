"""Patches: the difference of two JSON values, small where they are nearly the same. Pure.

    {"=": VALUE}                        something else altogether
    {"f": {NAME: PATCH}, "-": [NAME]}   an object: fields that differ or are added, and fields that go
    {"i": {"0": PATCH}}                 an array of the same length: what differs, by its place

A patch that is put to another value than it was made for changes what it can.
"""

from __future__ import annotations

from typing import Any, TypeAlias

#: A difference as JSON.
Patch: TypeAlias = dict[str, Any]


def difference(ours: Any, theirs: Any) -> Patch | None:
    """Return what makes `theirs` of `ours`, None if they are the same: 1 is neither 1.0 nor true."""
    if type(ours) is not type(theirs):
        return {"=": theirs}
    if type(ours) is dict:
        return _of_objects(ours, theirs)
    if type(ours) is list and len(ours) == len(theirs):
        inner = {str(i): patch for i, one in enumerate(ours) if (patch := difference(one, theirs[i])) is not None}
        return {"i": inner} if inner else None
    return None if ours == theirs else {"=": theirs}


def _of_objects(ours: dict[str, Any], theirs: dict[str, Any]) -> Patch | None:
    found = {name: difference(ours[name], value) if name in ours else {"=": value} for name, value in theirs.items()}
    fields = {name: patch for name, patch in found.items() if patch is not None}
    gone = [name for name in ours if name not in theirs]
    return ({"f": fields} if fields else {}) | ({"-": gone} if gone else {}) or None


def patched(value: Any, patch: Patch) -> Any:
    """Return what a patch makes of a value."""
    if "=" in patch:
        return patch["="]
    if "i" in patch and type(value) is list:
        inner = patch["i"]
        return [patched(one, inner[str(i)]) if str(i) in inner else one for i, one in enumerate(value)]
    if type(value) is not dict:
        return value
    changed = {name: patched(value.get(name), one) for name, one in patch.get("f", {}).items()}
    gone = patch.get("-", ())
    return {name: one for name, one in {**value, **changed}.items() if name not in gone}
