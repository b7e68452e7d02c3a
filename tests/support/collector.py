"""An OTLP endpoint over HTTP that keeps the spans it receives."""

import gzip
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_SECONDS = 20.0
Value = str | int | float | bool


@dataclass(frozen=True)
class Received:
    """A span, and the resource that it came with."""

    span: Span
    resource: dict[str, Value]

    @property
    def attributes(self) -> dict[str, Value]:
        return plain(self.span.attributes)

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.span.span_id.hex()


class Collector:
    """Listens on a free port of this machine; `endpoint` is for `OTEL_EXPORTER_OTLP_ENDPOINT`."""

    def __init__(self) -> None:
        self._received: list[Received] = []
        self._news = threading.Condition()
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                if self.headers["content-encoding"] == "gzip":
                    content = gzip.decompress(content)
                collector.receive(self.path, self.headers["content-type"], content)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def receive(self, path: str, kind: str, content: bytes) -> None:
        """Take one export."""
        assert (path, kind) == ("/v1/traces", "application/x-protobuf")
        request = ExportTraceServiceRequest.FromString(content)
        with self._news:
            for resource_spans in request.resource_spans:
                resource = plain(resource_spans.resource.attributes)
                for scope_spans in resource_spans.scope_spans:
                    self._received += [Received(span, resource) for span in scope_spans.spans]
            self._news.notify_all()

    def spans(self, count: int = 1) -> list[Received]:
        """Wait for so many spans; returns all there are."""
        with self._news:
            assert self._news.wait_for(lambda: len(self._received) >= count, PATIENCE_SECONDS), self._received
            return [*self._received]

    def now(self) -> list[Received]:
        """The requests received so far."""
        with self._news:
            return [*self._received]


def plain(attributes: Iterable[KeyValue]) -> dict[str, Value]:
    """OTLP's attributes as a dictionary of Python's values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}
