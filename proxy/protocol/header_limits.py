"""Header limits: what is taken of a message's head, from callers and from model servers alike."""

from __future__ import annotations

#: Longest line of a head, and most of them. Keys in JWTs are long, and gateways report much.
MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 512
