"""Content: items, chains of branches and texts as what a screen shows of them; forms as what the API takes. Pure.

Imports `protocol` and the shapes of `storage`; no aiohttp.
"""
