"""The certificate of the server. Files that change are read again, so that a rotation needs no restart."""

from pathlib import Path

import grpc
import structlog
from structlog.typing import FilteringBoundLogger

from .settings import GrpcSettings

log: FilteringBoundLogger = structlog.get_logger()


class Certificates:
    """The files of the certificate. gRPC asks for them at each handshake."""

    def __init__(self, settings: GrpcSettings) -> None:
        names = (settings.grpc_tls_key_file, settings.grpc_tls_certificate_file, settings.grpc_tls_client_ca_file)
        self._paths: list[Path | None] = list(names)
        self._versions = self._read_versions()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The certificate. Raises `OSError` if a file cannot be read."""
        key, chain, authorities = (None if path is None else path.read_bytes() for path in self._paths)
        return grpc.ssl_server_certificate_configuration([(key or b"", chain or b"")], authorities)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificate, if a file has changed since the last call; else None. Called in a thread of gRPC."""
        try:
            versions = self._read_versions()
            if versions == self._versions:
                return None
            configuration = self.read()
        except OSError as error:
            log.warning("certificate of gRPC not read again", reason=str(error))
            return None
        self._versions = versions
        log.info("certificate of gRPC read again")
        return configuration

    def _read_versions(self) -> list[tuple[int, int] | None]:
        stats = (None if path is None else path.stat() for path in self._paths)
        return [None if stat is None else (stat.st_mtime_ns, stat.st_ino) for stat in stats]


def server_credentials(settings: GrpcSettings) -> grpc.ServerCredentials | None:
    """The credentials of the port; None without TLS. Raises `OSError` if a file cannot be read."""
    if settings.grpc_tls_certificate_file is None:
        return None
    certificates = Certificates(settings)
    return grpc.dynamic_ssl_server_credentials(
        certificates.read(),
        certificates.changed,  # type: ignore[arg-type]  # None for a certificate that has not changed, as documented
        require_client_authentication=settings.grpc_tls_client_ca_file is not None,
    )
