"""Configuration: one tree of frozen structs, read once at start. docs/configuration.md is generated from here.

Every key has an environment variable, `BRANCHLINE_` + section + `_` + key in capitals
(`server.port` is `BRANCHLINE_SERVER_PORT`); flags win over the environment, it wins over the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from proxy.config.section import (
    Count,
    HostName,
    KeyHash,
    ModelName,
    Name,
    NotEmpty,
    NotNegative,
    Positive,
    Section,
    SourceName,
    UpstreamName,
)
from proxy.config.section import Secret as Secret
from proxy.config.sources import KEY_SOURCES, USER_SOURCES
from proxy.config.upstreams import NamedUpstreamConfig
from proxy.config.upstreams import UpstreamConfig as UpstreamConfig


class ServerConfig(Section, frozen=True):
    """Where the proxy listens, and the limits on what it takes in."""

    #: Address to listen on.
    host: NotEmpty = "127.0.0.1"
    #: Port to listen on; 0 lets the system choose.
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    #: Processes that serve on this port; `auto`: one for each processor. More than one have a supervisor above them,
    #: which replaces those that die and reads the settings anew on SIGHUP.
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] | Literal["auto"] = 1
    #: Processes beside each that serves, for requests with bodies of 256 KiB and more or of some 1,000 objects, or on
    #: large histories: they hold nobody up there. All of one caller go to the same. 0: there are none.
    bulk_workers: Annotated[int, msgspec.Meta(ge=0, le=16)] = 1
    #: Whether these are started with the server, and take 54 MB each; else the first large request waits 1 to 3 s.
    prestart_bulk_workers: bool = False
    #: Connections that one process has open at most, and not more than half of the files that it may open. Beyond that
    #: the oldest that waits for a request makes room; if none does, a new one gets a 503.
    max_connections: Count = 10_000
    #: Seconds that the head of a request may take from its first byte.
    header_timeout_seconds: Positive = 30.0
    #: Seconds that the body of a request may take; silence in the middle of it at most 60.
    body_timeout_seconds: Positive = 300.0
    #: Seconds that a connection may wait for a request.
    idle_timeout_seconds: Positive = 120.0
    #: Largest request body, in bytes, as sent and after decompression.
    max_body_bytes: Count = 64 * 1024 * 1024
    #: Largest body, or message of a WebSocket, that is read here as a whole; others are only passed on, or imported
    #: line by line.
    max_json_bytes: Count = 32 * 1024 * 1024
    #: Bytes of request bodies that one process holds at a time, until their requests are over; more wait 10 seconds for
    #: room, then get a 503.
    max_held_bytes: Count = 512 * 1024 * 1024
    #: Most values in the objects and arrays of a JSON body.
    max_json_elements: Annotated[int, msgspec.Meta(ge=1000)] = 250_000
    #: Deepest nesting of a JSON body.
    max_json_depth: Annotated[int, msgspec.Meta(ge=8, le=200)] = 128
    #: Seconds that running turns get to finish after SIGTERM.
    shutdown_timeout_seconds: NotNegative = 30.0
    #: Seconds of silence on a stream after which a comment is sent to keep middleboxes from closing it.
    keepalive_seconds: Positive = 15.0
    #: Seconds that a client may leave its stream or its answer unread before it counts as gone.
    unread_seconds: Positive = 300.0
    #: Origins that browsers may call from (`https://app.example`, or `*`); empty turns CORS off.
    cors_origins: tuple[str, ...] = ()
    #: Names under which clients reach this server (`llm.example`, `*.example` for all below it, or `*`), where no
    #: credential is asked for: then only they, `localhost` and IP addresses are answered, so that no web page reaches
    #: this server through a name of its own (DNS rebinding).
    allowed_hosts: tuple[HostName, ...] = ()


class RedisConfig(Section, frozen=True):
    """The Redis or Valkey server that holds all state."""

    #: `redis://`, `unix://`, `redis+sentinel://` or `redis+cluster://`, with TLS `rediss://`, `rediss+sentinel://` or
    #: `rediss+cluster://`; empty starts an embedded Valkey.
    url: Secret = Secret("")
    #: Put before every key.
    prefix: Name = "branchline"
    #: Seconds that one command may take.
    timeout_seconds: Positive = 5.0
    #: Replicas that must have a write before it is told as done (`WAIT`). If fewer have it within `timeout_seconds` the
    #: answer is a 503, and it is not known whether the write stays.
    min_replicas: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: They must have it in their append-only files, and the primary too (`WAITAOF`: Redis 7.2, Valkey).
    min_replicas_on_disk: bool = False
    #: Connections at most, to each node where it is a cluster: one carries all commands, and more are opened only
    #: while it is busy with megabytes of data. Background work waits for jobs on one more.
    max_connections: Count = 256


class DataConfig(Section, frozen=True):
    """The embedded Valkey's files; used only while `redis.url` is empty."""

    #: Folder of the append-only file and the socket.
    dir: NotEmpty = "./branchline-data"
    #: Bytes that stay free on its disk: with less nothing new is stored (507), below an eighth nothing is written.
    #: 0: it is not looked at.
    min_free_bytes: Annotated[int, msgspec.Meta(ge=0)] = 128 * 1024 * 1024
    #: Memory that the Valkey may take, in bytes, at least 16 MiB; near it nothing new is stored (507). 0: no limit.
    max_memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class JwtConfig(Section, frozen=True):
    """How tokens are verified under `auth.mode = "jwt"`. Exactly one of secret, key_file and jwks_url is set."""

    #: Algorithms that are accepted; all of one family.
    algorithms: tuple[str, ...] = ()
    #: Shared secret, for HS256/384/512.
    secret: Secret = Secret("")
    #: PEM file with the public key.
    key_file: str = ""
    #: URL of a JSON Web Key Set.
    jwks_url: str = ""
    #: `iss` that a token must carry; empty accepts any.
    issuer: str = ""
    #: `aud` values of which a token must carry one; empty accepts any.
    audience: tuple[str, ...] = ()
    #: Seconds of clock difference that are forgiven.
    leeway_seconds: NotNegative = 30.0
    #: Seconds that a fetched key set is used before it is fetched again.
    jwks_ttl_seconds: Positive = 300.0


class AuthConfig(Section, frozen=True):
    """Who the caller is."""

    #: `passthrough`: the caller's own upstream key; `jwt`; `api_keys`; `none`: everybody is one owner.
    mode: Literal["passthrough", "jwt", "api_keys", "none"] = "passthrough"
    #: Owner name → SHA-256 (hex) of the key, for `api_keys`.
    api_keys: dict[Name, KeyHash] = msgspec.field(default_factory=dict)
    #: Token verification, for `jwt`.
    jwt: JwtConfig = JwtConfig()
    #: Allow `mode = "none"` on an address that is not loopback.
    allow_public_none: bool = False


class TurnsConfig(Section, frozen=True):
    """How a turn behaves when something is in the way."""

    #: When the client leaves a running turn: `keep` what there is, `finish` it, or `discard` it.
    on_disconnect: Literal["keep", "finish", "discard"] = "keep"
    #: Seconds that a branch stays locked after its proxy died; renewed while a turn runs.
    lock_lease_seconds: Annotated[float, msgspec.Meta(ge=1)] = 10.0
    #: Seconds that a turn waits for a locked branch before it answers `conversation_locked`.
    lock_wait_seconds: NotNegative = 0.0
    #: Refuse a tool call without its output and an output without its call, as OpenAI does.
    check_tool_calls: bool = True
    #: Most items in the `input` of one turn.
    max_input_items: Count = 5_000
    #: Most bytes of all else that its Response repeats, as `instructions` and `tools`: these are stored in one step.
    max_settings_bytes: Count = 2 * 1024 * 1024
    #: Most items of the history that a turn continues; no more are added to a conversation either.
    max_history_items: Count = 100_000
    #: Most bytes of it.
    max_history_bytes: Count = 256 * 1024 * 1024
    #: Seconds that a turn may take; then it fails with what it has. Of a background response: each attempt.
    max_seconds: Positive = 3600.0
    #: Seconds that a finished answer waits for a store that can't be reached.
    commit_retry_seconds: NotNegative = 30.0


class QuotasConfig(Section, frozen=True):
    """What one owner may do, over all replicas; what is more gets a 429. 0 stands for any number."""

    #: Requests a minute; as many may come at once. Each costs a round trip to the store.
    requests_per_minute: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Turns at a time. Those in the background don't count: `queued_jobs`.
    turns: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Turns at a time of all owners together.
    total_turns: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Background responses that wait for a worker.
    queued_jobs: Annotated[int, msgspec.Meta(ge=0)] = 1000
    #: Conversations.
    conversations: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Bytes of items and responses. They are counted from when this is set; `branchline gc` counts what was there
    #: before. A turn asks and counts beside what it does anyway; a change has a round trip before it, and one behind.
    stored_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class ConversationsConfig(Section, frozen=True):
    """Conversations."""

    #: Append the items of turns with `store: false` to their conversation too.
    append_unstored: bool = False
    #: What deleting an item does if the request does not say: `item` removes just it, for good, from every branch;
    #: `branch` makes a new `MAIN` without it and keeps the old one as a backup.
    delete_mode: Literal["item", "branch"] = "item"
    #: Days that one is kept after its last turn or change, not fewer than `responses.retention_days`; 0: for ever.
    retention_days: NotNegative = 0.0


class ResponsesConfig(Section, frozen=True):
    """Responses."""

    #: Days that a response is kept after its last use; 0: for ever.
    retention_days: NotNegative = 30.0
    #: List each owner's latest 1,000, so that the page finds those outside of conversations, and failed ones.
    list_recent: bool = True


class CompactionConfig(Section, frozen=True):
    """Compaction: a summary takes the place of what the model was told so far."""

    #: Who compacts: `native`, the model server; `own`, Branchline, with a summary that it has a model write; `auto`,
    #: the model server if it is OpenAI's or, for `/responses/compact`, if it has that; else Branchline.
    upstream: Literal["auto", "native", "own"] = "auto"
    #: Model that writes summaries; empty means the request's own.
    model: str = ""
    #: What that model is told after the conversation; empty means a text that comes with Branchline.
    instructions: str = ""
    #: Most tokens that a summary may have, with the reasoning before it.
    max_summary_tokens: Annotated[int, msgspec.Meta(ge=16)] = 8192


class WebSocketConfig(Section, frozen=True):
    """WebSocket mode of `/v1/responses`. A message may have `server.max_json_bytes`."""

    #: Offer it; else clients are told to use HTTP (426).
    enabled: bool = True
    #: Compress messages for clients that ask for it (permessage-deflate).
    compression: bool = True
    #: Turns of one connection that run at a time; more wait.
    max_in_flight: Count = 16
    #: Named lanes (`stream_id`) of one connection.
    max_streams: Count = 32
    #: Seconds that a connection may live; running turns still finish.
    max_seconds: Positive = 3600.0
    #: Seconds without a sign of the client after which it is pinged.
    ping_seconds: Positive = 30.0
    #: Largest history of unstored responses that one connection holds in memory to be continued, in bytes.
    max_cache_bytes: Count = 16 * 1024 * 1024


class BackgroundConfig(Section, frozen=True):
    """Background responses. How long a replica may be silent before another takes over: `turns.lock_lease_seconds`."""

    #: How many of them one replica makes at a time; the others wait in Redis.
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 16
    #: How often one is begun, if the replicas that make it die, before it fails.
    max_attempts: Count = 3
    #: Seconds that one may wait for a replica before it fails.
    max_queue_seconds: Positive = 21600.0


class ModelsConfig(Section, frozen=True):
    """What is known of models, by their name; `gpt-4*` means all whose name begins so, `*` all others."""

    #: Name → tokens of its context window: question and answer together. `truncation: "auto"` cuts the history to it.
    windows: dict[ModelName, Count] = msgspec.field(default_factory=dict)


class IdempotencyConfig(Section, frozen=True):
    """Requests that come twice: with the same `Idempotency-Key`, or as an SDK's retry."""

    #: Hours that an answer is kept under its key.
    retention_hours: Positive = 24.0
    #: Seconds that a repeat waits for the first request, if that still runs.
    wait_seconds: NotNegative = 300.0
    #: Largest answer that is kept, in bytes; of a larger one only which response it is.
    max_answer_bytes: Count = 8 * 1024 * 1024
    #: Minutes that the answer of a turn whose client did not wait for it is kept for a retry without key; 0: none is.
    retry_minutes: NotNegative = 10.0


class SealingConfig(Section, frozen=True):
    """The key of what only Branchline may read again: background jobs that wait, and compactions it made itself."""

    #: 32 bytes in base64, or any text of at least 32 characters, the same on all replicas; empty: a random key is kept
    #: in the file `sealing.key` in `data.dir`.
    key: Secret = Secret("")


class StreamsConfig(Section, frozen=True):
    """Events that are kept, so that a stream that broke off can be resumed."""

    #: Whose: `background` responses that are streamed, or `all` streams that are stored; those then run to their end
    #: even if the client leaves.
    keep: Literal["background", "all"] = "background"
    #: Seconds that they are kept after the last one.
    retention_seconds: Annotated[float, msgspec.Meta(ge=1)] = 3600.0


class RecordingConfig(Section, frozen=True):
    """What is recorded of apps that keep their history themselves; see docs/recording.md."""

    #: `on`: their turns become conversations; `keys`: only turns that name their session, see `keys`, go on in one;
    #: `off`: each stored turn is on its own.
    mode: Literal["on", "keys", "off"] = "on"
    #: Which Chat Completions are recorded: those with `store: true`, or `all`.
    chat: Literal["store", "all"] = "store"
    #: Record turns with `store: false` too. Their responses can't be asked for all the same.
    store_false: bool = False
    #: Where a request may name its session, the first that is there counts: headers (`*` stands for anything), and
    #: fields of the body.
    keys: tuple[SourceName, ...] = KEY_SOURCES
    #: Where a request may name the end user behind its API key: what one says is never taken for another's.
    end_users: tuple[SourceName, ...] = USER_SOURCES
    #: Chat Completions that wait to be written, of one process; more are dropped, and filled in from the next request.
    max_waiting: Count = 1000
    #: Bytes of them.
    max_waiting_bytes: Count = 128 * 1024 * 1024
    #: Most bytes of one, question and answer together; a larger one is not recorded.
    max_bytes: Count = 32 * 1024 * 1024


class ErrorsConfig(Section, frozen=True):
    """The shape of error bodies."""

    #: `openai`, or `flat` for clients that need `error` to be a string.
    format: Literal["openai", "flat"] = "openai"


class UiConfig(Section, frozen=True):
    """The page at /ui: conversations and their branches, for people with a browser."""

    #: Whether there is one; `auto`: where `server.host` is reached from this machine only.
    enabled: bool | Literal["auto"] = "auto"
    #: Where browsers reach this server, if not under its own address: `https://llm.example`. With https the page's
    #: cookie is sent over https only. Its host is answered as those of `server.allowed_hosts` are.
    url: str = ""


class LogConfig(Section, frozen=True):
    """Logging to standard error: ids, sizes and timings, never a secret or a prompt."""

    #: Least level that is written.
    level: Literal["debug", "info", "warning", "error"] = "info"
    #: `text`, or `json`: one object a line.
    format: Literal["text", "json"] = "text"


class MetricsConfig(Section, frozen=True):
    """Metrics for Prometheus, at `GET /metrics` on an address of their own: whoever reaches it may read them."""

    #: Address to listen on.
    host: NotEmpty = "127.0.0.1"
    #: Port to listen on; 0: metrics are not offered.
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0


class TracesConfig(Section, frozen=True):
    """Traces, sent where `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin say, as OpenTelemetry reads them; else none."""

    #: What a caller's `traceparent` is: the `parent` of the request's span, or only a `link` of a trace of our own, for
    #: callers that must not decide what is sampled here.
    remote_parent: Literal["parent", "link"] = "parent"


class Config(Section, frozen=True):
    """The whole tree; `Config()` is what runs when nothing is configured."""

    server: ServerConfig = ServerConfig()
    upstream: UpstreamConfig = UpstreamConfig()
    #: By name, in the order of the file; empty: `upstream` is the only one.
    upstreams: dict[UpstreamName, NamedUpstreamConfig] = msgspec.field(default_factory=dict)
    redis: RedisConfig = RedisConfig()
    data: DataConfig = DataConfig()
    auth: AuthConfig = AuthConfig()
    turns: TurnsConfig = TurnsConfig()
    conversations: ConversationsConfig = ConversationsConfig()
    quotas: QuotasConfig = QuotasConfig()
    responses: ResponsesConfig = ResponsesConfig()
    websocket: WebSocketConfig = WebSocketConfig()
    background: BackgroundConfig = BackgroundConfig()
    streams: StreamsConfig = StreamsConfig()
    recording: RecordingConfig = RecordingConfig()
    compaction: CompactionConfig = CompactionConfig()
    models: ModelsConfig = ModelsConfig()
    idempotency: IdempotencyConfig = IdempotencyConfig()
    sealing: SealingConfig = SealingConfig()
    errors: ErrorsConfig = ErrorsConfig()
    ui: UiConfig = UiConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    traces: TracesConfig = TracesConfig()


def upstream_settings(config: Config) -> Mapping[str, UpstreamConfig]:
    """Return each model server's settings by its name, in order; of the only one, which has no name, under `''`."""
    common = config.upstream
    if not config.upstreams:
        return {"": common}
    found = {}
    for name, one in config.upstreams.items():
        own = {field: getattr(one, field) for field in UpstreamConfig.__struct_fields__}
        changes = {field: value for field, value in own.items() if value is not None}
        found[name] = msgspec.structs.replace(common, **changes)
    return found
