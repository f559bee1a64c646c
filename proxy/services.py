"""Services: what turns work with, made once an application."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp.web import AppKey

from proxy.telemetry.telemetry import Telemetry
from proxy.upstream.capabilities import Capabilities
from proxy.upstream.model_call import ModelCall

if TYPE_CHECKING:
    from proxy.auth.caller import Caller
    from proxy.config.settings import Config
    from proxy.context.budget import TokenBudget
    from proxy.runtime.leases import Leases
    from proxy.sealing import Sealer
    from proxy.upstream.choice import Upstreams
    from proxy.upstream.model_call import Inbound
    from storage import Store


@dataclass(frozen=True, slots=True)
class Services:
    """What turns work with. capabilities: what upstreams turned out to lack."""

    store: Store
    upstreams: Upstreams
    config: Config
    leases: Leases
    sealer: Sealer
    budget: TokenBudget
    telemetry: Telemetry = field(default_factory=Telemetry)
    capabilities: Capabilities = field(default_factory=Capabilities)

    def model_call(self, caller: Caller, inbound: Inbound) -> ModelCall:
        """Return what asks model servers on behalf of one request. inbound: what goes along of it."""
        pairs = self.config.turns.check_tool_calls
        return ModelCall(self.upstreams, self.capabilities, self.budget, caller, inbound, pairs=pairs)


#: What a turn works with.
SERVICES: AppKey[Services] = AppKey("services")
