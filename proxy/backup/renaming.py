"""A file brought under ids of its own: whose ids it has is nobody's business but their owner's. Pure but for the files.

All ids that are ours name the partition of their conversation in 16 hex digits, so that another partition in their
place makes other ids of all of them at once, and of every mention.
"""

from __future__ import annotations

import hashlib
from typing import IO

from proxy.backup.format import ConversationLine, parse_line
from proxy.backup.verifier import InvalidBackup
from storage import partition_of


def conversation_in(file: IO[bytes]) -> str:
    """Return the id of the conversation of a file. Raises InvalidBackup."""
    file.seek(0)
    for number, text in enumerate(file, 1):
        if text.strip():
            try:
                line = parse_line(text)
            except (ValueError, RecursionError) as exc:
                raise InvalidBackup(f"line {number}: {exc}") from exc
            if isinstance(line, ConversationLine):
                return line.id
            break
    raise InvalidBackup("line 1: expected the conversation")


def rename(file: IO[bytes], renamed: IO[bytes], conversation_id: str, owner: str) -> None:
    """Write the file of a conversation to another one, under ids that are always the same for the same owner.

    Raises InvalidBackup for an id that is written so that it can't be found.
    """
    digest = hashlib.sha256(b"import\0%b\0%b" % (owner.encode(), conversation_id.encode())).hexdigest()
    old, new = partition_of(conversation_id), digest[:16]
    wanted = f"conv_{digest[16:48]}{new}"
    file.seek(0)
    for text in file:
        mention = text.replace(f'"{conversation_id}"'.encode(), f'"{wanted}"'.encode())
        renamed.write(mention.replace(old.encode(), new.encode()))
    if conversation_in(renamed) != wanted:
        raise InvalidBackup("line 1: the conversation's id is written with escapes")
    renamed.seek(0)
