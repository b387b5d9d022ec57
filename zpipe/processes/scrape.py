"""Serve a run's metrics over HTTP, in Prometheus' format; the only module that imports prometheus_client.

It runs in the launcher and not in the registry: the launcher reads the registry's table anyway and lives as long as
the run, while a registry may be killed and takes its counts of the living with it.  So the endpoint stays, counters
do not fall, and the registry has no more to do than before.

The server's threads touch nothing but what `Metrics` hands out, so the launcher's loop never waits for a client.
They are harmless to the workers: those are started by fork and exec in one step of C, nothing of Python runs between,
and Python's sockets are closed in them.
"""

from __future__ import annotations

import errno
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from zpipe.processes.metrics import Metrics
from zpipe.values.errors import ConfigError

try:
    import prometheus_client as prometheus
    from prometheus_client import metrics_core
except ModuleNotFoundError as error:
    raise ConfigError("metrics need the package prometheus-client: pip install prometheus-client") from error

LOOPBACK = "127.0.0.1"
ADDRESS = re.compile(r"((\[(?P<six>[^\[\]/\s]+)\]|(?P<host>[^\[\]:/\s]*)):)?(?P<port>[0-9]{1,5})", re.ASCII)
CLIENT_S = 10.0  # a client that is silent for longer is left
END_S = 0.1  # the most that the server holds up the end of a run

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class MetricsServer:
    """The address `[HOST:]PORT`, bound while open; `serve` answers there.  Port 0 is any free one.

    Raises ConfigError when the text is no address, and on opening when it cannot be bound.
    """

    def __init__(self, address: str) -> None:
        found = ADDRESS.fullmatch(address)
        if not found or int(found["port"]) > 65535:
            raise ConfigError(f"{address!r} is no address for metrics: write HOST:PORT, e.g. 127.0.0.1:9464")
        self._address = address
        self._host, self._port = found["six"] or found["host"] or LOOPBACK, int(found["port"])
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> MetricsServer:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, where = found[0]
            self._server = _Server(family, where)
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                raise ConfigError(
                    f"{self._address} for metrics is in use: stop what holds it, or name another port (0: any free one)"
                ) from error
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot bind {self._address} for metrics: {why}: use an address of this host") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            if self._thread is not None:
                self._server.shutdown()
                self._thread.join()
            self._server.server_close()

    def serve(self, metrics: Metrics) -> str:
        """Answer from now on, in threads of its own, and return where the metrics are found."""
        assert self._server is not None, "it is not open"
        self._server.set_app(_app(metrics))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(END_S,), name="zpipe-metrics", daemon=True
        )
        self._thread.start()
        host, port = self._server.server_name, self._server.server_port
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def _app(metrics: Metrics) -> App:
    registry = prometheus.CollectorRegistry()
    registry.register(_Collector(metrics))
    exposition = prometheus.make_wsgi_app(registry)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return exposition(environ, start)  # type: ignore[no-any-return]
        if environ["PATH_INFO"] == "/readyz":
            lines = metrics.lacking()
            status = "503 Service Unavailable" if lines else "200 OK"
        else:
            status, lines = "404 Not Found", ["there are /metrics and /readyz"]
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return ["".join(f"{line}\n" for line in lines or ["ready"]).encode()]

    return app


class _Collector:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[metrics_core.Metric]:
        for metric, samples in self._metrics.samples().items():
            make = metrics_core.CounterMetricFamily if metric.never_falls else metrics_core.GaugeMetricFamily
            family = make(metric.name, metric.help, labels=("run", *metric.labels))
            for labels, value in samples.items():
                family.add_metric(labels, value)
            yield family


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_S

    def log_message(self, *_: object) -> None:
        """Say nothing: a healthy run does not log who looks at it."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a client that dawdles holds up nobody's end

    def __init__(self, family: int, where: Any) -> None:
        self.address_family = family
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        """Bind; HTTPServer's own would ask a name server for this host's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report our mistakes; that a client has gone or dawdled is none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
