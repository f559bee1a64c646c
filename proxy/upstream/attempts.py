"""Attempts: one request to a model server each, what became of it, and whether another server is to be asked instead.

no connection, silence, an answer that broke off or can't be read   the server's fault, before its first output
429, 500, 502, 503, 504                                             another is asked
a 200 that reports its own failure (`in_band`)                      another is asked, unless the request is at fault
any other status, an answer over `upstream.max_response_bytes`      the client's to know
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proxy.protocol.errors import ApiError, BadGateway, GatewayTimeout, UpstreamRefusal
from proxy.upstream.body import UpstreamCut

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


class Fault(StrEnum):
    """How a request to a model server failed that has no status to tell it."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    CUT = "cut"
    MALFORMED = "malformed"
    IN_BAND = "in_band"


@dataclass(slots=True)
class Attempt:
    """One request. upstream: the server's name. model: as the client calls it. path: below the server's URL.

    status: HTTP's, or the fault that it ended in; None while there is no answer. Times are monotonic seconds.
    """

    upstream: str
    model: str
    path: str
    begun_at: float = field(default_factory=time.monotonic)
    status: int | Fault | None = None
    first_byte_at: float | None = None
    first_output_at: float | None = None
    ended_at: float | None = None

    def note_answer(self, status: int) -> None:
        """The head of an answer is there."""
        self.status, self.first_byte_at = status, time.monotonic()

    def note_output(self) -> None:
        """The first of what the model said is there."""
        self.first_output_at = time.monotonic()

    def end(self, fault: Fault | None = None) -> None:
        """It is over, well or with a fault; what comes later changes nothing."""
        if self.ended_at is None:
            self.ended_at = time.monotonic()
            self.status = fault or self.status


def fault_of(error: ApiError) -> Fault | None:
    """Return how a request failed, None where a status of the server's tells it."""
    if isinstance(error, UpstreamRefusal):
        return None
    if isinstance(error, GatewayTimeout):
        return Fault.TIMEOUT
    if isinstance(error, UpstreamCut):
        return Fault.CUT
    return Fault.CONNECT if error.code == "upstream_unreachable" else Fault.MALFORMED


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
