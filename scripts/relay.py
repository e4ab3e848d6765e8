"""A relay that counts: it passes HTTP/1.1 on byte for byte, and notes each exchange and how much of its body came through.

One relay before an upstream tells what that upstream was asked and sent, one before millpond what a player asked and
took. A body's bytes count when the receiving side has taken them, so a body that is left in the middle counts as far as
it came. The socket buffers are small for the same reason: little lies between the two sides that neither has.

Requests with bodies, upgrades and pipelining do not occur between players, millpond and file servers, and are not
understood here.
"""

import re
import select
import socket
import threading
import time
import urllib.parse

PIECE = 32 * 1024
BUFFER = 64 * 1024
LONGEST_HEAD = 64 * 1024

# The one page that a relay has itself: for a browser, an empty document of the film's own origin.
PAGE = "/-/page"
PAGE_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nCache-Control: no-store\r\nContent-Length: 15\r\n\r\n<!doctype html>"


class Exchange:
    """One request and as much of its reply as was taken."""

    def __init__(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.method, target = lines[0].split(" ")[:2]
        self.path = urllib.parse.urlsplit(target).path
        self.fields = fields_of(lines)
        self.range = self.fields.get("range")
        self.status, self.reply, self.start, self.passed = 0, {}, 0, 0
        self.whole = self.over = False
        self.begun = self.ended = time.monotonic()

    def replied(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.status, self.reply = int(lines[0].split(" ")[1]), fields_of(lines)
        part = re.match(r"bytes (\d+)-", self.reply.get("content-range", ""))
        self.start = int(part[1]) if part else 0

    def has_body(self):
        return self.method != "HEAD" and self.status >= 200 and self.status not in (204, 304)

    def span(self):
        """The bytes of the representation that came through, half open."""
        return (self.start, self.start + self.passed) if self.status in (200, 206) else (0, 0)

    def left(self, rate):
        """Bytes of a body that was left in the middle: those a line of this rate carries meanwhile beyond what was taken."""
        ended = self.ended if self.over else time.monotonic()
        return max(0, int(rate * (ended - self.begun)) - self.passed) if self.has_body() and not self.whole else 0

    def asks_twice(self):
        """Whether ranges of the one request overlap."""
        parts = sorted((int(first), int(last or 1 << 62)) for first, last in re.findall(r"(\d+)-(\d*)", self.range or ""))
        return any(first <= before for (_, before), (first, _) in zip(parts, parts[1:]))

    def __str__(self):
        asked = f" {self.range}" if self.range else ""
        return f"{self.method}{asked} -> {self.status} {self.start}+{self.passed}{'' if self.whole else ' cut'}"


def fields_of(lines):
    return {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:] if ":" in line)}


class Left(Exception):
    """One of the two sides has closed its connection."""


class Side:
    """One side's connection, read by heads, lines and pieces."""

    def __init__(self, connection):
        self.connection, self.buffer = connection, b""

    def more(self, other):
        """Waits for bytes of this side; the other side says nothing meanwhile, but may leave."""
        while True:
            ready = select.select([self.connection, other.connection], [], [])[0]
            if self.connection in ready:
                piece = self.connection.recv(PIECE)
                if not piece:
                    raise Left
                self.buffer += piece
                return
            if not other.connection.recv(1, socket.MSG_PEEK):
                raise Left
            # The next request, ahead of this reply's end, waits in its socket.
            select.select([self.connection], [], [])

    def until(self, mark, other):
        while mark not in self.buffer:
            if len(self.buffer) > LONGEST_HEAD:
                raise Left
            self.more(other)
        end = self.buffer.index(mark) + len(mark)
        taken, self.buffer = self.buffer[:end], self.buffer[end:]
        return taken

    def piece(self, most, other):
        if not self.buffer:
            self.more(other)
        taken, self.buffer = self.buffer[:most], self.buffer[most:]
        return taken


class Relay:
    """Listens on a port of its own and passes on to `target`; `rate`: bytes a second of each body, 0 for no limit."""

    def __init__(self, target, rate=0):
        parts = urllib.parse.urlsplit(target)
        self.target, self.rate = (parts.hostname, parts.port), rate
        self.lock, self.seen, self.open = threading.Lock(), [], set()
        self.ended = threading.Condition(self.lock)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A close alone would leave the accept waiting.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for connection in self.open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # Not connected yet, or no longer.

    def settle(self, seconds):
        """Waits until no exchange is under way, for so many seconds at most."""
        with self.lock:
            self.ended.wait_for(lambda: all(exchange.over for exchange in self.seen), seconds)

    def take(self, path):
        """The exchanges for a path since the last call."""
        with self.lock:
            taken, self.seen = self.seen, []
        return [exchange for exchange in taken if exchange.path == path]

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        with client, server:
            with self.lock:
                self.open |= {client, server}
            try:
                server.connect(self.target)
                for connection in (client, server):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sides = Side(client), Side(server)
                while self.exchange(*sides):
                    pass
            except (Left, OSError, ValueError):
                pass
            finally:
                with self.lock:
                    self.open -= {client, server}

    def exchange(self, client, server):
        """One request and its reply; whether the connections may be used again."""
        head = client.until(b"\r\n\r\n", server)
        seen = Exchange(head)
        if seen.path == PAGE:
            client.connection.sendall(PAGE_REPLY)
            return True
        with self.lock:
            self.seen.append(seen)
        try:
            self.reply(seen, head, client, server)
        finally:
            with self.lock:
                seen.over, seen.ended = True, time.monotonic()
                self.ended.notify_all()
        return "close" not in (seen.reply.get("connection", "").lower(), seen.fields.get("connection", "").lower())

    def reply(self, seen, head, client, server):
        server.connection.sendall(head)
        while seen.status < 200:
            head = server.until(b"\r\n\r\n", client)
            seen.replied(head)
            client.connection.sendall(head)
        begin = time.monotonic()
        if seen.has_body():
            self.body(seen, client, server, lambda taken: self.count(seen, taken, begin))
        seen.whole = True

    def body(self, seen, client, server, count):
        if "chunked" in seen.reply.get("transfer-encoding", "").lower():
            while True:
                line = server.until(b"\r\n", client)
                client.connection.sendall(line)
                left = int(line.split(b";")[0], 16)
                self.pass_on(left, client, server, count)
                # The end of the chunk, or the trailer section that ends all.
                while (line := server.until(b"\r\n", client)) != b"\r\n":
                    client.connection.sendall(line)
                client.connection.sendall(line)
                if not left:
                    return
        elif "content-length" in seen.reply:
            self.pass_on(int(seen.reply["content-length"]), client, server, count)
        else:
            self.pass_on(None, client, server, count)

    def pass_on(self, left, client, server, count):
        """Passes a number of bytes on; `None`: until the server closes, which also ends the exchange."""
        while left is None or left:
            piece = server.piece(PIECE if left is None else min(PIECE, left), client)
            client.connection.sendall(piece)
            count(len(piece))
            if left is not None:
                left -= len(piece)

    def count(self, seen, taken, begin):
        seen.passed += taken
        if self.rate:
            ahead = seen.passed / self.rate - (time.monotonic() - begin)
            if ahead > 0:
                time.sleep(ahead)


def repeated(exchanges):
    """Bytes that came through more than once, over all the exchanges."""
    covered, again = 0, 0
    for start, end in sorted(exchange.span() for exchange in exchanges):
        again += max(0, min(end, covered) - start)
        covered = max(covered, end)
    return again


def total(exchanges):
    return sum(exchange.passed for exchange in exchanges)
