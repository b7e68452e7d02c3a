"""The parts of GitHub's and GitLab's APIs that a service uses to propose an update, with what they have stored."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
# The names of the same fields on both hosts.
GITHUB: Json = {"text": "body", "number": "number", "url": "html_url", "open": "open", "closed": {"state": "closed"}}
GITLAB: Json = {
    "text": "description",
    "number": "iid",
    "url": "web_url",
    "open": "opened",
    "closed": {"state_event": "close"},
}


class Forge:
    """Listens on a free port of this machine. `requests` and `issues` are what it has stored."""

    def __init__(self) -> None:
        self.requests: list[Json] = []
        self.issues: list[Json] = []
        self.tokens: set[str] = set()
        self.calls: list[str] = []
        self.refuses_requests = False
        self.refuses_tokens = False
        forge = self

        class Receiver(BaseHTTPRequestHandler):
            def respond(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"null")
                forge.tokens.add(self.headers["authorization"])
                status, response = forge.respond(self.command, self.path, body)
                content = json.dumps(response).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_PUT = respond  # noqa: N815 - names of http.server

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - name of http.server
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def respond(self, method: str, path: str, body: Json | None) -> tuple[int, Any]:
        """The status and body of a response."""
        found = re.fullmatch(r"/(repos/acme/order-service|projects/7)/(\w+)(?:/(\d+))?", urlsplit(path).path)
        if found is None:
            return 404, {"message": "Not Found"}
        if self.refuses_tokens:
            return 401, {"message": "Bad credentials"}
        names = GITHUB if found[1].startswith("repos") else GITLAB
        kind = "issues" if found[2] == "issues" else "requests"
        stored = self.issues if kind == "issues" else self.requests
        if method != "GET":
            self.calls.append(f"{method} {found[2]}")
        if method == "POST" and body is not None:
            if kind == "requests" and self.refuses_requests:
                return 403, {"message": "GitHub Actions is not permitted to create or approve pull requests."}
            number = len(self.requests) + len(self.issues) + 1
            item = {names["number"]: number, names["url"]: f"{self.address}/{kind}/{number}", "state": names["open"]}
            source = body.get("head") or body.get("source_branch")
            stored.append({**body, **item, "source": source, "head": {"sha": ""}})
            return 201, stored[-1]
        if found[3] and body is not None:
            (item,) = (item for item in stored if item[names["number"]] == int(found[3]))
            item.update({"state": "closed"} if body == names["closed"] else body)
            return 200, item
        query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        wanted = query.get("state", "all")
        found_items = [item for item in stored if wanted in ("all", item["state"])]
        if kind == "issues":
            return 200, [item for item in found_items if query["labels"] in item["labels"]]
        source = query.get("source_branch") or query["head"].partition(":")[2]
        return 200, [item for item in found_items if item["source"] == source]
