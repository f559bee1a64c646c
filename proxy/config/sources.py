"""Sources: where requests of known apps name their session, and the end user behind their API key."""

#: Where keys are looked for, the first that is present first: headers (`*` for anything, of headers that are not named
#: themselves), and fields of the body.
KEY_SOURCES = (
    "thread-id",
    "x-openwebui-chat-id",
    "x-session-id",
    "session-id",
    "session_id",
    "x-session-affinity",
    "helicone-session-id",
    "x-litellm-session-id",
    "x-*-session-id",
    "x-tfy-conversation-id",
    "x-bf-session-id",
    "x-grok-conv-id",
    "body.metadata.thread_id",
    "body.metadata.conversation_id",
    "body.metadata.session_id",
    "body.metadata.langfuse_session_id",
    "body.session_id",
    "body.prompt_cache_key",
)
#: Where end users are looked for.
USER_SOURCES = ("body.user", "body.safety_identifier", "x-openwebui-user-id", "helicone-user-id")
