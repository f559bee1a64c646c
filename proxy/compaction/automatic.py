"""Automatic compaction: those that a turn's history has are opened for the model, and a new one is made where due.

    context_management   a window over `compact_threshold`: all but what the turn asks is summarised, the turn goes on
                         with the summary, and its output begins with the compaction item
    compaction_trigger   the last item of the input: everything is summarised, the item is the whole output

That is so where `compaction.upstream` says that the model server does not do it itself; else both go to the server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from proxy.compaction.opener import PURPOSE, TRIGGER, Opener
from proxy.compaction.summary import Summariser, Summary
from proxy.context.compacted import Compacted, divide, is_summary, kind_of, mentions, pack, window
from proxy.context.input import TurnInput
from proxy.context.model_input import reads_compaction
from proxy.protocol.errors import ApiError, BadRequest, invalid_type, json_type
from storage import OpenedTurn

if TYPE_CHECKING:
    from proxy.context.model_request import View
    from proxy.context.reader import Reader
    from proxy.delivery import TurnOutput
    from proxy.protocol.request import TurnRequest
    from proxy.relay import Outcome, Relay
    from proxy.services import Services
    from proxy.upstream.model_call import ModelCall

#: Least `compact_threshold`, in tokens; OpenAI's.
MIN_THRESHOLD = 1000

#: What is shown before there is anything.
_NOTHING: View = OpenedTurn(), TurnInput([], [])

logger = logging.getLogger(__name__)


class Compaction:
    """The compactions of one turn. Raises BadRequest for a request that asks for one wrongly."""

    def __init__(self, services: Services, call: ModelCall, request: TurnRequest) -> None:
        self._services = services
        self._owner = call.caller.owner
        self._call = call
        self._asked = request
        #: The request as the upstream gets it.
        self.request = request
        #: Whether what the request asks for is done here.
        self._own = self._triggered = False
        self._threshold: int | None = None
        if _asks(request):
            mode = services.config.compaction.upstream
            self._own = mode == "own" or (mode == "auto" and not call.is_native(request.model))
        if self._own:
            self._triggered = _read_trigger(request)
            self._threshold = _read_threshold(request.body)
            self.request = _without_management(request)
        #: Whether anything may be told before the model server answers.
        self.may_act = self._triggered or self._threshold is not None
        self._view = _NOTHING
        self._has_compactions = False

    def view(self, reader: Reader) -> View:
        """Return what the upstream is asked with: the turn's history and input, without what is compacted.

        reader: who is asked; what others compacted it may not be able to read.
        """
        opened, turn_input = self._view
        if not self._has_compactions:
            return self._view
        kept = [i for i, item in enumerate(turn_input.items) if not self._own or kind_of(item).type != TRIGGER]
        items = [*opened.items, *(turn_input.items[i] for i in kept)]
        opener = Opener(self._services, self._owner, self.request)
        shown = window(items, opener.open, lambda item: reads_compaction(item, opened.notes, reader))
        start = len(opened.items)
        history = [item for place, item in shown if place < start]
        own = [(item, turn_input.paths[kept[place - start]]) for place, item in shown if place >= start]
        brought = replace(turn_input, items=[item for item, _ in own], paths=[path for _, path in own])
        return replace(opened, items=history), brought

    def open(self, opened: OpenedTurn, turn_input: TurnInput) -> None:
        """Take a turn's history and input. Raises BadRequest for a compaction of ours that can't be read."""
        self._view = opened, turn_input
        self._has_compactions = self._triggered or mentions(opened.items) or mentions(turn_input.items)
        if self._has_compactions:
            self.view(self._reader)

    @property
    def _reader(self) -> Reader:
        return self._call.reader(self.request)

    async def run(self, relay: Relay, output: TurnOutput) -> Outcome | None:
        """Compact if it is due; return how the turn ends if nothing else was asked for.

        Raises ApiError; a compaction that was not asked for just now is left out rather than fail the turn.
        """
        if not self.may_act or (not self._triggered and not await self._is_over()):
            return None
        opened, turn_input = self.view(self._reader)
        items = [*opened.items, *turn_input.items]
        at = len(items) if self._triggered else divide(items)
        if not any(not kind_of(item).is_standing and not is_summary(item) for item in items[:at]):
            if self._triggered:
                raise BadRequest("There is nothing to compact.", param="input")
            return None
        try:
            summary = await self._summarise(relay, output, replace(opened, items=items[:at]), turn_input.own_paths)
        except ApiError as failure:
            if self._triggered or output.started:
                raise
            logger.warning("a compaction failed, the turn goes on without it: %s", failure.message)
            return None
        standing = [msgspec.Raw(item) for item in items[:at] if kind_of(item).is_standing]
        rest = [] if self._triggered else [msgspec.Raw(item) for item in items[at:]]
        content = Compacted(summary.text, whole=True, before=standing, after=rest)
        sealed = self._services.sealer.seal(PURPOSE, self._owner, pack(content))
        frames = relay.compacted(sealed, summary.usage)
        if self.request.stream:
            await output.send(frames)
        self._show(content.items(), len(rest), turn_input.paths)
        if not self._triggered:
            return None
        return relay.complete({"object": "response", "output": [], "model": summary.model})

    async def _summarise(
        self, relay: Relay, output: TurnOutput, opened: OpenedTurn, own_paths: Mapping[str, str]
    ) -> Summary:
        told = False

        async def begun(headers: Mapping[str, str]) -> None:
            nonlocal told
            output.begin(headers)
            if self.request.stream and not told:
                told = True
                await output.send(relay.compacting())

        summariser = Summariser(self._services, self._call, self._asked)
        summary = await summariser.write(opened, own_paths, begun)
        if not told:
            relay.compacting()
        return summary

    async def _is_over(self) -> bool:
        if self._threshold is None:
            return False
        return await self._services.budget.count(self.request.body, *self.view(self._reader)) >= self._threshold

    def _show(self, items: Sequence[bytes], own: int, paths: Sequence[str]) -> None:
        """Let the view be these items, `own` of which, at their end, are what the turn asks. paths: of its input."""
        opened, turn_input = self._view
        start = len(items) - own
        known = [*[""] * own, *paths][-own:] if own else []
        self._has_compactions = False
        self._view = replace(opened, items=items[:start]), replace(turn_input, items=items[start:], paths=known)


def _asks(request: TurnRequest) -> bool:
    """Whether a request says anything of compaction; hardly any does."""
    return "context_management" in request.body or TRIGGER in [item.type for item in request.items]


def _read_trigger(request: TurnRequest) -> bool:
    places = [i for i, item in enumerate(request.items) if item.type == TRIGGER]
    if places and places != [len(request.items) - 1]:
        raise BadRequest(
            "A compaction_trigger must be the last item of the input.",
            param=request.items[places[0]].path,
            code="invalid_value",
        )
    return bool(places)


def _read_threshold(body: Mapping[str, Any]) -> int | None:
    """Return the least `compact_threshold`, None if there is none. Raises BadRequest."""
    entries = body.get("context_management")
    if entries is None:
        return None
    if not isinstance(entries, list):
        raise invalid_type("context_management", "an array of objects", json_type(entries))
    thresholds: list[int] = []
    for i, entry in enumerate(entries):
        param = f"context_management[{i}]"
        if not isinstance(entry, dict):
            raise invalid_type(param, "an object", json_type(entry))
        threshold = entry.get("compact_threshold")
        if entry.get("type") != "compaction" or threshold is None:
            continue
        if type(threshold) is not int:
            raise invalid_type(f"{param}.compact_threshold", "an integer", json_type(threshold))
        if threshold < MIN_THRESHOLD:
            raise BadRequest(
                f"Invalid '{param}.compact_threshold': integer below minimum value. Expected a value >= "
                f"{MIN_THRESHOLD}, but got {threshold} instead.",
                param=f"{param}.compact_threshold",
                code="integer_below_min_value",
            )
        thresholds.append(threshold)
    return min(thresholds, default=None)


def _without_management(request: TurnRequest) -> TurnRequest:
    """Return the request without what the model server would not know."""
    entries = request.body.get("context_management")
    if not isinstance(entries, list):
        return request
    others = [entry for entry in entries if entry.get("type") != "compaction"]
    body = {name: value for name, value in request.body.items() if name != "context_management"}
    return replace(request, body=body | ({"context_management": others} if others else {}))
