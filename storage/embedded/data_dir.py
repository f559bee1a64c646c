"""Data directory of the embedded Valkey: who may use it, and how its socket is reached.

proxy.lock      held by the Branchline that uses the folder; a second one is refused
server.lock     inherited by the server, so it is held for exactly as long as a server lives
valkey.sock     the socket, for this user only
valkey.log      what the server writes
appendonlydir/  the data
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

SOCKET = "valkey.sock"
LOG = "valkey.log"
DATA = "appendonlydir"
#: Bytes that the path of a unix socket may have: `sun_path` is 104 long on macOS and 108 on Linux, with its NUL.
MAX_SOCKET_PATH = 103


class EmbeddedUnavailable(Exception):
    """The embedded Valkey can't run here. `str()` says why, in words for whoever started Branchline."""


class DataFolder:
    """A data folder that this process alone uses, until `release`.

    path: absolute. socket: where clients connect, short enough for every system.
    """

    def __init__(self, directory: Path) -> None:
        """Make the folder if it is missing (0700) and lock it; EmbeddedUnavailable says why that failed."""
        self.path = _made(directory)
        self._held = contextlib.ExitStack()
        self._held.callback(os.close, _proxy_lock(self.path))
        self.socket = reachable_socket(self.path, self._held)

    def server_lock(self) -> int | None:
        """Return a descriptor that holds the server's lock, or None while a server lives."""
        return _lock(self.path / "server.lock")

    def release(self) -> None:
        """Remove the socket and let the next Branchline in."""
        self.socket.unlink(missing_ok=True)
        self._held.close()


def reachable_socket(directory: Path, held: contextlib.ExitStack) -> Path:
    """Return the path of the server's socket in `directory` (absolute), short enough for every system.

    held: removes what was made for that.
    """
    socket = directory / SOCKET
    if len(os.fsencode(socket)) <= MAX_SOCKET_PATH:
        return socket
    # the limit is on the path as it is written, so a link in a short folder leads to the same socket
    folder = held.enter_context(tempfile.TemporaryDirectory(prefix="branchline-"))
    link = Path(folder, "data")
    link.symlink_to(directory)
    return link / SOCKET


def absolute(directory: Path) -> Path:
    """Return `directory` as an absolute path, `~` expanded; EmbeddedUnavailable when that is impossible."""
    try:
        return directory.expanduser().resolve()
    except (OSError, RuntimeError) as exc:
        raise EmbeddedUnavailable(f"the data folder {directory} can't be found: {exc}") from exc


def is_in_use(directory: Path) -> bool:
    """Tell whether a Branchline runs in `directory` now; changes nothing there."""
    path = directory / "proxy.lock"
    if not path.exists():
        return False
    lock = _lock(path)
    if lock is not None:
        os.close(lock)
    return lock is None


def holds_data(directory: Path) -> bool:
    """Tell whether a server has ever kept anything in `directory`."""
    return (directory / DATA).is_dir()


def is_writable(directory: Path) -> bool:
    """Tell whether `directory`, or the first folder above it that exists, can be written."""
    try:
        existing = next(path for path in (directory, *directory.parents) if path.exists())
    except OSError:
        return False
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _made(directory: Path) -> Path:
    directory = absolute(directory)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise EmbeddedUnavailable(f"the data folder {directory} can't be made: {exc.strerror}") from exc
    return directory


def _proxy_lock(directory: Path) -> int:
    path = directory / "proxy.lock"
    try:
        lock = _lock(path)
    except OSError as exc:
        raise EmbeddedUnavailable(f"the data folder {directory} can't be written: {exc.strerror}") from exc
    if lock is None:
        owner = path.read_text(errors="replace").strip() or "unknown"
        raise EmbeddedUnavailable(
            f"the data folder {directory} is in use by another Branchline (process {owner}); "
            "stop that one, choose another data.dir, or share a server through redis.url"
        )
    os.truncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock on the file `path`, or None while somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
