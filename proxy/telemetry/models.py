"""Known models: which names of models may stand in metrics. Clients may send any, and each would stay for ever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Names that are told, at most.
MOST_MODELS = 100
#: Longest name that is told.
MAX_NAME_LENGTH = 128
#: What stands for all others.
OTHER = "other"


class KnownModels:
    """The names that the configuration or a model list vouches for, the first hundred of them."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        #: Those that are told.
        self.names: set[str] = set()
        self.vouch(names)

    def vouch(self, names: Iterable[str]) -> None:
        """Take names as those of real models; patterns are none."""
        for name in names:
            if len(self.names) >= MOST_MODELS:
                return
            if name and "*" not in name and len(name) <= MAX_NAME_LENGTH:
                self.names.add(name)

    def vouch_list(self, listed: object) -> None:
        """Take the names of a parsed `GET /v1/models`, if it is one."""
        models = listed.get("data") if isinstance(listed, Mapping) else None
        self.vouch(_names_in(models) if isinstance(models, list) else ())

    def label(self, model: str) -> str:
        """Return what a model is called in metrics."""
        return model if model in self.names else OTHER


def _names_in(models: list[Any]) -> Iterable[str]:
    for model in models:
        name = model.get("id") if isinstance(model, Mapping) else None
        if isinstance(name, str):
            yield name
