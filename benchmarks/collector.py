"""An OTLP/HTTP endpoint that counts the server spans it receives: `python benchmarks/collector.py` prints its port.

`GET /` returns the count by span name. Requests below `/hanging` get no response.
"""

import gzip
import json
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SPANS = Counter[str]()
LOCK = Lock()


class Endpoint(BaseHTTPRequestHandler):
    """Receives spans and returns their count."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.startswith("/hanging"):
            Event().wait()
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        message = ExportTraceServiceRequest.FromString(body)
        spans = (span for resource in message.resource_spans for scope in resource.scope_spans for span in scope.spans)
        names = Counter(span.name for span in spans if span.kind == Span.SPAN_KIND_SERVER)
        with LOCK:
            SPANS.update(names)
        self._respond(b"", "application/x-protobuf")

    def do_GET(self) -> None:
        with LOCK:
            self._respond(json.dumps(SPANS).encode(), "application/json")

    def _respond(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Write nothing: the base class writes a line for each request."""


if __name__ == "__main__":
    ThreadingHTTPServer.daemon_threads = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    print(server.server_port, flush=True)
    server.serve_forever()
