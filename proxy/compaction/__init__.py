"""Compaction: a history made short by a summary that a model writes.

Imports `services` and all below it; no `aiohttp.web`.
"""
