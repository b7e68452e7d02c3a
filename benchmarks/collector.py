"""An OTLP over HTTP endpoint that counts the spans which arrive; a process of its own.

    python collector.py        prints its port

`GET /count` answers the spans by kind and name. After `POST /keep` their trace ids are kept as well,
and `GET /ids` hands out those of server spans, each with its span's name. Below `/hanging` nothing is
answered, below `/failing` with 503.
"""

import gzip
import json
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SPAN_KIND_SERVER = 2


class Spans:
    """What has arrived."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[int, str]] = Counter()
        self.ids: list[tuple[str, str]] | None = None
        self._lock = Lock()

    def add(self, message: ExportTraceServiceRequest) -> None:
        spans = [span for resource in message.resource_spans for scope in resource.scope_spans for span in scope.spans]
        counts = Counter((span.kind, span.name) for span in spans)
        with self._lock:
            self.counts.update(counts)
            if self.ids is not None:
                self.ids.extend((span.name, span.trace_id.hex()) for span in spans if span.kind == SPAN_KIND_SERVER)


class Endpoint(BaseHTTPRequestHandler):
    """`/v1/traces`, and what the benchmark asks."""

    protocol_version = "HTTP/1.1"
    spans = Spans()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.startswith("/hanging"):
            Event().wait()
        if self.path.startswith("/failing"):
            self._answer(b"", status=503)
            return
        if self.path == "/keep":
            self.spans.ids = []
            self._answer(b"")
            return
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.spans.add(ExportTraceServiceRequest.FromString(body))
        self._answer(b"", "application/x-protobuf")

    def do_GET(self) -> None:
        if self.path == "/ids":
            ids, self.spans.ids = self.spans.ids, None
            self._answer(json.dumps(ids or []).encode())
            return
        self._answer(json.dumps([[kind, name, count] for (kind, name), count in self.spans.counts.items()]).encode())

    def _answer(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: the standard library would write a line for each request."""


class Server(ThreadingHTTPServer):
    """A thread for each connection, none of which holds up the end."""

    daemon_threads = True


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Endpoint)
    print(server.server_port, flush=True)
    server.serve_forever()
