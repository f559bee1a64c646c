"""Sealing: what is kept or handed out so that only this service can read it again (AES-256-GCM).

    blseal1_ + urlsafe base64 of: 12 bytes nonce, ciphertext, 16 bytes tag

What it was sealed for and whom it belongs to are authenticated too: text that was sealed for one purpose or owner can't
be opened for another. Keys: `sealing.key`, or a random one in `<data.dir>/sealing.key`, made when it is first needed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp.web import AppKey
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.config.values import KEY_BYTES, key_from_text

if TYPE_CHECKING:
    from proxy.config.settings import Config

#: What sealed text begins with; the digit is the version of the format.
PREFIX = "blseal1_"
KEY_FILE = "sealing.key"

_NONCE_BYTES = 12

#: Seals what only this service may read again.
SEALER: AppKey[Sealer] = AppKey("sealer")


class Unsealable(Exception):
    """The text was not sealed here: another key, purpose or owner, or it was changed."""


class Sealer:
    """Seals and opens bytes. key: 32 bytes, or what gives them when they are first needed."""

    def __init__(self, key: bytes | Callable[[], bytes]) -> None:
        self._key = key

    def seal(self, purpose: str, owner: str, data: bytes) -> str:
        """Return `data` sealed: URL-safe characters only, about 4/3 as long. May raise OSError (see `read_key`)."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, data, _context(purpose, owner))
        return PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, purpose: str, owner: str, text: str) -> bytes:
        """Return what was sealed for this purpose and owner. Raises Unsealable for anything else."""
        if not is_sealed(text):
            raise Unsealable
        body = text[len(PREFIX) :]
        try:
            sealed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, ciphertext, _context(purpose, owner))
        except (binascii.Error, ValueError, InvalidTag) as exc:
            raise Unsealable from exc

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes that only this key gives, for what is hidden in another way. May raise OSError."""
        key = self._key if isinstance(self._key, bytes) else self._key()
        return hmac.new(key, f"branchline: {purpose}".encode(), "sha256").digest()

    @cached_property
    def _cipher(self) -> AESGCM:
        return AESGCM(self._key if isinstance(self._key, bytes) else self._key())


def is_sealed(text: str) -> bool:
    """Tell whether text looks like what a Sealer made, of whatever key."""
    return text.startswith(PREFIX)


def create_sealer(config: Config) -> Sealer:
    """Return the sealer of a configuration; the key's file is touched when something is first sealed or opened."""
    if config.sealing.key:
        return Sealer(key_from_text(config.sealing.key))
    return Sealer(lambda: read_key(Path(config.data.dir)))


def key_place(config: Config) -> str:
    """Say where the key of a configuration is, without it."""
    return "sealing.key" if config.sealing.key else str(Path(config.data.dir).expanduser() / KEY_FILE)


def key_fingerprint(config: Config) -> str:
    """Return what tells the key of a configuration from others, but not the key; '' if there is none yet."""
    if config.sealing.key:
        key = key_from_text(config.sealing.key)
    else:
        path = Path(config.data.dir).expanduser() / KEY_FILE
        if not path.is_file():
            return ""
        key = path.read_bytes()
    return hmac.new(key, b"branchline: which key is this?", "sha256").hexdigest()[:16]


def read_key(directory: Path) -> bytes:
    """Return the key in a data folder; the first to need one makes it (0600), and all others get the same.

    Raises OSError if it can be neither read nor made, or is damaged.
    """
    directory = directory.expanduser()
    path = directory / KEY_FILE
    if not path.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_key(directory, path)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise OSError(f"{path} is damaged: it should have {KEY_BYTES} bytes")
    return key


def _make_key(directory: Path, path: Path) -> None:
    """Write a whole file first and link it to its name then: nobody reads half a key, and the first one stays."""
    descriptor, draft = tempfile.mkstemp(dir=directory, prefix=KEY_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        Path(draft).unlink()


def _context(purpose: str, owner: str) -> bytes:
    """Return what is authenticated beside the data; the length keeps (ab, c) and (a, bc) apart."""
    return f"{PREFIX}{len(purpose)}:{purpose}:{owner}".encode("utf-8", "surrogatepass")
