"""A file server with a slow line, for the scripts: ranges, strong tags, a rate limit, and counters.

Run by itself it serves a directory:  scripts/slowfile.py DIR --rate 4000000 --port 0
"""

import argparse
import hashlib
import http.server
import mimetypes
import os
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse

PIECE = 32 * 1024


class Counters:
    """What the upstream was asked and what it sent."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = 0
        self.sent = 0

    def take(self):
        """The counts since the last call."""
        with self.lock:
            taken = (self.requests, self.sent)
            self.requests = self.sent = 0
            return taken


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server = self.server
        with server.counters.lock:
            server.counters.requests += 1
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/")
        path = os.path.realpath(os.path.join(server.directory, name))
        if not path.startswith(os.path.realpath(server.directory) + os.sep) or not os.path.isfile(path):
            self.send_error(404)
            return
        status = os.stat(path)
        etag = '"%s"' % hashlib.sha256(f"{name}-{status.st_size}-{status.st_mtime_ns}".encode()).hexdigest()[:24]
        start, end, code = 0, status.st_size, 200
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and "," not in asked and self.headers.get("If-Range", etag) == etag:
            first, _, last = asked[6:].partition("-")
            if first:
                start, end = int(first), min(int(last) + 1, end) if last else end
            else:
                start = max(0, end - int(last))
            code = 206
            if start >= status.st_size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{status.st_size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(code)
        self.send_header("ETag", etag)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", mimetypes.guess_type(path)[0] or "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
        self.end_headers()
        if body:
            self.send_body(path, start, end)

    def send_body(self, path, start, end):
        server, begin, done = self.server, time.monotonic(), 0
        with open(path, "rb") as file:
            file.seek(start)
            while start + done < end:
                piece = file.read(min(PIECE, end - start - done))
                try:
                    self.wfile.write(piece)
                except OSError:
                    self.close_connection = True
                    return
                done += len(piece)
                with server.counters.lock:
                    server.counters.sent += len(piece)
                if server.rate:
                    ahead = done / server.rate - (time.monotonic() - begin)
                    if ahead > 0:
                        time.sleep(ahead)

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, directory, rate, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.directory, self.rate, self.counters = directory, rate, Counters()

    def handle_error(self, *_):
        pass  # A player that hangs up is no error.

    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def start(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self


def end(process):
    """Asks a program to end, and ends it where it does not."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Millpond:
    """A millpond in front of an upstream, on a data directory of its own; `settings` are told by its environment."""

    def __init__(self, binary, data, upstream, *flags, **settings):
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--data", data, "--upstream", upstream, "--log", "error"]
        environment = {f"MILLPOND_{name.upper()}": value for name, value in settings.items()}
        self.process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            sys.exit(f"millpond did not start: {line!r}")
        self.url = line.split()[-1] + "/"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.process)


def main():
    parser = argparse.ArgumentParser(description="Serves a directory over a slow line.")
    parser.add_argument("directory")
    parser.add_argument("--rate", type=int, default=0, help="bytes per second of each connection; 0 is no limit")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    server = Server(arguments.directory, arguments.rate, arguments.port)
    print(f"listening on {server.url()}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
