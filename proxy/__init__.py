"""Branchline's HTTP side: the reverse proxy in front of a Responses API.

`create_app` builds the aiohttp application from a `Config`; `load_config` reads one.
State lives behind `storage.Store`; this package knows HTTP, that one knows Redis.
"""

__version__ = "0.1.0"
