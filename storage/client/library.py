"""Script library: the Lua files under `lua/`, each put together with what its head says that it needs.

A file begins with comments; among them it declares itself, in lines of this form:

    -- NAME: what it does          its own name, as the file is called
    -- needs: common, response     files of `lua/lib` that are put before it, and what those need; or `nothing`
    -- prolongs: whole             scripts only: the conversation lives on after it, see below
    -- lists: the turn             scripts only: what it notes in its owner's listings

`prolongs: whole` gives a conversation that was used its whole time anew; `rest` gives what the script has made what is
left of it. A script that `lists` has `lib/listed.lua` behind the names of its keys and arguments: that runs first,
whatever comes of the script then. So a new script is one file here and one method that calls it.

A script that runs all the time may have a *plain case*: a file of the same name in `lua/plain`, which stands before
everything and answers what comes up nearly always, with few commands and without the functions of `lua/lib`: to make
those for each call costs as much as a whole plain turn. It uses the names that the script gives its keys and arguments,
needs only constants, checks first whether this is its case, and then writes exactly what the script would. What is not
plain it leaves to the script.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

#: The folder of what is put before scripts; every other one has scripts.
LIBRARY_FOLDER = "lib"
#: The folder of plain cases.
PLAIN_FOLDER = "plain"
#: What `prolongs` may say → whether it counts as a use of the conversation.
PROLONGS = {"whole": "true", "rest": "false"}
#: The file with which scripts name more keys than they are given.
LAYOUT = "layout"
#: The file that scripts with `prolongs` need, and what is put around them.
RETENTION = "retention"
#: The file that is put behind the names of scripts with `lists`.
LISTED = "listed"
_PROLONGED = """local function run()
{script}
end
local reply = run()
if reply[1] == 'ok' then
  prolong({used})
end
return reply
"""
_PLAIN = """do
{names}
{plain}
end"""
_DECLARATION = re.compile(r"--\s?(\w+):\s*(.*)")


class Script(NamedTuple):
    """A script's whole text and the hash that Redis knows it by. names_keys: it makes names of keys itself."""

    source: str
    sha: str
    names_keys: bool


class Head(NamedTuple):
    """What a file declares. needs: names of library files. prolongs: None, or a key of `PROLONGS`. lists: whether."""

    needs: tuple[str, ...]
    prolongs: str | None
    lists: bool = False


class Files(NamedTuple):
    """The texts of all Lua files by name: scripts, what is put before them, and scripts' plain cases."""

    scripts: dict[str, str]
    library: dict[str, str]
    plain: dict[str, str]


def read_head(name: str, text: str) -> Head:
    """Return what the file `name` declares. Raises ValueError for anything that is not declared as it must be."""
    declared: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.startswith("--"):
            break
        if match := _DECLARATION.match(line):
            word, value = match.groups()
            if word in declared or word not in (name, "needs", "prolongs", "lists"):
                raise ValueError(f"{name}.lua declares {word!r}, which is unknown or declared already")
            declared[word] = value.strip()
    if next(iter(declared), "") != name or "needs" not in declared:
        raise ValueError(f"{name}.lua must begin with its name and say what it needs")
    prolongs = declared.get("prolongs")
    if prolongs is not None and prolongs not in PROLONGS:
        raise ValueError(f"{name}.lua prolongs {prolongs!r} instead of {' or '.join(PROLONGS)}")
    needs = () if declared["needs"] == "nothing" else tuple(one.strip() for one in declared["needs"].split(","))
    return Head(needs, prolongs, "lists" in declared)


def read_names(text: str) -> str:
    """Return the lines in which a script names its keys and arguments: those between its first two empty lines."""
    return text.partition("\n\n")[2].partition("\n\n")[0]


def assemble(files: Files, conversation_seconds: int) -> dict[str, Script]:
    """Return every script by name, with what it needs before it, and before that its plain case.

    conversation_seconds: how long a conversation is kept after its last use; 0: for ever. Raises ValueError for a head
    that can't be followed.
    """
    heads = {name: read_head(name, text) for name, text in files.library.items()}
    plain_heads = {name: read_head(name, text) for name, text in files.plain.items()}
    if prolonging := [name for name, head in (heads | plain_heads).items() if head.prolongs or head.lists]:
        raise ValueError(f"{prolonging[0]}.lua is no script: it prolongs and lists nothing by itself")
    if strays := plain_heads.keys() - files.scripts.keys():
        raise ValueError(f"{PLAIN_FOLDER}/{min(strays)}.lua is no script's plain case")
    assembled = {}
    for name, text in files.scripts.items():
        head = read_head(name, text)
        parts = list(_in_order((*head.needs, RETENTION) if head.prolongs else head.needs, heads, (name,)))
        names_keys = LAYOUT in parts
        listing = "\n" + files.library[LISTED] if head.lists else ""
        texts = [f"local CONVERSATION_SECONDS = {conversation_seconds}"] if RETENTION in parts else []
        if name in files.plain:
            before = list(_in_order(plain_heads[name].needs, heads, (name,)))
            texts += [files.library[part] for part in before]
            names = read_names(text) + listing
            texts.append(_PLAIN.format(names=names, plain=files.plain[name]))
            parts = [part for part in parts if part not in before]
        elif listing:
            text = text.replace(read_names(text), read_names(text) + listing, 1)
        texts += [files.library[part] for part in parts]
        texts.append(_PROLONGED.format(script=text, used=PROLONGS[head.prolongs]) if head.prolongs else text)
        source = "\n".join(texts)
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        assembled[name] = Script(source, sha, names_keys)
    return assembled


def _in_order(needs: tuple[str, ...], heads: Mapping[str, Head], path: tuple[str, ...]) -> Iterator[str]:
    """Yield what is needed, each once, and before it what it needs itself. path: who needs it."""
    seen = set()
    for name in needs:
        if name not in heads or name in path:
            raise ValueError(f"{path[-1]}.lua needs {name!r}, which is no other file of {LIBRARY_FOLDER}")
        for part in (*_in_order(heads[name].needs, heads, (*path, name)), name):
            if part not in seen:
                seen.add(part)
                yield part


def read_files() -> Files:
    """Return the texts of all Lua files."""
    files = Files({}, {}, {})
    folders = {LIBRARY_FOLDER: files.library, PLAIN_FOLDER: files.plain}
    for folder in sorted((resources.files("storage") / "lua").iterdir(), key=lambda one: one.name):
        texts = folders.get(folder.name, files.scripts)
        for file in sorted(folder.iterdir(), key=lambda one: one.name):
            name = file.name.removesuffix(".lua")
            if name in texts:
                raise ValueError(f"two scripts are called {name}")
            texts[name] = file.read_text("utf-8")
    return files


@cache
def load_scripts(conversation_seconds: int = 0, *, plain_cases: bool = True) -> dict[str, Script]:
    """Return every script by name, read from `lua/`. conversation_seconds: see `assemble`.

    plain_cases: whether scripts have them. What they write must not depend on it; tests compare.
    """
    files = read_files()
    return assemble(files if plain_cases else files._replace(plain={}), conversation_seconds)
