"""Branchline's HTTP side: the reverse proxy in front of a Responses API. State lives behind `storage.Store`.

Importing the package loads nothing. Its ways in: `proxy.app.create_app` and `create_runner` serve a `Config`
(`proxy.config.settings`), which `proxy.config.loading.load_config` reads; `proxy.cli.main.main` is the command line.
"""

__version__ = "0.1.0"
