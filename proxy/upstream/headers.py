"""Headers on their way between client and model server: which go on, which stay here. Pure."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from aiohttp import hdrs
from multidict import CIMultiDict

from proxy.auth.caller import CREDENTIAL_HEADERS

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Headers of one connection, not of the message (RFC 9110, 7.6.1), and obsolete ones like them.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

#: What a caller sends to this server alone. `Expect` was answered here, cookies belong to this origin, what is recorded
#: is decided here.
_OURS_IN = frozenset(
    {"host", "content-length", "cookie", "expect", "x-branchline-record", *CREDENTIAL_HEADERS, *HOP_BY_HOP}
)

#: What an upstream says about its own origin, and the request id, which is ours.
_THEIRS_OUT = frozenset({"x-request-id", "set-cookie", "alt-svc", "strict-transport-security", *HOP_BY_HOP})

#: Headers that describe the bytes of a body; they are wrong as soon as the body is rewritten.
_OF_THE_BYTES = frozenset({"content-length", "content-encoding", "content-type", "content-md5", "digest", "etag"})


#: Of a name and a value.
_VALUE = itemgetter(1)
#: Both, for a body that is rewritten.
_THEIRS_OF_A_BODY = _THEIRS_OUT | _OF_THE_BYTES


def request_headers(incoming: Mapping[str, str], credentials: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers of a caller's request that go upstream.

    credentials: headers in the place of all of the caller's own credentials, see `Caller`. Hop-by-hop headers, also
    those that `Connection` names, Host, Content-Length, Cookie and Expect stay here. `Forwarded` and its like go on.
    """
    kept = _kept(incoming, _OURS_IN)
    kept.extend(credentials)
    return kept


def response_headers(answer: Mapping[str, str], *, untouched: bool = False) -> CIMultiDict[str]:
    """Return the headers of an upstream's answer that go back to the caller.

    untouched: the body is passed on byte for byte, so those that describe its bytes stay. What the upstream
    says about its own origin (cookies, CORS, HSTS, Alt-Svc) is dropped.
    """
    kept = _kept(answer, _THEIRS_OUT if untouched else _THEIRS_OF_A_BODY)
    if "access-control-" in "".join(kept).lower():
        for name in [name for name in kept if name.lower().startswith("access-control-")]:
            kept.popall(name, None)
    return kept


def turn_headers(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return the headers of a request whose body was written here: JSON, and an answer that needs no decoding."""
    sent = CIMultiDict(headers)
    sent.popall(hdrs.CONTENT_ENCODING, None)
    sent[hdrs.CONTENT_TYPE] = "application/json"
    sent[hdrs.ACCEPT_ENCODING] = "identity"
    return sent


def _kept(headers: Mapping[str, str], dropped: frozenset[str]) -> CIMultiDict[str]:
    named: set[str] = set()
    if hdrs.CONNECTION in headers:
        connection = [value for key, value in headers.items() if key.lower() == "connection"]
        named = {name.strip().lower() for value in connection for name in value.split(",")}
    unwanted = dropped | named if named else dropped
    kept = [(key, value) for key, value in headers.items() if key.lower() not in unwanted]
    if not "".join(map(_VALUE, kept)).isascii():
        kept = [(key, _sendable(value)) for key, value in kept]
    return CIMultiDict(kept)


def _sendable(value: str) -> str:
    # aiohttp reads bytes that are not UTF-8 as lone surrogates and then can't write them.
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
