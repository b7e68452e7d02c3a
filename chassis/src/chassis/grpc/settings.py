"""The settings of a gRPC server, a base class of those of a service."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, Field, model_validator
from pydantic_settings import SettingsConfigDict

MAX_SECONDS = 86_400
MAX_MESSAGE_BYTES = 2**31 - 1  # the largest value that gRPC accepts


class GrpcSettings(BaseModel):
    """The settings of a gRPC server, with the variables `APP_GRPC_*`.

    class Settings(ChassisSettings, GrpcSettings): ...
    """

    # Of the type that `ChassisSettings` has, so that a class can inherit both.
    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(  # pyright: ignore[reportIncompatibleVariableOverride]
        allow_inf_nan=False, hide_input_in_errors=True
    )

    grpc_host: str = Field(
        "::", min_length=1, description="Address to listen on for gRPC. `::` means all IPv6 and IPv4 addresses."
    )
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port to listen on for gRPC. `0` picks a free port.")
    grpc_max_calls: int = Field(
        1000,
        ge=1,
        description="Maximum number of gRPC calls in flight, streams included. Excess calls get `RESOURCE_EXHAUSTED`.",
    )
    grpc_max_message_bytes: int = Field(
        4_194_304,
        ge=0,
        le=MAX_MESSAGE_BYTES,
        description="Maximum bytes of a message that a gRPC client sends. Larger ones get `RESOURCE_EXHAUSTED`.",
    )
    grpc_deadline_seconds: float = Field(
        30.0,
        gt=0,
        le=MAX_SECONDS,
        description=(
            "Longest time in seconds of a gRPC call without streams. Beyond it `DEADLINE_EXCEEDED`. "
            "A shorter deadline of the client counts, also for streams."
        ),
    )
    grpc_tls_certificate_file: Path | None = Field(
        None, description="Certificate of the gRPC server. Unset: no TLS. A file that changes is read again."
    )
    grpc_tls_key_file: Path | None = Field(None, description="Private key of the certificate for gRPC.")
    grpc_tls_client_ca_file: Path | None = Field(
        None, description="Authorities of client certificates. If it is set, gRPC clients need a certificate."
    )

    @model_validator(mode="after")
    def _check_grpc_together(self) -> Self:
        if (self.grpc_tls_key_file is None) != (self.grpc_tls_certificate_file is None):
            raise ValueError("set grpc_tls_certificate_file and grpc_tls_key_file together")
        if self.grpc_tls_client_ca_file is not None and self.grpc_tls_certificate_file is None:
            raise ValueError("grpc_tls_client_ca_file needs grpc_tls_certificate_file and grpc_tls_key_file")
        return self
