"""A wire between a site and the coordinator that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading


class Wire:
    """Passes TCP connections on; TLS goes through it unread.

    Parameters
    ----------
    port : of loopback, where connections lead to
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = threading.Event()
        self._whole.set()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and take no new one, until `mend`."""
        self._whole.clear()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections pass again."""
        self._whole.set()

    def close(self) -> None:
        """End it."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._to), 5)
            except OSError:
                near.close()
                continue
            for source, target in ((near, far), (far, near)):
                self._open.add(source)
                threading.Thread(
                    target=self._pass, args=(source, target), daemon=True
                ).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while self._whole.is_set() and (data := source.recv(65536)):
                target.sendall(data)
                self.passed += len(data)
        except OSError:
            pass
        finally:
            self._open.discard(source)
            for one in (source, target):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
