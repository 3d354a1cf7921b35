"""The certificates of the admin port, as grpc wants them; they may change while the port is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fleetspeak.config.adminaccess import TlsFiles

if TYPE_CHECKING:
    import grpc


class Certificates:
    """What is shown, and believed, in handshakes from now on."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files

    def use(self, files: TlsFiles) -> None:
        """Take these for handshakes that are to come.  May be called in any thread."""
        self._files = files

    def credentials(self, ask_for_certificates: bool) -> grpc.ServerCredentials:
        """For a port where callers must have a certificate, or need none."""
        import grpc

        in_use = self._files

        def changed() -> grpc.ServerCertificateConfiguration | None:
            """Before each handshake, in a thread of grpc."""
            nonlocal in_use
            if self._files is in_use:
                return None
            in_use = self._files
            return configuration(in_use)

        def configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(files.key, files.certificate)], files.client_ca if ask_for_certificates else None
            )

        # None is documented to mean that nothing has changed; its types do not know.
        fetch: Any = changed
        return grpc.dynamic_ssl_server_credentials(configuration(in_use), fetch, ask_for_certificates)
