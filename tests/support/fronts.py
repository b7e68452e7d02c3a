"""Debian's HAProxy and nginx in front of a service, to see what they make of what they are sent."""

import os
import re
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import Self

from running import needs

# Both keep connections to the service, so that bytes that are left on one meet the next request. Both log the method
# and the target of each request. Timeouts are short, because some requests never end.
HAPROXY = """
global
    nbthread 1
    log stdout format raw local0
defaults
    mode http
    log global
    log-format "%HM %HU"
    option http-keep-alive
{options}
    http-reuse always
    retries 0
    timeout connect 5s
    timeout client 2s
    timeout server 5s
    timeout http-request 2s
    timeout http-keep-alive 1s
frontend clients
    bind fd@{socket}
    default_backend service
backend service
    server service 127.0.0.1:{port}
"""

LAX = "    option accept-invalid-http-request"

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.errors;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/unused;
    uwsgi_temp_path {folder}/unused;
    scgi_temp_path {folder}/unused;
    log_format seen escape=none "$request_method $request_uri";
    access_log {log} seen;
    keepalive_timeout 1s;
    client_header_timeout 2s;
    client_body_timeout 2s;
    ignore_invalid_headers off;
    underscores_in_headers on;
    merge_slashes off;
    upstream service {{ server 127.0.0.1:{port} max_fails=0; keepalive 32; }}
    server {{
        listen 127.0.0.1:{listen};
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_next_upstream off;
        }}
    }}
}}
"""


class Front:
    """A server between clients and the service on `port`: `haproxy` or `nginx`, or `lax haproxy`.

    The last passes on requests that the others reject, as far as HAProxy allows it.
    """

    def __init__(self, name: str, folder: Path, port: int) -> None:
        lax, _, program = name.rpartition(" ")
        needs(program)
        self._log = folder / f"{program}.log"
        config = folder / f"{program}.conf"
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._socket.getsockname()[1])
        if program == "haproxy":
            config.write_text(HAPROXY.format(socket=self._socket.fileno(), port=port, options=LAX if lax else ""))
            self._command = ["haproxy", "-db", "-f", str(config)]
        else:
            config.write_text(NGINX.format(folder=folder, log=self._log, listen=self.port, port=port))
            self._command = ["nginx", "-c", str(config), "-p", str(folder)]

    def __enter__(self) -> Self:
        # Both inherit the socket, so nobody else can get its port: nginx as if it had been replaced by a newer one.
        inherited = self._socket.fileno()
        with self._log.open("ab") as log, self._socket:
            self._process = subprocess.Popen(
                self._command,
                env={"PATH": os.environ["PATH"], "NGINX": f"{inherited};"},
                pass_fds=[inherited],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # nginx has a second process, which would outlive its being killed
        self._process.wait()

    def seen(self) -> Counter[str]:
        """The requests that it received."""
        return targets(self._log.read_text("latin-1"))


def targets(lines: str) -> Counter[str]:
    """How often each of the numbered targets is in a log, such as `GET /asked/7`."""
    found = re.findall(r"^(\w+) \S*?(/(?:asked|hidden)/\d+)", lines, re.MULTILINE)
    return Counter(f"{method} {path}" for method, path in found)
