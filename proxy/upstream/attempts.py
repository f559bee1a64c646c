"""Attempts: one request to a model server each, what became of it, and whether another server is to be asked instead.

no connection, silence, an answer that broke off or can't be read   the server's fault, before its first output
429, 500, 502, 503, 504                                             another is asked
a 200 that reports its own failure (`in_band`)                      another is asked, unless the request is at fault
any other status, an answer over `upstream.max_response_bytes`      the client's to know
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.protocol.errors import ApiError, BadGateway, GatewayTimeout, UpstreamRefusal

#: What others may do better.
FAILOVER_STATUSES = frozenset({429, 500, 502, 503, 504})

#: Codes and types of failures that are the request's, wherever it goes.
_OF_THE_REQUEST = frozenset(
    {
        "bio_policy",
        "content_filter",
        "context_length_exceeded",
        "cyber_policy",
        "data_residency_mismatch",
        "invalid_prompt",
        "invalid_request_error",
        "misalignment_policy_violation",
    }
)
_OF_IMAGES = (
    "image",
    "invalid_image",
    "invalid_base64",
    "unsupported_image",
    "empty_image",
    "failed_to_download",
)
#: The code of an answer that is too large here.
TOO_LARGE = "upstream_response_too_large"


def is_for_others(error: ApiError) -> bool:
    """Whether another server may do better than one that failed so."""
    if isinstance(error, UpstreamRefusal):
        return error.status in FAILOVER_STATUSES
    return isinstance(error, BadGateway | GatewayTimeout) and error.code != TOO_LARGE


def is_the_servers_own(reason: Any) -> bool:
    """Whether an answer under a 200 failed for the server's reasons, not the request's. reason: as the server said."""
    if not isinstance(reason, Mapping):
        return True
    told = {str(reason.get(name)) for name in ("code", "type")}
    if told & _OF_THE_REQUEST or any(one.startswith(_OF_IMAGES) for one in told):
        return False
    status = reason.get("code") or reason.get("status")
    text = str(status)
    is_refusal = text.isdecimal() and 400 <= int(text[:4]) < 500
    return not is_refusal or text == "429"
