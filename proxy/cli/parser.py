"""The command line's grammar: every command with its arguments, flags and examples. Nothing is imported but argparse.

`create_parser` also serves `branchline completion`, which writes it down for a shell.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy import __version__
from proxy.config.flags import FLAGS, STORE_FLAGS

#: What `--help` shows below each command.
EXAMPLES: Mapping[str, str] = {
    "serve": """
  branchline serve --upstream http://127.0.0.1:8000/v1
  branchline serve --config config.toml --workers auto
  branchline serve --upstream echo --reload""",
    "check": """
  branchline check --config config.toml
  branchline check --upstream http://127.0.0.1:8000/v1 --json""",
    "doctor": """
  branchline doctor --config config.toml
  branchline doctor --json | jq '.findings[] | select(.works | not)'""",
    "config": """
  branchline config --config config.toml
  branchline config --changed""",
    "owner": """
  branchline owner                    how callers become owners here
  branchline owner < key.txt          the owner of a key or token, which stays out of the shell's history
  branchline owner sk-...             the same""",
    "conversations list": """
  branchline conversations list
  branchline conversations list --owner key:alice --limit 100
  branchline conversations list --json | jq -r .id""",
    "conversations show": """
  branchline conversations show conv_... --last 5
  branchline conversations show conv_... --branch draft --full""",
    "conversations tree": """
  branchline conversations tree conv_...""",
    "conversations delete": """
  branchline conversations delete conv_...
  branchline conversations delete --yes conv_... conv_...""",
    "tail": """
  branchline tail resp_...            a response, while it is made in the background or its events are kept
  branchline tail conv_... --last 3   a conversation's active branch, from its last three items on""",
    "gc": """
  branchline gc
  branchline gc --every 3600""",
    "fsck": """
  branchline fsck --redis redis://127.0.0.1:6379/0""",
    "purge": """
  branchline purge --owner key:alice""",
    "backup": """
  branchline backup /backups/branchline.backup""",
    "restore": """
  branchline restore --check /backups/branchline.backup
  branchline restore /backups/branchline.backup --redis redis://127.0.0.1:6379/0""",
    "export": """
  branchline export exported --owner key:alice""",
    "import": """
  branchline import exported --owner key:bob""",
    "demo": """
  branchline demo                     on 127.0.0.1:8080
  branchline demo --port 9000 --key any""",
    "completion": """
  branchline completion bash > ~/.local/share/bash-completion/completions/branchline
  branchline completion zsh > "${fpath[1]}/_branchline\"""",
}

_FIRST_EXAMPLES = """
  branchline serve --upstream echo
  branchline doctor --config config.toml
  branchline COMMAND --help"""

#: The shells that `completion` writes for.
SHELLS = ("bash", "zsh")

#: Argparse's action of a command with commands of its own.
Commands = Any


def create_parser() -> argparse.ArgumentParser:
    """Return the parser. What it parses has the command's name as `command`, as in `conversations list`."""
    parser = argparse.ArgumentParser(
        prog="branchline",
        description="A reverse proxy that makes any LLM Responses API stateful.",
        epilog=f"examples:{_FIRST_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"branchline {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serving(commands)
    _add_looking(commands)
    _add_demo(commands)
    _add_upkeep(commands)
    _add_copies(commands)
    completion = _add(commands, "completion", "print what completes this command line in a shell", (), plain=True)
    completion.add_argument("shell", choices=SHELLS)
    _add(commands, "version", "print the version", (), configured=False)
    return parser


def _add_serving(commands: Commands) -> None:
    serve = _add(commands, "serve", "run the proxy", list(FLAGS), plain=True)
    serve.add_argument("--reload", action="store_true", help="start again whenever the code or the FILE changes")
    _add(commands, "check", "say whether the configuration, the store and the upstream work", list(FLAGS))
    _add(commands, "doctor", "look at everything that can go wrong, and say what to do about it", list(FLAGS))
    config = _add(commands, "config", "print the settings in force and where each comes from", list(FLAGS))
    config.add_argument("--changed", action="store_true", help="only those that are not at their default")
    owner = _add(commands, "owner", "say which owner a key or token stands for", list(FLAGS))
    owner.add_argument(
        "credential", metavar="TOKEN|KEY|JWT", nargs="?", help="what a client sends; read from standard input if piped"
    )


def _add_looking(commands: Commands) -> None:
    text = "look at conversations, or delete them"
    group = commands.add_parser("conversations", help=text, description=_sentence(text))
    inner = group.add_subparsers(metavar="COMMAND", required=True)
    listing = _add(inner, "conversations list", "list conversations, the last used ones first", STORE_FLAGS)
    listing.add_argument("--owner", help="only those of this owner; without it all are read, which takes longer")
    listing.add_argument("--limit", metavar="N", type=_count, default=20, help="at most so many (20)")
    show = _add(inner, "conversations show", "show a conversation and its last items", STORE_FLAGS)
    show.add_argument("id", metavar="ID")
    show.add_argument("--branch", default="", help="items of this branch, not of the active one")
    show.add_argument("--last", metavar="N", type=_count, default=20, help="at most so many items (20)")
    show.add_argument("--full", action="store_true", help="whole texts")
    tree = _add(inner, "conversations tree", "draw a conversation's branches", STORE_FLAGS)
    tree.add_argument("id", metavar="ID")
    delete = _add(inner, "conversations delete", "delete conversations with all that is in them", STORE_FLAGS)
    delete.add_argument("ids", metavar="ID", nargs="+")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    tail = _add(commands, "tail", "follow a running response or a conversation", STORE_FLAGS)
    tail.add_argument("id", metavar="ID")
    tail.add_argument("--branch", default="", help="of a conversation: this branch, not the active one")
    tail.add_argument("--last", metavar="N", type=_count, default=10, help="of a conversation: begin so far back (10)")


def _add_demo(commands: Commands) -> None:
    text = "fill in a conversation that shows what branches are, on a running server"
    demo = _add(commands, "demo", text, ("server.host", "server.port"))
    demo.add_argument("--key", default="", help="whose conversation it will be, where callers send keys")


def _add_upkeep(commands: Commands) -> None:
    gc = _add(commands, "gc", "free what no branch and no response reaches any more", STORE_FLAGS)
    gc.add_argument("--every", metavar="SECONDS", type=_seconds, help="go on, with this pause between two times")
    fsck = _add(commands, "fsck", "check the store's invariants and change nothing", STORE_FLAGS)
    fsck.add_argument("--owner", default="", help="check only what belongs to this owner")
    purge = _add(commands, "purge", "delete everything that belongs to an owner, for good", STORE_FLAGS)
    purge.add_argument("--owner", required=True, help="whose conversations, responses and idempotency keys go")
    purge.add_argument("--yes", action="store_true", help="do not ask")


def _add_copies(commands: Commands) -> None:
    backup = _add(commands, "backup", "write all that the store holds to one file, beside running servers", STORE_FLAGS)
    backup.add_argument("file", metavar="FILE", type=Path, help="file to write, replaced once the new one is whole")
    restore = _add(commands, "restore", "write a backup into an empty store", STORE_FLAGS)
    restore.add_argument("file", metavar="FILE", type=Path, help="what `backup` wrote")
    restore.add_argument("--replace", action="store_true", help="delete what is in the store before")
    restore.add_argument("--check", action="store_true", help="only read the file and say whether it is whole")
    export = _add(commands, "export", "write conversations to files, one each", STORE_FLAGS)
    export.add_argument("directory", metavar="DIR", type=Path, help="folder to write to; is made if missing")
    export.add_argument("--owner", help="export only what belongs to this owner")
    imports = _add(commands, "import", "restore exported conversations", STORE_FLAGS)
    imports.add_argument("paths", metavar="DIR|FILE", type=Path, nargs="+", help="folders and files to read")
    imports.add_argument("--owner", help="give everything to this owner")


def _add(
    commands: Commands, name: str, text: str, flags: Sequence[str], *, configured: bool = True, plain: bool = False
) -> argparse.ArgumentParser:
    """Add a command. flags: configuration keys that it takes. configured: it reads settings. plain: it has no JSON."""
    examples = EXAMPLES.get(name)
    command: argparse.ArgumentParser = commands.add_parser(
        name.rpartition(" ")[2],
        help=text,
        description=_sentence(text),
        epilog=f"examples:{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=name)
    if configured and name != "completion":
        command.add_argument("--config", metavar="FILE", type=Path, help="TOML file with settings")
    for key in flags:
        flag, value, meaning = FLAGS[key]
        command.add_argument(flag, dest=key, metavar=value, help=meaning)
    if not plain:
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
    return command


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ValueError(text)
    return seconds


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise ValueError(text)
    return number
