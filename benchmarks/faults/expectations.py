"""What a client may be told in a cell of the fault matrix. Pure."""

from __future__ import annotations

from collections.abc import Sequence

#: Model server → what a client that listens to the end is told, not streamed or streamed. Whatever the store does in
#: between: the answer is written as soon as it can be.
BY_UPSTREAM = {
    "fine": {"completed"},
    "resets before headers": {"502 upstream_error"},
    "resets mid-stream": {"502 upstream_error", "failed server_error"},
    "stalls": {"504 upstream_timeout", "failed server_error"},
    "garbage": {"502 upstream_error", "failed server_error"},
    "429": {"429 rate_limit_exceeded"},
    "HTML 500": {"500 server_error"},
    "200 with an error": {"failed server_error"},
    "never ends": {"502 upstream_response_too_large", "failed server_error"},
    "no terminal event": {"502 upstream_error", "failed server_error"},
    "100 MB": {"502 upstream_response_too_large", "failed server_error"},
    "refuses": {"502 upstream_unreachable"},
}
#: Fault of the store → what a turn may be told that begins meanwhile.
BY_STORE = {
    "fine": set[str](),
    "paused 3 s": {"503 store_unavailable"},
    "paused 7 s": {"503 store_unavailable"},
    "killed and back": {"503 store_unavailable", "503 store_loading"},
    "lost between open and commit": {"503 store_unavailable"},
    "READONLY": {"503 store_read_only", "503 store_unavailable"},
    "full memory": {"507 insufficient_storage"},
    "full disk": {"507 insufficient_storage", "503 store_read_only"},
    "BUSY": {"503 store_busy", "503 store_unavailable"},
    "NOPERM": {"503 store_permission_denied"},
    "failover": {"503 store_read_only", "503 store_unavailable", "503 store_loading"},
}
#: What clients note themselves when they leave.
LEFT = {"cut off", "left", "no answer"}
#: Clients that ask until it is done.
PERSISTENT = {"retries with key", "retries without key"}
#: Clients that do not listen to the end.
LEAVING = {"resets", "leaves before headers"}


def unexpected(upstream: str, store: str, client: str, told: Sequence[str]) -> list[str]:
    """Return what a client was told, attempt by attempt, that it must not be: a sentence each."""
    if client in PERSISTENT:
        return [] if told and told[-1] == "completed" else [f"it was never done: {list(told)}"]
    # only a turn without a model server is opened under the fault
    expected = BY_UPSTREAM[upstream] | (BY_STORE[store] if upstream == "refuses" else set())
    if client in LEAVING:
        expected |= LEFT
    return [f"its client was told {one}" for one in told if one not in expected]
