"""Upstream capabilities: what a model server, or a model of it, turned out not to have, remembered. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from proxy.protocol.errors import UpstreamRefusal

#: Seconds after which the upstream is asked again.
MEMORY_SECONDS = 300.0
#: Paths and models that are remembered at most, and models without encrypted reasoning.
MAX_ABSENCES = 1024
MAX_UNSEALED_MODELS = 1024

_STATUSES = frozenset({404, 405, 501})
#: How servers say it with a 400.
_UNKNOWN_ROUTE = re.compile(
    r"\b(unknown|invalid|unsupported|unrecognized|no such)\b[^.]{0,40}\b(url|route|path|endpoint|operation)\b"
    r"|\b(url|route|path|endpoint|operation)\b[^.]{0,40}\b(unknown|not found|not supported|does not exist)\b",
    re.IGNORECASE,
)


class Capabilities:
    """What the upstream lacks, for a model: a gateway leads to several servers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[tuple[str, str], float] = {}
        self._unsealed: set[str] = set()

    def note_absent(self, path: str, model: str) -> None:
        """Remember for a while that there is no `path` for a model."""
        if len(self._until) >= MAX_ABSENCES:
            del self._until[next(iter(self._until))]
        self._until[path, model] = self._clock() + MEMORY_SECONDS

    def is_absent(self, path: str, model: str) -> bool:
        """Whether `path` is known to be missing."""
        return self._until.get((path, model), 0.0) > self._clock()

    def note_unsealed(self, model: str) -> None:
        """Remember that a model refuses to give encrypted reasoning."""
        if len(self._unsealed) < MAX_UNSEALED_MODELS:
            self._unsealed.add(model)

    def is_unsealed(self, model: str) -> bool:
        """Whether a model is known to refuse `include: reasoning.encrypted_content`."""
        return model in self._unsealed


def means_absence(refusal: UpstreamRefusal) -> bool:
    """Whether an upstream's refusal says that it does not have the endpoint; not: a model, or an item."""
    error = refusal.to_dict()
    if refusal.status == 400:
        return bool(_UNKNOWN_ROUTE.search(refusal.message))
    about = f"{error.get('code')} {error.get('param')} {refusal.message}".lower()
    return refusal.status in _STATUSES and not (refusal.status == 404 and "model" in about)
