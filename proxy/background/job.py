"""Background job: what it takes to run a response later and elsewhere, sealed because callers' keys are among it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson
from multidict import CIMultiDict

from proxy.auth.caller import is_credential
from proxy.protocol import integers
from proxy.protocol.request import TurnRequest, read_request
from proxy.recognition.keys import RequestMarks
from proxy.upstream.headers import request_headers
from proxy.upstream.model_call import Inbound

if TYPE_CHECKING:
    from proxy.auth.caller import Caller
    from proxy.sealing import Sealer

_PURPOSE = "background response"


@dataclass(frozen=True, slots=True)
class BackgroundJob:
    """A caller's request. body: as it came; created_at: Unix seconds, as the caller was told.

    marks: what its request said of its conversation; None if the response is recorded by itself.
    """

    body: Mapping[str, Any]
    inbound: Inbound = field(repr=False)
    credentials: Mapping[str, str] = field(repr=False)
    created_at: int
    marks: RequestMarks | None = None

    @classmethod
    def of(
        cls, caller: Caller, request: TurnRequest, inbound: Inbound, created_at: int, marks: RequestMarks | None = None
    ) -> BackgroundJob:
        """Return what a request needs: of its headers those that the upstream gets."""
        headers = request_headers(inbound.headers, {})
        return cls(request.body, Inbound(headers, inbound.query), caller.credentials, created_at, marks)

    def read(self) -> TurnRequest:
        """Return the request, checked as when it came. Raises BadRequest."""
        return read_request(self.body)

    def seal(self, sealer: Sealer, owner: str, response_id: str) -> str:
        """Return it as text that only this owner's response of this id opens. Raises OSError, see sealing."""
        keys = CIMultiDict(self.credentials)
        authorization = keys.pop("Authorization", None)
        content = {
            "body": self.body,
            "headers": [*self.inbound.headers.items(), *keys.items()],
            "query": self.inbound.query,
            "authorization": authorization,
            "created_at": self.created_at,
            "marks": asdict(self.marks) if self.marks is not None else None,
        }
        return sealer.seal(f"{_PURPOSE} {response_id}", owner, orjson.dumps(content))

    @classmethod
    def open(cls, sealer: Sealer, owner: str, response_id: str, text: str) -> BackgroundJob:
        """Return what was sealed. Raises Unsealable, OSError."""
        content = integers.loads_exact(sealer.open(f"{_PURPOSE} {response_id}", owner, text))
        headers = CIMultiDict((name, value) for name, value in content["headers"])
        keys = {name: value for name, value in headers.items() if is_credential(name)}
        if content["authorization"] is not None:
            keys["Authorization"] = content["authorization"]
        inbound = Inbound(request_headers(headers, {}), content["query"])
        marks = _marks_of(content.get("marks"))
        return cls(content["body"], inbound, keys, content["created_at"], marks)


def _marks_of(content: dict[str, Any] | None) -> RequestMarks | None:
    if content is None:
        return None
    return RequestMarks(**{**content, "other_keys": tuple(content["other_keys"])})


def settled(request: TurnRequest) -> TurnRequest:
    """Return a request that means the same whenever it is read: with the name of the branch that it makes."""
    fork, conversation = request.source.fork, request.body.get("conversation")
    if fork is None or not isinstance(conversation, Mapping):
        return request
    return replace(request, body={**request.body, "conversation": {**conversation, "branch": fork.name}})
