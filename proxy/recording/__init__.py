"""Recording: what apps that keep their history themselves send, as conversations. What decides is in `recognition`.

Imports `services` and all below it; no `aiohttp.web` but a key.
"""
