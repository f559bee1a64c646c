"""requirements.lock against pyproject.toml: each dependency is in it, in a version that is allowed, with its hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
#: Name → version and the lines of its hashes.
LOCKED = {
    canonicalize_name(name): (version, hashes.count("--hash=sha256:"))
    for name, version, hashes in re.findall(
        r"^([\w.-]+)==([\w.]+)(?: ;[^\n\\]*)? \\\n((?:    --hash=[^\n]*\n)+)",
        (ROOT / "requirements.lock").read_text("utf-8"),
        re.MULTILINE,
    )
}


def test_every_dependency_is_locked_in_a_version_that_is_allowed():
    for text in PROJECT["dependencies"]:
        wanted = Requirement(text)
        version, hashes = LOCKED[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), text
        assert hashes, text


def test_nothing_in_it_names_where_it_was_downloaded():
    assert "://" not in (ROOT / "requirements.lock").read_text("utf-8")
