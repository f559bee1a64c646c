"""The embedded Valkey: a server of our own for those who set no `redis.url`; what starts it is exported here.

Imports nothing of `storage`: what it starts is reached by its URL, like any other server.
"""

from storage.embedded.data_dir import EmbeddedUnavailable
from storage.embedded.server import EmbeddedValkey, find_binary, probe, require_data, running_in

__all__ = ["EmbeddedUnavailable", "EmbeddedValkey", "find_binary", "probe", "require_data", "running_in"]
