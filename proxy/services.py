"""services."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.context.budget import Gauge
from proxy.upstream.capabilities import Absences
from proxy.upstream.client import Upstream
from storage import Store

if TYPE_CHECKING:
    from proxy.config.settings import Config
    from proxy.runtime.leases import Leases
    from proxy.sealing import Sealer


#: What a turn works with.
SERVICES: AppKey[Services] = AppKey("services")


@dataclass(frozen=True, slots=True)
class Services:
    """What turns work with.

    absences: endpoints that the upstream turned out to lack. unsealed_models: models that refuse to give encrypted
    reasoning, as learnt from them.
    """

    store: Store
    upstream: Upstream
    config: Config
    leases: Leases
    sealer: Sealer
    gauge: Gauge
    absences: Absences = field(default_factory=Absences)
    unsealed_models: set[str] = field(default_factory=set)
