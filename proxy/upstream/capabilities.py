"""Upstream capabilities: what a model server, or a model of it, turned out not to have or take, remembered. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from proxy.context.reader import NO_OBJECTIONS, Objections
from proxy.protocol.errors import UpstreamRefusal

#: Seconds after which the upstream is asked again.
MEMORY_SECONDS = 300.0
#: Paths and models that are remembered at most.
MAX_ABSENCES = 1024

#: Seconds after which a model is asked again with what it objected to.
OBJECTION_SECONDS = 3600.0
#: Models whose objections are remembered, and items that one of them may object to.
MAX_OBJECTING_MODELS = 1024
MAX_OBJECTIONABLE_ITEMS = 10_000

_STATUSES = frozenset({404, 405, 501})
#: How servers say it with a 400.
_UNKNOWN_ROUTE = re.compile(
    r"\b(unknown|invalid|unsupported|unrecognized|no such)\b[^.]{0,40}\b(url|route|path|endpoint|operation)\b"
    r"|\b(url|route|path|endpoint|operation)\b[^.]{0,40}\b(unknown|not found|not supported|does not exist)\b",
    re.IGNORECASE,
)


class Capabilities:
    """What a server lacks, for a model: a gateway leads to several servers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[tuple[str, str, str], float] = {}
        self._objections: dict[tuple[str, str], tuple[Objections, float]] = {}

    def note_absent(self, path: str, upstream: str, model: str) -> None:
        """Remember for a while that a server has no `path` for a model."""
        if len(self._until) >= MAX_ABSENCES:
            del self._until[next(iter(self._until))]
        self._until[path, upstream, model] = self._clock() + MEMORY_SECONDS

    def is_absent(self, path: str, upstream: str, model: str) -> bool:
        """Whether `path` is known to be missing."""
        return self._until.get((path, upstream, model), 0.0) > self._clock()

    def note_objections(self, upstream: str, model: str, objections: Objections) -> None:
        """Remember for a while what a model of a server objects to, with what it objected to before."""
        known = self.objections(upstream, model)
        joined = known | objections
        if max(len(joined.seals), len(joined.items)) > MAX_OBJECTIONABLE_ITEMS:
            joined = objections
        until = self._objections[upstream, model][1] if known else self._clock() + OBJECTION_SECONDS
        if len(self._objections) >= MAX_OBJECTING_MODELS and (upstream, model) not in self._objections:
            del self._objections[next(iter(self._objections))]
        self._objections[upstream, model] = joined, until

    def objections(self, upstream: str, model: str) -> Objections:
        """Return what a model of a server is known to object to."""
        objections, until = self._objections.get((upstream, model), (NO_OBJECTIONS, 0.0))
        if until > self._clock():
            return objections
        self._objections.pop((upstream, model), None)
        return NO_OBJECTIONS


def means_absence(refusal: UpstreamRefusal) -> bool:
    """Whether an upstream's refusal says that it does not have the endpoint; not: a model, or an item."""
    error = refusal.to_dict()
    if refusal.status == 400:
        return bool(_UNKNOWN_ROUTE.search(refusal.message))
    about = f"{error.get('code')} {error.get('param')} {refusal.message}".lower()
    return refusal.status in _STATUSES and not (refusal.status == 404 and "model" in about)
