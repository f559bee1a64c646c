"""A turn: opened, asked of the model, relayed, committed; and the turns that run.

Imports `compaction`, `streams`, `services` and all below these; no `aiohttp.web`.
"""
