"""Load over TLS: a certificate, one answer whose content is compared, and h2load, which counts statuses and bytes.

h2load takes the content of answers for granted, so one answer of each server is read and compared before the server is
measured: over HTTP/1.1 by Python, which trusts this one certificate, over HTTP/2 by nghttp. Each answer that h2load
counts must then have the status and the length of a right one.
"""

import http.client
import os
import re
import ssl
import struct

from processes import run
from report import quantile
from servers import Failed

# As in benches/load/content.rs: the word at an index of every object, in little-endian order.
FACTOR, WORD = 0x9E3779B97F4A7C15, 8
THREADS = 2
UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Certificate:
    """A self-signed certificate for an address, in a directory."""

    def __init__(self, directory, address):
        self.certificate, self.key = os.path.join(directory, "certificate.pem"), os.path.join(directory, "key.pem")
        words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30 -subj /CN=bench"
        words = [*words.split(), "-addext", f"subjectAltName=IP:{address}", "-keyout", self.key, "-out", self.certificate]
        done = run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"openssl made no certificate: {done.stderr.strip()}")


def content(start, length):
    """The bytes of every object from an offset on, which is that of a word."""
    first = start // WORD
    words = ((index + 1) * FACTOR % (1 << 64) for index in range(first, first + -(-length // WORD)))
    return b"".join(struct.pack("<Q", word) for word in words)[:length]


class Ask:
    """A request: paths, the bytes wanted of each, and the status and content of a right answer."""

    def __init__(self, paths, length, start=None):
        self.paths, self.length, self.start = paths, length, start

    @property
    def status(self):
        return "200" if self.start is None else "206"

    @property
    def fields(self):
        return {} if self.start is None else {"range": f"bytes={self.start}-{self.start + self.length - 1}"}

    def compare(self, body):
        expected = content(self.start or 0, self.length)
        if body != expected:
            at = next((index for index, (found, wanted) in enumerate(zip(body, expected)) if found != wanted), min(len(body), self.length))
            raise Failed(f"{self.paths[0]}: WRONG BYTES at {(self.start or 0) + at}; {len(body)} bytes instead of {self.length}")


class H2load:
    """h2load in the load's namespace, over HTTP/2 or over HTTP/1.1."""

    def __init__(self, network, directory, certificate, is_h2):
        self.network, self.certificate, self.is_h2 = network, certificate, is_h2
        self.list, self.log = os.path.join(directory, "uris"), os.path.join(directory, "log")
        # The negotiated TLS and application protocol, by the server's name.
        self.negotiated = {}

    def check(self, server, ask):
        """Reads one answer and compares its bytes."""
        url = f"https://{server.address}{server.prefix}{ask.paths[0]}"
        if self.is_h2:
            fields = [word for name, value in ask.fields.items() for word in ("--header", f"{name}: {value}")]
            done = run([*self.network.in_load, "nghttp", *fields, url], capture_output=True, timeout=60, check=False)
            return ask.compare(done.stdout)
        context = ssl.create_default_context(cafile=self.certificate.certificate)
        connection = http.client.HTTPSConnection(server.host, server.port, timeout=60, context=context)
        try:
            connection.request("GET", server.prefix + ask.paths[0], headers=ask.fields)
            answer = connection.getresponse()
            if str(answer.status) != ask.status:
                raise Failed(f"{url}: {answer.status} instead of {ask.status}")
            ask.compare(answer.read())
        except (OSError, http.client.HTTPException) as why:
            raise Failed(f"{url}: {why}") from why
        finally:
            connection.close()

    def __call__(self, server, ask, clients, streams=1, seconds=None):
        """Asks for some seconds, or once on each connection; the seconds that it took, the requests, their p99."""
        with open(self.list, "w", encoding="ascii") as file:
            file.writelines(f"https://{server.address}{server.prefix}{path}\n" for path in ask.paths)
        if os.path.exists(self.log):
            os.remove(self.log)
        words = ["h2load", "--input-file", self.list, "--log-file", self.log, "--clients", clients, "--threads", min(THREADS, clients), "--max-concurrent-streams", streams]
        words += ["--duration", seconds] if seconds else ["--requests", clients]
        words += [] if self.is_h2 else ["--h1"]
        words += [word for name, value in ask.fields.items() for word in ("--header", f"{name}: {value}")]
        done = run([*self.network.in_load, *map(str, words)], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise Failed(f"h2load: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
        return self.read(server.name, ask, done.stdout, seconds)

    def read(self, name, ask, said, seconds):
        """Reads the output and the log of h2load; fails where a status or the count of bytes is not that of a right answer."""
        took = re.search(r"finished in ([\d.]+)(us|ms|s),", said)
        counts = re.search(r"requests: \d+ total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
        data = re.search(r"\((\d+)\) data", said)
        protocol = [re.search(rf"{what}: (.*)", said) for what in ("TLS Protocol", "Cipher", "Server Temp Key", "Application protocol")]
        if not (took and counts and data and all(protocol)):
            raise Failed(f"h2load said something else than expected: {said.strip().splitlines()[-1:]}")
        started, done, succeeded, *lost = map(int, counts.groups())
        if not done or succeeded != done or any(lost):
            raise Failed(f"h2load: {counts.group(0)}")
        statuses, micros = {}, []
        with open(self.log, encoding="ascii") as file:
            for line in file:
                _, status, duration = line.split()
                statuses[status] = statuses.get(status, 0) + 1
                micros.append(int(duration))
        if set(statuses) != {ask.status}:
            raise Failed(f"h2load: statuses {statuses} instead of {ask.status}")
        # At the end of the time, answers are under way on all connections.
        least, most = done * ask.length, (started if seconds else done) * ask.length
        if not least <= int(data.group(1)) <= most:
            raise Failed(f"h2load: WRONG BYTES: {data.group(1)} of them in {done} answers of {ask.length}")
        self.negotiated[name] = ", ".join(found.group(1).strip() for found in protocol)
        elapsed = float(took.group(1)) * UNITS_MS[took.group(2)] / 1e3
        return {"seconds": seconds or elapsed, "requests": done, "p99 ms": quantile(micros, 0.99) / 1e3, "bytes": done * ask.length}
