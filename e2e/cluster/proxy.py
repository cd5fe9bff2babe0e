"""A TCP proxy on loopback that can be as bad as a network: it passes, delays, is silent, refuses, or cuts.

It stands before the API server where a test must come between it and the agent. It sees bytes only, TLS passes through.
"""

import contextlib
import socket
import struct
import threading
import time


class Proxy:
    """Use as a context. `port` stays the same through `refuse()` and `accept()`."""

    def __init__(self, target, delay_s=0.0, silent=False):
        self._target, self._delay_s, self._silent = target, delay_s, silent
        self._lock = threading.Lock()
        self._sockets = set()
        self._listener = None
        self.port = 0
        self.accepted = 0
        self.accept()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.refuse()

    def accept(self):
        """Takes connections (again)."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def refuse(self):
        """Nobody listens any more, and what was connected is cut."""
        listener, self._listener = self._listener, None
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes up the thread in accept()
            listener.close()
        self.cut()

    def cut(self):
        """Resets every connection there is."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            with self._lock:
                self._sockets.add(client)
            if self._silent:
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets.add(server)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source, sink):
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                time.sleep(self._delay_s)
                sink.sendall(content)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
