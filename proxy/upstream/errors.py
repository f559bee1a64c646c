"""The upstream's error answers, brought into OpenAI's error object. Pure.

Seen in the wild: `{"error": {…}}` (OpenAI, vLLM, llama.cpp), `{"error": "text"}` (Ollama), `[{"error": {…}}]`
(Google), `{"detail": "text" or [{"loc", "msg"}]}` (FastAPI), `{"message": …}` (older vLLM), plain text, HTML.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import orjson

from proxy.protocol import lenient_json
from proxy.protocol.errors import UpstreamRefusal

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Longest message that is taken from an answer without a shape, in characters.
MAX_TEXT_LENGTH = 1000

_KEPT_HEADERS = frozenset({"retry-after", "retry-after-ms", "x-should-retry"})


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamRefusal:
    """Return the upstream's error answer as an exception.

    status: 400 to 599. body: as read, of any shape. Retry and rate limit headers are kept.
    """
    return UpstreamRefusal(status, _error_object(body), _kept(headers))


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        value = lenient_json.loads_lenient(body)
    except orjson.JSONDecodeError:
        return _from_text(body.decode("utf-8", "replace"))
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str):
        return _from_text(value)
    return _from_object(value) if isinstance(value, dict) else {}


def _from_object(value: dict[str, Any]) -> dict[str, Any]:
    error = value.get("error")
    if isinstance(error, dict):
        return _with_text(error, error.get("message") or error.get("detail"))
    if "detail" in value:
        return _with_text({}, value["detail"])
    shape: dict[str, Any] = {key: value[key] for key in ("type", "param", "code") if key in value}
    message = value.get("message")
    return _with_text(shape, message if isinstance(message, str) else error)


def _with_text(error: dict[str, Any], message: object) -> dict[str, Any]:
    """Return `error` with a message that is a string, or with none."""
    rest = {key: value for key, value in error.items() if key != "message"}
    if isinstance(message, list):
        message = "; ".join(filter(None, map(_from_validation, message)))
    if isinstance(message, dict):
        message = message.get("message") or message.get("error")
    return {**rest, "message": message} if isinstance(message, str) and message else rest


def _from_validation(entry: object) -> str:
    """Return `body.model: Field required` for FastAPI's `{"loc": ["body", "model"], "msg": "Field required"}`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("msg"), str):
        return entry if isinstance(entry, str) else ""
    place = entry.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    return f"{where}: {entry['msg']}" if where else str(entry["msg"])


def _from_text(text: str) -> dict[str, Any]:
    text = text.strip()
    if not text or text.startswith("<"):
        return {}
    return {"message": text[:MAX_TEXT_LENGTH]}


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name.lower() in _KEPT_HEADERS or name.lower().startswith("x-ratelimit-")
    }


def certificate_problem(exc: BaseException | None) -> str:
    """Return what is wrong with the certificate that ended a connection, in OpenSSL's words; '' if it was not that."""
    while exc is not None:
        # aiohttp's own is a subclass of OpenSSL's, without its words
        if isinstance(exc, ssl.SSLCertVerificationError) and (reason := getattr(exc, "verify_message", "")):
            return str(reason)
        exc = exc.__cause__ or exc.__context__
    return ""
