"""`branchline owner`: which owner a key or token stands for, as commands with `--owner` take it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import aiohttp
import jwt

from proxy.auth.authenticators import create_authenticator, owner_of_claims
from proxy.cli.commands.maintenance import UpkeepError
from proxy.cli.commands.terminal import Terminal
from proxy.config.values import is_loopback
from proxy.protocol.errors import ApiError

if TYPE_CHECKING:
    from argparse import Namespace

    from proxy.config.settings import Config

_MODES = {
    "passthrough": "token:… , the SHA-256 of the key that a caller sends to the model server",
    "jwt": "jwt:… , the SHA-256 of a token's iss, a line feed, and its sub",
    "api_keys": "key:NAME, the name beside the key's hash in auth.api_keys",
    "none": "local: everybody is one owner",
}


async def run_owner(config: Config, options: Namespace) -> int:
    """Print the owner that a credential stands for, or without one how owners come about; return the exit status.

    The credential is not printed. Raises UpkeepError for one that is refused; a refused token's owner is told too.
    """
    terminal = Terminal(as_json=options.json)
    credential = options.credential or _read_credential()
    if not credential:
        anonymous = _without_credential(config)
        facts = {"mode": config.auth.mode, "owners": _MODES[config.auth.mode], "without_credential": anonymous}
        missing = f"without a key a caller is {anonymous}" if anonymous else "without a key a caller is refused"
        terminal.report(f"auth.mode is {config.auth.mode}; an owner is {facts['owners']}\n{missing}", facts)
        return 0
    owner, refusal = await _identify(config, credential)
    if not owner:
        raise UpkeepError(f"{refusal} (auth.mode is {config.auth.mode})")
    terminal.report(owner, {"owner": owner, "mode": config.auth.mode, "accepted": not refusal})
    if refusal:
        print(f"branchline: the server would refuse this token: {refusal}", file=sys.stderr)
    return 1 if refusal else 0


async def _identify(config: Config, credential: str) -> tuple[str, str]:
    """Return the owner, '' if none is known, and why a server refuses the credential, '' if it does not."""
    async with aiohttp.ClientSession() as session:
        try:
            authenticator = create_authenticator(config, session)
            caller = await authenticator.authenticate({"Authorization": f"Bearer {credential}"})
        except ApiError as exc:
            return _owner_of_token(credential) if config.auth.mode == "jwt" else "", exc.message
        except ValueError as exc:
            raise UpkeepError(str(exc)) from exc
    return caller.owner, ""


def _owner_of_token(token: str) -> str:
    """Return whom a token names, whoever signed it; '' if it names nobody."""
    try:
        return owner_of_claims(jwt.decode(token, options={"verify_signature": False}))
    except (jwt.PyJWTError, ApiError):
        return ""


def _without_credential(config: Config) -> str:
    if config.auth.mode == "none":
        return "local"
    return "anonymous" if config.auth.mode == "passthrough" and is_loopback(config.server.host) else ""


def _read_credential() -> str:
    """Return what is piped in, without the blanks around it."""
    return "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.readline(64 * 1024).strip()
