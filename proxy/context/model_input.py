"""Model input: which items go to a model, and in which form. With `context.item_form` the one place that decides. Pure.

Items are stored as they came; what a model takes back is less:

    what only answers have                                    not sent
    a call without its output, an output without its call     stay stored, and are not sent
    a call whose arguments are no JSON                        neither it nor its output
    reasoning without the item that followed it               not sent
    reasoning, or a program, of another model                 the readable summary of reasoning, or nothing
    reasoning without seal, content and summary               not sent: it is only an id
    a seal                                                    to its maker only, without the mark of its server and
                                                              without the item's id: it is bound to the id that its
                                                              maker gave, which nobody here knows
    what the model was found to refuse (`Objections`)         not sent
    text in a message under the type of another role's        under that of its own

It is the same for an item whenever it is sent to the same model, so that the bytes of a history stay the same from turn
to turn. A history of messages, calls, outputs and the model's own reasoning that needs none of this goes unparsed
(`context.plain`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

from proxy.context.item_form import (
    INCOMPLETE,
    OutgoingItem,
    field_value,
    form_of,
    misfits,
    read_outgoing,
    without_fields,
)
from proxy.context.plain import HEAD_BYTES, join_plain, plain_form
from proxy.context.reader import Reader
from proxy.protocol.item_types import ITEM_TYPES
from proxy.protocol.items import item_id_of
from proxy.protocol.notes import read_note
from proxy.protocol.seals import sealed_by
from storage import HistoryItems

_MESSAGE, _ASSISTANT = b'"type":"message","role":"', b'"role":"assistant"'
_THOUGHT = b'"type":"reasoning"'

#: Items that are looked into, by their place among all that were given. Messages hardly ever are.
OutgoingItems = dict[int, OutgoingItem]


@dataclass(slots=True)
class ModelInput:
    """What a model is sent; nobody changes it.

    pieces: the items, joined with commas and cut anywhere. places: where each was among those that were given. kept:
    those that are sent; of a plain history as they are stored.
    """

    kept: Sequence[bytes]
    places: Sequence[int]
    pieces: Sequence[bytes]
    is_plain: bool = False

    @property
    def items(self) -> Sequence[bytes]:
        """Each item as it is sent."""
        length = sum(map(len, self.kept)) + max(len(self.kept) - 1, 0)
        is_as_kept = not self.is_plain or sum(map(len, self.pieces)) == length
        return self.kept if is_as_kept else list(map(plain_form, self.kept))


class Given(NamedTuple):
    """Items as the store has them. notes, severed: see `storage.OpenedTurn`. start: where a request's own begin.

    history: what is before that, if it was read from the store as it is.
    """

    items: Sequence[bytes]
    notes: Mapping[str, str]
    severed: AbstractSet[str]
    start: int
    history: HistoryItems | None = None


def model_input(given: Given, reader: Reader) -> ModelInput:
    """Return what a model is sent of items."""
    items, objections = given.items, reader.objections
    if (
        not objections.of_items
        and _may_be_plain(given, reader)
        and (joined := join_plain(items, given.history)) is not None
    ):
        return ModelInput(items, range(len(items)), joined, is_plain=True)
    heads = [item[:HEAD_BYTES] for item in items]
    looked_into = range(len(items)) if objections.fields_of("message") else _unusual(items, heads)
    pieces = {place: read_outgoing(items[place], given.notes) for place in looked_into}
    for piece in pieces.values():
        piece.sent = form_of(piece, reader)
    _leave_out_unpaired(pieces, reader, given.start)
    _leave_out_programs(pieces.values())
    _leave_out_thoughts(pieces, heads, given)
    sent = [pieces[place].sent if place in pieces else item for place, item in enumerate(items)]
    kept = [item for item in sent if item is not None]
    return ModelInput(kept, [place for place, item in enumerate(sent) if item is not None], (b",".join(kept),))


def _may_be_plain(given: Given, reader: Reader) -> bool:
    """Whether nothing but the items' bytes tells their form: what has a maker is the reader's, no gap matters."""
    for note in map(read_note, set(given.notes.values()) if given.notes else ()):
        if note.broken or not reader.made(note.maker):
            return False
    if reader.name and not all(_is_sealed_for(reader, item, given) for item in given.items):
        return False
    return not (given.severed and any(_THOUGHT in item[:HEAD_BYTES] for item in given.items))


def _is_sealed_for(reader: Reader, item: bytes, given: Given) -> bool:
    """Whether an item is no reasoning, or reasoning that one of several servers has thought."""
    if _THOUGHT not in item[:HEAD_BYTES]:
        return True
    return reader.made(read_note(given.notes.get(item_id_of(item), "")).maker, sealed_by(item))


def reads_compaction(item: bytes, notes: Mapping[str, str], reader: Reader) -> bool:
    """Whether a model can read a compaction that some model server made."""
    return form_of(read_outgoing(item, notes), reader) is not None


def _unusual(items: Sequence[bytes], heads: Sequence[bytes]) -> Sequence[int]:
    """Return the places of the items that have to be looked into: all but messages, and messages that misfit."""
    are_messages = [_MESSAGE in head for head in heads]
    roles = [_ASSISTANT in head for head in compress(heads, are_messages)]
    found = misfits(list(compress(items, are_messages)), roles)
    if any(found):
        places = compress(compress(range(len(items)), are_messages), found)
        return sorted([*places, *(place for place, is_message in enumerate(are_messages) if not is_message)])
    return [place for place, is_message in enumerate(are_messages) if not is_message]


def _leave_out_unpaired(pieces: OutgoingItems, reader: Reader, start: int) -> None:
    """Leave out calls that no output follows, then outputs whose call is not there.

    A whole call that the request brings itself, and does not answer, is for the client to know of.
    """
    answered: set[str] = set()
    for place, piece in reversed(pieces.items()):
        if piece.sent is None:
            continue
        if piece.row.is_output:
            answered.add(piece.answers)
        elif piece.opens and piece.opens not in answered and _needs_output(piece, reader, is_own=place >= start):
            piece.sent = None
    asked: set[str] = set()
    gone = {piece.opens for piece in pieces.values() if piece.opens and piece.sent is None}
    for piece in pieces.values():
        if piece.type == "compaction" and piece.sent is not None:
            # what it stands for may hold the call
            return
        if not piece.row.is_output:
            asked.update([piece.opens] if piece.sent is not None else [])
        elif piece.answers not in asked and (piece.answers in gone or (reader.pairs and _needs_call(piece))):
            piece.sent = None


def _needs_output(piece: OutgoingItem, reader: Reader, *, is_own: bool) -> bool:
    if not piece.row.is_call or piece.type not in ITEM_TYPES:
        return False
    if INCOMPLETE in piece.item:
        return True
    is_exempt = piece.row.is_paired and reader.exempt and field_value(piece.item, "name") in reader.exempt
    return reader.pairs and not is_own and not is_exempt


def _needs_call(piece: OutgoingItem) -> bool:
    # what outputs of unknown types belong to is not known
    return piece.type in ITEM_TYPES and (bool(piece.answers) or piece.row.is_paired)


def _leave_out_programs(pieces: Iterable[OutgoingItem]) -> None:
    """Let calls that a program made be the model's own where the program is not sent."""
    gone = {piece.opens for piece in pieces if piece.type == "program" and piece.sent is None}
    for piece in pieces if gone else ():
        if piece.sent is not None and b'"caller_id":"' in piece.sent:
            caller = field_value(piece.sent, "caller")
            if isinstance(caller, dict) and caller.get("caller_id") in gone:
                piece.sent = without_fields(piece.sent, ("caller",))


def _leave_out_thoughts(pieces: OutgoingItems, heads: Sequence[bytes], given: Given) -> None:
    """Leave out reasoning that is not followed by what it led to; a request's own may be at its end."""
    for place, piece in reversed(pieces.items()):
        if piece.type == "reasoning":
            at_end = place + 1 == len(heads)
            leads = len(heads) > given.start if at_end else _is_led_to(place + 1, pieces, heads)
            piece.is_led_on = leads and piece.id not in given.severed
            piece.sent = piece.sent if piece.is_led_on else None


def _is_led_to(place: int, pieces: OutgoingItems, heads: Sequence[bytes]) -> bool:
    """Whether reasoning may have led to what stands at a place: a model made it, and it is sent."""
    piece = pieces.get(place)
    if piece is None or piece.type == "message":
        return _ASSISTANT in heads[place]
    if piece.type == "reasoning":
        # another model's is not sent, and may stand between
        return piece.is_led_on
    return piece.sent is not None and piece.is_made
