"""Metrics listener: `GET /metrics` on an address of its own, beside the API's, in threads of its own.

So it answers while the event loop is busy, and in a supervisor without an HTTP server. It asks for no credentials:
whoever reaches it may read it, so it listens on loopback unless `metrics.host` says otherwise.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from prometheus_client.registry import CollectorRegistry

METRICS_PATH = "/metrics"
#: Seconds that a scraper may be silent.
SCRAPE_SECONDS = 10
#: Scrapes at a time; a further one waits.
MOST_SCRAPES = 4

logger = logging.getLogger(__name__)


class MetricsListener:
    """Listens from when it is made. Raises OSError. registry: what it tells."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        tell, scrapes = make_wsgi_app(registry), threading.BoundedSemaphore(MOST_SCRAPES)

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] != METRICS_PATH:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"The metrics are at /metrics.\n"]
            if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
                start_response("405 Method Not Allowed", [("Content-Type", "text/plain"), ("Allow", "GET, HEAD")])
                return [b"Use GET.\n"]
            with scrapes:
                told: Iterable[bytes] = tell(environ, start_response)
                return told

        (family, _, _, _, _), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

        class Server(_Server):
            address_family = family

        self._server = make_server(host, port, answer, Server, handler_class=_Handler)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    #: Closing does not wait for a scraper.
    block_on_close = False

    def server_bind(self) -> None:
        # not WSGIServer's own, which asks the name service who this is
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a scrape broke off")


class _Handler(WSGIRequestHandler):
    timeout = SCRAPE_SECONDS

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the library's)
        logger.debug(format, *arguments)
