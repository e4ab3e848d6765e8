"""The servers that are compared, each started in a directory of its own, and what they cost the machine."""

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
from slowfile import end  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """What a measurement did not survive."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def build():
    """Builds millpond and its load; returns their paths."""
    built = subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "millpond", "--bench", "load", "--message-format", "json", "--quiet"],
                           stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {}
    for line in built.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            found[message["target"]["name"]] = message["executable"]
    return found["millpond"], found["load"]


class Server:
    """A running program that answers at `address`; the end of a `with` ends it."""

    name = "?"

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="millpond-bench-", dir=os.environ.get("BENCH_DIR"))
        os.chmod(self.dir, 0o755)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = None

    def run(self, command, **options):
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)

    def until_ready(self):
        for _ in range(400):
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit(f"{self.name} did not start; {' '.join(self.process.args)}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.process)
        shutil.rmtree(self.dir, ignore_errors=True)

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

    def anonymous_mb(self):
        total = 0
        for pid in self.tree():
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                total += int(re.search(r"RssAnon:\s+(\d+) kB", file.read()).group(1))
        return total / 1024

    def send_buffers_gib(self):
        """What the kernel holds to be sent by this server's connections."""
        lines = subprocess.run(["ss", "-tmnH", "state", "established", f"sport = :{self.port}"], capture_output=True, text=True, check=True).stdout
        return sum(int(held) for held in re.findall(r"skmem:\(.*?,w(\d+),", lines)) / (1 << 30)


class Upstream(Server):
    """`load upstream`; as a server of its own it is what asking directly costs."""

    name = "direct"

    def __init__(self, load, link=None):
        super().__init__()
        self.run([load, "upstream", *([str(link)] if link else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = json.loads(self.process.stdout.readline())["address"]
        self.port = int(self.address.rsplit(":", 1)[1])


class Millpond(Server):
    name = "millpond"

    def __init__(self, binary, upstream, *flags):
        super().__init__()
        command = [binary, "serve", "--listen", self.address, "--data", os.path.join(self.dir, "data"), "--upstream", f"http://{upstream.address}/", "--log", "error"]
        self.run([*command, *flags], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            sys.exit(f"millpond did not start: {line!r}")


class Origin(Server):
    """`millpond origin` on a directory, when it has read the film for its tag."""

    name = "origin"

    def __init__(self, binary, directory, film):
        super().__init__()
        self.run([binary, "origin", directory, "--listen", self.address, "--data", os.path.join(self.dir, "data"), "--log", "error"], stdout=subprocess.DEVNULL)
        self.until_ready()
        for _ in range(600):
            with socket.create_connection(("127.0.0.1", self.port)) as stream:
                stream.sendall(f"HEAD {film} HTTP/1.1\r\nHost: {self.address}\r\nConnection: close\r\n\r\n".encode())
                if b'etag: "' in stream.recv(4096).lower():
                    return
            time.sleep(0.05)
        sys.exit("the origin does not tell a strong tag")


class Nginx(Server):
    """Files beneath /stored/, all else from the upstream through its cache."""

    def __init__(self, upstream, root="/nonexistent", sendfile=True, slices=False):
        super().__init__()
        self.name = "nginx slice" if slices else "nginx" if sendfile else "nginx no sendfile"
        with open(os.path.join(HERE, "nginx.conf"), encoding="ascii") as file:
            template = file.read()
        slices = "slice 1m; proxy_set_header Range $slice_range; proxy_cache_key $uri$slice_range;" if slices else "proxy_cache_key $uri;"
        config = os.path.join(self.dir, "nginx.conf")
        with open(config, "w", encoding="ascii") as file:
            file.write(template.format(dir=self.dir, port=self.port, root=root, upstream=upstream.address, slice=slices, sendfile="on" if sendfile else "off"))
        self.run(["nginx", "-c", config, "-p", self.dir], stdout=subprocess.DEVNULL)
        self.until_ready()


class Varnish(Server):
    name = "Varnish"

    def __init__(self, upstream, storage="6G"):
        super().__init__()
        with open(os.path.join(HERE, "varnish.vcl"), encoding="ascii") as file:
            template = file.read()
        config = os.path.join(self.dir, "default.vcl")
        host, port = upstream.address.rsplit(":", 1)
        with open(config, "w", encoding="ascii") as file:
            file.write(template.format(host=host, port=port))
        parameters = {"thread_pool_min": 200, "thread_pool_max": 5000, "thread_pool_stack": "64k", "listen_depth": 4096, "send_timeout": 3600, "idle_send_timeout": 600, "timeout_idle": 600}
        flags = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
        self.run(["varnishd", "-F", "-j", "none", "-n", os.path.join(self.dir, "work"), "-a", self.address, "-f", config, "-s", f"malloc,{storage}", *flags], stdout=subprocess.DEVNULL)
        self.until_ready()


def reason(panic):
    """The first message among what a panic says."""
    lines = [line.strip() for line in panic.splitlines()]
    after = [index + 1 for index, line in enumerate(lines) if "panicked at" in line]
    return " ".join(lines[after[0]:after[0] + 2]) if after else panic.strip() or "it failed"


class Load:
    """Runs the load program and reads what it says."""

    def __init__(self, program):
        self.program = program

    def __call__(self, *words, timeout=300):
        done = subprocess.run([self.program, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise Failed(reason(done.stderr))
        return json.loads(done.stdout.splitlines()[-1])

    def begin(self, *words):
        """Starts a load and returns when it says that it has begun."""
        running = subprocess.Popen([self.program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
