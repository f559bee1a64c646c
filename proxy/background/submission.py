"""Background submission: a response is checked like any turn, queued, and answered at once.

The branch is locked from here on, so that no other turn comes in between; whoever runs the response inherits the lock.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import orjson

from proxy.background.job import BackgroundJob, settled
from proxy.protocol.response import Ownership, complete_response, complete_settings
from proxy.recording.turn import TurnRecording, marks_of
from proxy.turns.opening import open_turn, release
from proxy.turns.options import TurnOptions
from storage import ResponseNotFound, Submission, Unavailable

if TYPE_CHECKING:
    from proxy.auth.caller import Caller
    from proxy.protocol.request import TurnRequest
    from proxy.recording.recorder import Recorder
    from proxy.services import Services
    from proxy.turns.opening import Opening
    from proxy.upstream.model_call import Inbound
    from storage import HistoryLimit

#: What a stored body begins with, see job.lua.
_FIRST = ("id", "object", "created_at", "status", "error")


async def submit(
    services: Services,
    recorder: Recorder,
    caller: Caller,
    request: TurnRequest,
    inbound: Inbound,
    most_history: HistoryLimit | None = None,
) -> dict[str, Any]:
    """Accept a background response; return the Response object, `queued`. From then on it will come to an end.

    It lives where its history leads; whoever runs it looks that up again. most_history: see TurnOptions.

    Raises ApiError and StoreError as the turn itself would; then nothing is kept and nothing will run.
    """
    request = settled(request)
    marks = marks_of(recorder, inbound.headers, request)
    recording = TurnRecording(recorder, caller.owner, marks) if marks is not None else None
    opening = await open_turn(
        services, caller.owner, request, TurnOptions(recording=recording, most_history=most_history)
    )
    if recording is not None:
        opening = await _placed(recording, opening)
    try:
        response = _queued(request, opening)
        kept = {key: value for key, value in response.items() if key != "output"}
        job = BackgroundJob.of(caller, request, inbound, opening.created_at, marks)
        submission = Submission(
            owner=caller.owner,
            response_id=opening.response_id,
            token=opening.lease.token,
            body=orjson.dumps({**{key: kept[key] for key in _FIRST}, **kept}),
            job=job.seal(services.sealer, caller.owner, opening.response_id),
            opened=opening.opened,
            streamed=request.stream,
        )
        await _submit(services, submission)
    except BaseException:
        await release(services, opening.lease)
        raise
    # the lock is renewed on; once somebody else has inherited it, it is forgotten here
    return response


async def _placed(recording: TurnRecording, opening: Opening) -> Opening:
    recording.begin(opening.request, opening.opened)
    try:
        await recording.found(asked=False)
        partition = recording.settle(opening.lease.partition, is_fresh=opening.is_fresh)
    finally:
        recording.release()
    return opening if partition == opening.lease.partition else opening.moved_to(partition)


async def _submit(services: Services, submission: Submission) -> None:
    try:
        await services.store.jobs.submit(submission, services.config.quotas.queued_jobs)
    except Unavailable as unknown:
        # it may be there all the same, and its client will ask again
        if unknown.unsure and await services.leases.undo(lambda: _cancel(services, submission)):
            raise Unavailable(unknown.subject, unknown.reason) from unknown
        raise


async def _cancel(services: Services, submission: Submission) -> None:
    with contextlib.suppress(ResponseNotFound):
        await services.store.jobs.cancel(submission.owner, submission.response_id)


def _queued(request: TurnRequest, opening: Opening) -> dict[str, Any]:
    ownership = Ownership.of(
        request.body,
        request.source,
        response_id=opening.response_id,
        created_at=opening.created_at,
        store=request.stored,
        new_item_id=str,
        branch=opening.opened.branch,
    )
    return complete_response({}, ownership, "queued", [], None, complete_settings({}, request.body))
