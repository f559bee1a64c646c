"""What a caller is told while the store can't serve: why, and whether anything may have been changed."""

from __future__ import annotations

import pytest

from proxy.protocol.store_errors import from_store_error
from storage import Reason, Unavailable

TOLD = {
    Reason.AWAY: (503, "store_unavailable"),
    Reason.LOADING: (503, "store_loading"),
    Reason.REPLICAS: (503, "store_too_few_replicas"),
    Reason.READ_ONLY: (503, "store_read_only"),
    Reason.FULL: (507, "insufficient_storage"),
    Reason.NO_PERMISSION: (503, "store_permission_denied"),
    Reason.BUSY: (503, "store_busy"),
    Reason.LAYOUT: (503, "store_layout_unsupported"),
    Reason.UNKNOWN: (503, "store_unavailable"),
}


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_has_its_code_and_its_word(reason: Reason):
    error = from_store_error(Unavailable("CODE", reason))
    assert (error.status, error.code) == TOLD[reason]
    assert error.message.startswith(f"The store {reason.value}. Nothing was changed")
    assert ("Retry-After" in error.headers) == (error.status == 503)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_what_may_have_been_done_is_never_said_not_to_be(reason: Reason):
    error = from_store_error(Unavailable("CODE", reason, unsure=True))
    assert (error.status, error.code) == TOLD[reason]
    assert "Nothing was changed" not in error.message
    assert "Whether this was carried out is not known" in error.message
