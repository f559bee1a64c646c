"""The command line's flags that stand for configuration keys. Nothing is imported: `--help` must be quick."""

from __future__ import annotations

#: Configuration key → flag, what its value is called in `--help`, and what it does.
FLAGS = {
    "server.host": ("--host", "HOST", "address to listen on"),
    "server.port": ("--port", "PORT", "port to listen on; 0 lets the system choose"),
    "server.workers": ("--workers", "N", "processes that serve on the port, or auto: one a processor"),
    "upstream.url": ("--upstream", "URL", "base URL of the model server, or echo"),
    "data.dir": ("--data-dir", "DIR", "folder of the embedded Valkey"),
    "redis.url": ("--redis", "URL", "Redis or Valkey to use in place of the embedded one"),
}
#: The keys whose flags the commands have that only need the store.
STORE_FLAGS = ("data.dir", "redis.url")
