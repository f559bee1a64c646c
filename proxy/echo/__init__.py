"""The built-in model: a small, complete model server for trying things out; test upstreams stand on it.

Imports `protocol`.

app            its endpoints
replies        what it says
events         a finished Response as a stream of events
completions    the same in the shapes of Chat Completions
schema_sample  an example for a JSON schema
"""

from proxy.echo.app import build_response, create_echo_app

__all__ = ["build_response", "create_echo_app"]
