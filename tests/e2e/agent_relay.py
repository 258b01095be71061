"""A network between agents and the system that a test can take down and that can lose answers; it reads no TLS."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Relay:
    """Passes connections on to `target`. Its own port stays the same whether it is up or down."""

    def __init__(self) -> None:
        self.target = ("127.0.0.1", 0)
        self.lose_answers = 0
        self.answers_lost = 0
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        """The address that agents are told."""
        return f"https://localhost:{self.port}"

    def leads_to(self, url: str) -> None:
        """From now on it leads to that server."""
        place = urlsplit(url)
        self.target = (place.hostname or "", place.port or 443)

    def up(self) -> None:
        """Takes connections."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = int(listener.getsockname()[1])
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def down(self) -> None:
        """Nobody listens, and whoever was connected is cut off."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone would leave the thread in accept, and the port with it.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def cut(self) -> None:
        """Ends all connections; new ones are taken."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(self.target) as far:
            with self._lock:
                self._open |= {near, far}
            try:
                back = threading.Thread(target=self._answers, args=(near, far), daemon=True)
                back.start()
                _pass_on(near, far)
                back.join()
            finally:
                with self._lock:
                    self._open -= {near, far}

    def _answers(self, near: socket.socket, far: socket.socket) -> None:
        """The server's bytes; what is lost is what comes after a request, not the handshake."""
        asked = 0

        def lost(data: bytes) -> bool:
            nonlocal asked
            asked += 1
            # Records of TLS 1.3: the handshake is one flight; an answer is application data of its own.
            if asked < 2 or data[0] != 0x17:
                return False
            with self._lock:
                if self.lose_answers <= 0:
                    return False
                self.lose_answers -= 1
                self.answers_lost += 1
                return True

        _pass_on(far, near, lost)


def _pass_on(source: socket.socket, sink: socket.socket, lost: object = None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            if callable(lost) and lost(data):
                break
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
