"""Between hospitals and the coordinator's door: all that is said, without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading

from server.deploy.certificates import TlsFiles

Stream = asyncio.StreamReader


class Recorder:
    """Ends TLS with the door's own certificate, begins it anew, and keeps every byte.

    Parameters
    ----------
    port : of the door, on loopback

    Attributes
    ----------
    port : where hospitals connect
    sent, received : what hospitals said and heard, a stream for each connection
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._loop = asyncio.new_event_loop()
        self.port = int(self._listener.getsockname()[1])
        self.sent: list[bytearray] = []
        self.received: list[bytearray] = []

    def open(self, tls: TlsFiles) -> None:
        """Take connections from now on."""
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(tls.certificate, tls.key)
        self._far = ssl.create_default_context(cafile=str(tls.authority))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def forget(self) -> None:
        """Begin to keep anew; what connections say from now on is kept."""
        for stream in (*self.sent, *self.received):
            stream.clear()

    def _run(self) -> None:
        listening = asyncio.start_server(
            self._connect, sock=self._listener, ssl=self._near
        )
        self._loop.run_until_complete(listening)
        self._loop.run_forever()
        open_ones = asyncio.all_tasks(self._loop)
        for one in open_ones:
            one.cancel()
        gone = asyncio.gather(*open_ones, return_exceptions=True)
        self._loop.run_until_complete(gone)
        self._loop.close()

    async def _connect(self, near: Stream, to_near: asyncio.StreamWriter) -> None:
        try:
            far, to_far = await asyncio.open_connection(
                "127.0.0.1", self._to, ssl=self._far
            )
        except OSError:
            to_near.close()
            return
        sent, received = bytearray(), bytearray()
        self.sent.append(sent)
        self.received.append(received)
        with contextlib.suppress(asyncio.CancelledError):  # the recorder ends
            await asyncio.gather(
                _pass(near, to_far, sent), _pass(far, to_near, received)
            )


async def _pass(source: Stream, target: asyncio.StreamWriter, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            kept += data  # before it is passed on: nothing can overtake the record
            target.write(data)
            await target.drain()
    target.close()
