"""Reader: the model that is asked, and what it was found to refuse. Pure.

What a model takes is known in part from the table of item types; the rest it says itself, in a refusal. Each thing
that it has refused is an objection: it is asked again without that, and so it is from then on for a while.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields

from proxy.protocol.notes import Maker

#: Nothing at all.
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Objections:
    """What a model does not take.

    settings: fields of a request that were added here. types: whole types of items. fields: of items, each as
    `type.field` with dots between those inside one another, `web_search_call.action.sources`. seals: ids of items whose
    sealed content it can't read. items: ids of items that it takes in no form.
    """

    settings: frozenset[str] = _NOTHING
    types: frozenset[str] = _NOTHING
    fields: frozenset[str] = _NOTHING
    seals: frozenset[str] = _NOTHING
    items: frozenset[str] = _NOTHING

    def __or__(self, other: Objections) -> Objections:
        if self is NO_OBJECTIONS or other is NO_OBJECTIONS:
            # every turn asks, hardly any model objects
            return other if self is NO_OBJECTIONS else self
        return Objections(*(getattr(self, one.name) | getattr(other, one.name) for one in fields(self)))

    def __bool__(self) -> bool:
        return self is not NO_OBJECTIONS and self != NO_OBJECTIONS

    @property
    def of_items(self) -> bool:
        """Whether any is about items."""
        return bool(self.types or self.fields or self.seals or self.items)

    def fields_of(self, kind: str) -> list[str]:
        """Return the fields of items of a type that are not taken, each as its path in the item, in order."""
        start = f"{kind}."
        return sorted(path.removeprefix(start) for path in self.fields if path.startswith(start))


NO_OBJECTIONS = Objections()


@dataclass(slots=True)
class Reader:
    """A model of a model server; nobody changes it.

    upstream: the server, as makers of items have it. model: as the request names it. exempt: tools whose calls need no
    output. pairs: it is sent no call without its output, and no output without its call. name: the server's among
    several, '' where there is one only. takes_rest: what is sealed, and nobody knows by whom, is taken for its own.
    alias: what the server calls the model, '' if that is its name.
    """

    upstream: str
    model: str
    objections: Objections = NO_OBJECTIONS
    exempt: AbstractSet[str] = _NOTHING
    pairs: bool = True
    name: str = ""
    takes_rest: bool = True
    alias: str = ""

    def made(self, maker: Maker | None, sealer: str | None = None) -> bool:
        """Whether this model made what has that maker, or may have: nobody knows of what has none.

        sealer: of several servers the one that sealed what is in it, see `seals.sealed_by`.
        """
        if maker is not None and self.model not in (maker.asked, maker.model):
            return False
        if self.name and sealer:
            return sealer == self.name
        if maker is not None:
            return maker.upstream == self.upstream
        return self.takes_rest or sealer is None
