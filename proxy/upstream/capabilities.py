"""What the upstream turned out not to have, remembered for a while: not every model server has every endpoint. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from proxy.protocol.errors import UpstreamRefusal

#: Seconds after which the upstream is asked again.
MEMORY_SECONDS = 300.0
#: Paths and models that are remembered at most.
MAX_ABSENCES = 1024

_STATUSES = frozenset({404, 405, 501})
#: How servers say it with a 400.
_UNKNOWN_ROUTE = re.compile(
    r"\b(unknown|invalid|unsupported|unrecognized|no such)\b[^.]{0,40}\b(url|route|path|endpoint|operation)\b"
    r"|\b(url|route|path|endpoint|operation)\b[^.]{0,40}\b(unknown|not found|not supported|does not exist)\b",
    re.IGNORECASE,
)


class Absences:
    """Endpoints that the upstream lacks, for a model: a gateway leads to several servers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[tuple[str, str], float] = {}

    def note(self, path: str, model: str) -> None:
        """Remember that there is no `path` for a model."""
        if len(self._until) >= MAX_ABSENCES:
            del self._until[next(iter(self._until))]
        self._until[path, model] = self._clock() + MEMORY_SECONDS

    def has(self, path: str, model: str) -> bool:
        """Whether `path` is known to be missing."""
        return self._until.get((path, model), 0.0) > self._clock()


def means_absence(refusal: UpstreamRefusal) -> bool:
    """Whether an upstream's refusal says that it does not have the endpoint; not: a model, or an item."""
    error = refusal.to_dict()
    if refusal.status == 400:
        return bool(_UNKNOWN_ROUTE.search(refusal.message))
    about = f"{error.get('code')} {error.get('param')} {refusal.message}".lower()
    return refusal.status in _STATUSES and not (refusal.status == 404 and "model" in about)
