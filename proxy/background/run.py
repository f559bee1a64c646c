"""Background run: one response that a worker has taken from the queue, and what becomes of it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.http.queue import QueuePlace
    from proxy.protocol.errors import ApiError
    from proxy.telemetry.records import TurnRecord
    from proxy.turns.turn import Turn
    from storage import HistoryLimit, Job, JobEntry


class Run:
    """One entry of the queue in this worker's hands. job: once it was claimed. is_elsewhere: another process has it.

    place: its turn among those that are large, where such wait. refusal: why it is not run although it was claimed.
    most_history: see TurnOptions.
    """

    def __init__(self, entry: JobEntry) -> None:
        self.entry = entry
        self.job: Job | None = None
        self.is_elsewhere = False
        self.place: QueuePlace | None = None
        self.refusal: ApiError | None = None
        self.most_history: HistoryLimit | None = None
        self.abandoned = False
        self.record: TurnRecord | None = None
        self._turn: Turn | None = None

    async def carry_out(self, turn: Turn) -> None:
        """Run the turn to its end, or until it is abandoned. Raises what the turn raises."""
        self._turn = turn
        if self.abandoned:
            turn.abandon()
        await turn.run()

    def watch(self, now: float) -> None:
        """End the turn with what it has if it has taken too long. now: monotonic seconds."""
        if self._turn is not None:
            self._turn.watch(now)

    def give_up(self, outcome: str) -> None:
        """Note how it ends here, whatever the turn makes of it."""
        if self.record is not None:
            self.record.outcome = outcome

    def abandon(self) -> None:
        """End it and keep nothing: somebody else has decided how it ends, or will run it again."""
        self.abandoned = True
        if self._turn is not None:
            self._turn.abandon()
