"""Export and import of whole conversations over HTTP."""

from __future__ import annotations

import asyncio
from tempfile import SpooledTemporaryFile
from typing import IO

from aiohttp import hdrs, web

from proxy.api.rendering import render
from proxy.auth.caller import CALLER
from proxy.backup.format import write_lines
from proxy.backup.renaming import conversation_in, rename
from proxy.backup.verifier import Backup, InvalidBackup
from proxy.http.answers import json_answer, path_conversation_id
from proxy.http.body import iter_content
from proxy.http.keys import CONFIG, STORE
from proxy.protocol.errors import AlreadyExists, BadRequest, ServiceUnavailable, UnsupportedMedia
from storage import Conflict, Conversation, ConversationExists, Store

JSON_LINES = "application/x-ndjson"
#: Content types of a body with JSON Lines; there is no registered one.
_ACCEPTED = frozenset({JSON_LINES, "application/jsonl", "application/json"})
#: Bytes of an import that are held in memory; more goes to a file.
SPOOL_BYTES = 1024 * 1024


async def export_conversation(request: web.Request) -> web.StreamResponse:
    """GET …/export: the conversation as JSON Lines, read while it is sent; see `proxy.backup`."""
    conversation_id = path_conversation_id(request)
    export = await request.app[STORE].archive.export(request[CALLER].owner, conversation_id)
    response = web.StreamResponse()
    response.content_type = JSON_LINES
    response.headers[hdrs.CONTENT_DISPOSITION] = f'attachment; filename="{conversation_id}.jsonl"'
    await response.prepare(request)
    if request.method != hdrs.METH_HEAD:
        async for lines in write_lines(export):
            await response.write(lines)
    await response.write_eof()
    return response


async def import_conversation(request: web.Request) -> web.Response:
    """POST /v1/conversations/import: restores an export; 201, or 200 if the conversation is there already."""
    if hdrs.CONTENT_TYPE in request.headers and request.content_type.lower() not in _ACCEPTED:
        raise UnsupportedMedia(f"Unsupported Content-Type; send {JSON_LINES}.")
    with SpooledTemporaryFile(SPOOL_BYTES) as file:
        async for piece in iter_content(request, request.app[CONFIG].server.max_body_bytes):
            file.write(piece)
        conversation, created = await restore(request.app[STORE], request[CALLER].owner, file)
    return json_answer(render(conversation), status=201 if created else 200)


async def restore(store: Store, owner: str, file: IO[bytes]) -> tuple[Conversation, bool]:
    """Check and restore what was written to `file`; return the conversation, and whether that changed anything.

    It gets its own ids back, unless they are somebody else's: then it gets others, and the answer is the same.
    Raises BadRequest (`invalid_import`), AlreadyExists, ServiceUnavailable.
    """
    try:
        conversation_id = conversation_in(file)
        with SpooledTemporaryFile(SPOOL_BYTES) as renamed:
            if await store.archive.owner_of(conversation_id) not in ("", owner):
                await asyncio.to_thread(rename, file, renamed, conversation_id, owner)
                file = renamed
            file.seek(0)
            return await store.archive.restore(owner, await asyncio.to_thread(Backup, file))
    except InvalidBackup as exc:
        raise BadRequest(f"The file can't be imported: {exc}.", code="invalid_import") from exc
    except ConversationExists as exc:
        raise AlreadyExists(
            f"Conversation '{exc.subject}' can't be imported: its id is taken.", code="conversation_exists"
        ) from exc
    except Conflict as exc:
        raise ServiceUnavailable("Another import of this conversation is running; try again.") from exc


ROUTES = [
    web.get("/v1/conversations/{conversation_id}/export", export_conversation),
    web.post("/v1/conversations/import", import_conversation),
]
