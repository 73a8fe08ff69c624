"""A relay between a client and a server that fails as networks do: cuts at any byte, stalls, refuses."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading

RESET = struct.pack("ii", 1, 0)


class Relay:
    """Passes bytes on between a port of its own and `target`, a port of loopback, which may be changed."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.refusing = False
        self.cuts = 0
        self.accepted = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._count = 0
        self._range = range(1)
        self._chance = random.Random()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_often(self, seed: int, count: int, least: int, most: int) -> None:
        """Cut `count` connections that are made from now on, each somewhere between `least` and `most` bytes of
        answers, some cleanly and some with a reset."""
        self.cut()
        with self._lock:
            self.cuts, self._count, self._range, self._chance = 0, count, range(least, most), random.Random(seed)

    def cut(self) -> int:
        """End every connection; returns how many there were."""
        with self._lock:
            ended, self._open = self._open, []
        for each in ended:
            _hang_up(each)
        return len(ended) // 2

    def stall(self) -> None:
        """Keep connections open, and let no answer through any more."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self.refusing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.flow()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                try:
                    if self.refusing:
                        raise ConnectionRefusedError
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    _hang_up(client)
                    continue
                with self._lock:
                    self._open += [client, server]
                    budget = self._chance.choice(self._range), self._chance.random() < 0.5
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client, budget), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                server.sendall(data)
        _hang_up(server)

    def _answer(self, server: socket.socket, client: socket.socket, budget: tuple[int, bool]) -> None:
        left, resets = budget
        reset = False
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                self._flowing.wait()
                if len(data) >= left and self._may_cut():
                    client.sendall(data[:left])
                    reset = resets
                    if reset:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    _hang_up(server)
                    break
                client.sendall(data)
                left = max(0, left - len(data))
        if reset:
            # The thread that reads from it lets go first: a reset is sent once nobody holds the socket.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)
            client.close()
        _hang_up(client)

    def _may_cut(self) -> bool:
        with self._lock:
            cuts = self.cuts < self._count
            self.cuts += cuts
            return cuts


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
