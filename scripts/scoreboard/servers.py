"""The servers that are compared, each started in a directory of its own, and what they cost the machine."""

import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from processes import launch, run  # noqa: E402
from slowfile import end  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The end of one measurement: a program failed, or an answer was wrong."""


class NotStarted(Failed):
    """A program that ended before it answered, with the first line of what it said."""


def build():
    """Builds millpond and its load; returns their paths."""
    built = subprocess.run(["cargo", "build", "--profile", "dist", "--features", "aws-lc,jemalloc", "--locked", "--bin", "millpond", "--bench", "load", "--message-format", "json", "--quiet"],
                           stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {}
    for line in built.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            found[message["target"]["name"]] = message["executable"]
    return found["millpond"], found["load"]


class Server:
    """A program that answers at `address` within a `with`, which starts and ends it.

    Each has a directory of its own, which a start after `stop` finds as it was left. `prefix` stands before the paths
    of stored objects.
    """

    name = "?"
    prefix = ""
    # Whether the program prints where it listens, and ends with its input.
    talks = False

    def __init__(self, host):
        self.dir = tempfile.mkdtemp()
        self.host = host
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.port = probe.getsockname()[1]
        self.address = f"{host}:{self.port}"
        self.process = None

    def command(self):
        raise NotImplementedError

    def launch(self):
        """Starts the program; it may not answer yet."""
        with open(os.path.join(self.dir, "stderr"), "w", encoding="utf-8") as complaints:
            streams = subprocess.PIPE if self.talks else subprocess.DEVNULL
            self.process = launch(self.command(), stdin=streams, stdout=streams, stderr=complaints, text=True)

    def until_ready(self):
        for _ in range(400):
            if self.process.poll() is not None:
                break
            if self.is_listening():
                return
            time.sleep(0.05)
        raise self.not_started()

    def is_listening(self):
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def not_started(self):
        with open(os.path.join(self.dir, "stderr"), encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        return NotStarted(f"{self.name} did not start: {lines[0] if lines else ' '.join(self.command())}")

    def first_answer_ms(self, path):
        """Starts the program; the time from its `exec` to the head of the first 200."""
        # `launch` returns when the program has been executed.
        self.launch()
        begun = time.perf_counter()
        request = f"GET {self.prefix}{path} HTTP/1.1\r\nHost: {self.address}\r\nConnection: close\r\n\r\n".encode()
        while time.perf_counter() < begun + 20:
            if self.process.poll() is not None:
                raise self.not_started()
            try:
                with socket.create_connection((self.host, self.port), 5) as stream:
                    stream.sendall(request)
                    if stream.recv(4096).startswith(b"HTTP/1.1 200"):
                        return (time.perf_counter() - begun) * 1e3
            except OSError:
                pass
            time.sleep(0.0005)
        raise Failed(f"{self.name} has not answered with 200 for 20 s")

    def __enter__(self):
        try:
            self.launch()
            self.until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def stop(self):
        if self.process:
            end(self.process)
            # Closes its standard input and output.
            self.process.__exit__(None, None, None)
            self.process = None

    def tree(self):
        """This process and those that it started."""
        found, rest = [], [self.process.pid]
        while rest:
            pid = rest.pop()
            found.append(pid)
            try:
                with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                    rest += [int(child) for child in file.read().split()]
            except OSError:
                pass
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.tree():
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def memory_mb(self, field):
        """A field of /proc/PID/status, summed over the processes; memory that they share is counted for each."""
        total = 0
        for pid in self.tree():
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                total += int(re.search(rf"{field}:\s+(\d+) kB", file.read()).group(1))
        return total / 1024

    def anonymous_mb(self):
        return self.memory_mb("RssAnon")

    def resident_mb(self):
        return self.memory_mb("VmRSS")

    def send_buffers_gib(self):
        """Bytes in the send buffers of this server's connections."""
        lines = subprocess.run(["ss", "-tmnH", "state", "established", f"sport = :{self.port}"], capture_output=True, text=True, check=True).stdout
        return sum(int(held) for held in re.findall(r"skmem:\(.*?,w(\d+),", lines)) / (1 << 30)


class Upstream(Server):
    """`load upstream`; as a server of its own it is what asking directly costs."""

    name = "direct"
    talks = True

    def __init__(self, network, load, link=None):
        # The program takes a free port itself: this script cannot look for one in another namespace.
        super().__init__(network.server_address)
        self.words = [*network.in_upstream, load, "upstream", network.upstream_address, *([str(link)] if link else [])]

    def command(self):
        return self.words

    def until_ready(self):
        line = self.process.stdout.readline()
        if not line:
            raise self.not_started()
        self.address = json.loads(line)["address"]
        self.host, port = self.address.rsplit(":", 1)
        self.port = int(port)


@functools.cache
def bounds(program):
    """The flags by which a build lets one address have all connections, as all clients of a bench do; an older build has no such bound."""
    told = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, check=False).stdout
    has = "--connections-per-client" in told
    return ["--connections", "10000", "--connections-per-client", "10000"] if has else []


class Millpond(Server):
    """A build of millpond with the words of its command line that say what it serves."""

    talks = True

    def __init__(self, network, name, words):
        super().__init__(network.server_address)
        self.name = name
        self.words = words

    def command(self):
        mine = ["--listen", self.address, "--data", os.path.join(self.dir, "data"), "--log", "error"]
        return [*self.words, *mine, *bounds(self.words[0])]

    def until_ready(self):
        if not self.process.stdout.readline().startswith("listening on "):
            raise self.not_started()


class Origin(Millpond):
    """`millpond origin` on a directory; it is ready when it has read the film for its tag."""

    def __init__(self, network, name, binary, directory, film):
        super().__init__(network, name, [binary, "origin", directory])
        self.film = film

    def until_ready(self):
        super().until_ready()
        for _ in range(1200):
            with socket.create_connection((self.host, self.port)) as stream:
                stream.sendall(f"HEAD {self.film} HTTP/1.1\r\nHost: {self.address}\r\nConnection: close\r\n\r\n".encode())
                if b'etag: "' in stream.recv(4096).lower():
                    return
            time.sleep(0.05)
        raise NotStarted(f"{self.name} does not tell a strong tag of {self.film} in a minute")


class Nginx(Server):
    """Files of `root` beneath /stored/, all else from the upstream through its cache; HTTPS where there is a certificate."""

    def __init__(self, network, upstream, root=None, sendfile=True, slices=False, certificate=None):
        super().__init__(network.server_address)
        self.name = "nginx slice" if slices else "nginx" if sendfile else "nginx no sendfile"
        self.prefix = "/stored" if root else ""
        with open(os.path.join(HERE, "nginx.conf"), encoding="ascii") as file:
            template = file.read()
        settings = {
            "dir": self.dir,
            "address": self.address,
            "root": root or "/nonexistent",
            "upstream": upstream.address,
            "slice": "slice 1m; proxy_set_header Range $slice_range; proxy_cache_key $uri$slice_range;" if slices else "proxy_cache_key $uri;",
            "sendfile": "on" if sendfile else "off",
            "protocols": "ssl http2" if certificate else "",
            "certificate": f"ssl_certificate {certificate.certificate}; ssl_certificate_key {certificate.key};" if certificate else "",
        }
        self.config = os.path.join(self.dir, "nginx.conf")
        with open(self.config, "w", encoding="ascii") as file:
            file.write(template.format(**settings))

    def command(self):
        return ["nginx", "-c", self.config, "-p", self.dir]


class Varnish(Server):
    name = "Varnish"

    def __init__(self, network, upstream, storage="6G"):
        super().__init__(network.server_address)
        self.storage = storage
        with open(os.path.join(HERE, "varnish.vcl"), encoding="ascii") as file:
            template = file.read()
        self.config = os.path.join(self.dir, "default.vcl")
        host, port = upstream.address.rsplit(":", 1)
        with open(self.config, "w", encoding="ascii") as file:
            file.write(template.format(host=host, port=port))

    def command(self):
        parameters = {"thread_pool_min": 200, "thread_pool_max": 5000, "thread_pool_stack": "64k", "listen_depth": 4096, "send_timeout": 3600, "idle_send_timeout": 600, "timeout_idle": 600}
        flags = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
        work = os.path.join(self.dir, "work")
        return ["varnishd", "-F", "-j", "none", "-n", work, "-a", self.address, "-f", self.config, "-s", f"malloc,{self.storage}", *flags]


def reason(panic):
    """The first message among what a panic says."""
    lines = [line.strip() for line in panic.split("stack backtrace:")[0].splitlines()]
    after = [index + 1 for index, line in enumerate(lines) if "panicked at" in line]
    return " ".join(lines[after[0]:after[0] + 2]) if after else panic.strip() or "it failed"


class Load:
    """Runs the load program in the load's namespace and reads what it says."""

    def __init__(self, network, program):
        self.program = program
        self.before = [*network.in_load, program]

    def __call__(self, *words, timeout=300):
        done = run([*self.before, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise Failed(reason(done.stderr))
        return json.loads(done.stdout.splitlines()[-1])

    def begin(self, *words):
        """Starts a load and returns when it says that it has begun."""
        running = launch([*self.before, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = running.stdout.readline()
        if not line:
            raise Failed(reason(running.stderr.read()))
        return running

    @staticmethod
    def end(running):
        out, err = running.communicate()
        if running.returncode != 0:
            raise Failed(reason(err))
        return json.loads(out.splitlines()[-1])
