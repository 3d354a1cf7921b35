"""A TCP relay in front of a MySQL server that breaks connections around a COMMIT."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

COMMIT = b"\x03COMMIT"
"""A COM_QUERY as it is sent, behind the length."""


class Relay:
    """Passes everything on, until `fate` says otherwise about a COMMIT.

    Fates: ``pass``; ``before``: the connection breaks, and the server never sees it; ``after``: the server has done
    it, and its answer is lost; ``meanwhile``: the server gets it and at the same time loses its peer.
    """

    def __init__(self, port: int | Callable[[], int], fate: Callable[[], str] = lambda: "pass") -> None:
        """@param port: of the server, or what gives one for each connection."""
        self._target: Callable[[], int] = port if callable(port) else lambda: port
        self.fate = fate
        self.broken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target()))
        except OSError:
            client.close()
            return
        lose = threading.Event()
        threading.Thread(target=self._answers, args=(server, client, lose), daemon=True).start()
        with suppress(OSError):
            while data := client.recv(1 << 20):
                fate = self.fate() if data[4:] == COMMIT else "pass"
                if fate != "pass":
                    self.broken += 1
                if fate == "before":
                    break
                if fate == "after":
                    lose.set()
                server.sendall(data)
                if fate == "meanwhile":
                    break
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _answers(self, server: socket.socket, client: socket.socket, lose: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if lose.is_set():
                    break
                client.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
