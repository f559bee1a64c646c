"""Settings of model servers: the only one, or several, each chosen by the models that it serves."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.config.section import Count, ModelName, NotEmpty, Positive, Secret, Section

#: The table whose sections have names of the operator's own.
UPSTREAMS_TABLE = "upstreams"
#: The URL that stands for the built-in model.
ECHO = "echo"


class UpstreamConfig(Section, frozen=True):
    """The model server that requests go on to, or what several have in common (`[upstreams.NAME]`)."""

    #: Base URL with its `/v1`; `echo` is a built-in model that needs no key.
    url: str = "https://api.openai.com/v1"
    #: Sent as the bearer token; under `passthrough` it replaces the caller's own.
    api_key: Secret = Secret("")
    #: Seconds to wait for a connection.
    connect_timeout_seconds: Positive = 10.0
    #: Seconds of silence from the upstream after which a turn fails.
    read_timeout_seconds: Positive = 600.0
    #: Requests that may be on their way at once, each over a connection of its own; 0 means no limit.
    max_connections: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Largest answer of one turn that is held in memory, in bytes.
    max_response_bytes: Count = 256 * 1024 * 1024
    #: Largest single event of a stream, in bytes.
    max_event_bytes: Count = 64 * 1024 * 1024


class NamedUpstreamConfig(Section, frozen=True):
    """One of several model servers, each under a name of its own: the model that a request names decides which.

    With any of them `upstream.url` and `upstream.api_key` are not used. None stands for the value in `[upstream]`.
    """

    #: Base URL with its `/v1`; `echo` is the built-in model.
    url: str = ""
    #: Models that it serves, by the names that clients use; `gpt-4*` means all whose name begins so, `*` all others,
    #: and requests that name none. An exact name goes before a beginning, a longer beginning before a shorter one. Of
    #: several servers with the same entry the first is asked, the next ones if it fails.
    models: tuple[ModelName, ...] = ()
    #: Clients' name of a model → the server's own. Answers have the clients'.
    rename: dict[NotEmpty, NotEmpty] = msgspec.field(default_factory=dict)
    #: Sent as the bearer token.
    api_key: Secret = Secret("")
    #: Send the caller's own credential, which no server gets otherwise; only without `api_key` and under `passthrough`.
    caller_key: bool = False
    #: Who runs it, as OpenTelemetry names providers; empty: told by the host, else the server's name. One of `openai`
    #: compacts by itself.
    provider: Annotated[str, msgspec.Meta(max_length=64, description="text of at most 64 characters")] = ""
    #: As `upstream.connect_timeout_seconds`, for this server.
    connect_timeout_seconds: Positive | None = None
    #: As `upstream.read_timeout_seconds`.
    read_timeout_seconds: Positive | None = None
    #: As `upstream.max_connections`.
    max_connections: Annotated[int, msgspec.Meta(ge=0)] | None = None
    #: As `upstream.max_response_bytes`.
    max_response_bytes: Count | None = None
    #: As `upstream.max_event_bytes`.
    max_event_bytes: Count | None = None


def is_meant_by(pattern: str, model: str) -> bool:
    """Tell whether a model's name is what an entry of `models` means."""
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern
