"""The page at /ui: conversations looked at, their branches walked, edited and watched.

Imports `api`, whose use cases it calls, and all below it. `cards`, `deltas`, `forest`, `pictures` and `text` are pure.
"""
