"""Real file servers as upstreams, each a child process on loopback with a configuration and a folder of its own.

Nothing is started as a service of the system, and nothing outlives the script. All but the object store serve one
directory of films; the object store is given them by PUT. Express and moto come from npm and PyPI, in the versions that
tests/fixtures/upstreams pins, and are put into ~/.cache/millpond-ci by `prepare`; the rest are packages of Debian.
"""

import http.server
import mimetypes
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import slowfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIXTURES = os.path.join(HERE, "tests", "fixtures", "upstreams")
# Fetched once for all checkouts on a machine.
TOOLS = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "millpond-ci", "upstreams")
MOTO = os.path.join(TOOLS, "venv", "bin", "moto_server")
EXPRESS = os.path.join(TOOLS, "node_modules", "express")
TYPES = {".mp4": "video/mp4", ".mkv": "video/x-matroska"}
PATIENCE = 180


def prepare():
    """Fetches what comes from npm and PyPI, where it is not here yet."""
    os.makedirs(TOOLS, exist_ok=True)
    if not os.path.exists(EXPRESS):
        for name in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(FIXTURES, name), TOOLS)
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--prefix", TOOLS], check=True)
    if not os.path.exists(MOTO):
        venv = os.path.join(TOOLS, "venv")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([os.path.join(venv, "bin", "pip"), "install", "-q", "-r", os.path.join(FIXTURES, "requirements.txt")], check=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


class Child:
    """A server that is told its port; it has started once it accepts a connection."""

    program, package = "", ""

    def __init__(self, root, work):
        self.root, self.work, self.port = root, work, free_port()
        os.makedirs(work, exist_ok=True)
        os.chmod(work, 0o777)
        self.log = open(os.path.join(work, "log"), "wb")  # noqa: SIM115
        environment = {**os.environ, "HOME": work, "XDG_CONFIG_HOME": work, "XDG_DATA_HOME": work, "XDG_CACHE_HOME": work}
        self.process = subprocess.Popen(self.command(), cwd=work, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, env={**environment, **self.environment()})

    @classmethod
    def here(cls):
        return shutil.which(cls.program) or os.path.exists(cls.program)

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def ready(self):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    with open(os.path.join(self.work, "log"), encoding="utf-8", errors="replace") as log:
                        sys.exit(f"{type(self).__name__} did not start: {log.read()[-2000:]}")
                time.sleep(0.05)

    def end(self):
        slowfile.end(self.process)
        self.log.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def put(self, path, film):
        """Lays a film at a path, in the place of the one that is there."""
        place = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        fresh = place + ".part"
        try:
            os.link(film, fresh)
        except OSError:
            shutil.copy2(film, fresh)
        os.replace(fresh, place)

    def path(self, path):
        """The path of the URL of what was put there."""
        return "/" + path


class Express(Child):
    """Express with `send`: weak tags of size and time, max-age=0."""

    program, package = EXPRESS, "nodejs npm, then scripts/upstreams --prepare"

    def command(self):
        self.port = None
        return ["node", os.path.join(FIXTURES, "express.js"), self.root]

    def environment(self):
        return {"NODE_PATH": os.path.join(TOOLS, "node_modules")}

    def ready(self):
        deadline = time.monotonic() + PATIENCE
        while self.port is None:
            with open(os.path.join(self.work, "log"), encoding="utf-8") as log:
                told = re.match(r"(\d+)\n", log.read())
            if told:
                self.port = int(told[1])
            elif self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit("Express did not start")
            else:
                time.sleep(0.05)
        return super().ready()


class HttpServer(Child):
    """Python's http.server: HTTP/1.0, a date, no ranges."""

    program, package = "python3", "python3"

    def command(self):
        return [sys.executable, "-m", "http.server", str(self.port), "--bind", "127.0.0.1", "--directory", self.root]


class Nginx(Child):
    """nginx with gzip on for every type."""

    program, package = "nginx", "nginx-light"

    def command(self):
        user = "user root;" if os.geteuid() == 0 else ""
        types = " ".join(f"{kind} {ending[1:]};" for ending, kind in TYPES.items())
        temporary = " ".join(f"{kind}_temp_path {self.work}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = write(os.path.join(self.work, "nginx.conf"), f"""
            {user} daemon off; worker_processes 1; pid {self.work}/pid; error_log {self.work}/errors;
            events {{ }}
            http {{
                types {{ {types} }} access_log off; {temporary}
                sendfile on; gzip on; gzip_types *; gzip_proxied any; gzip_http_version 1.0; gzip_vary on;
                server {{ listen 127.0.0.1:{self.port}; root {self.root}; }}
            }}""")
        return ["nginx", "-p", self.work, "-e", os.path.join(self.work, "errors"), "-c", config]


class Apache(Child):
    """Apache httpd with its own defaults."""

    program, package = "apache2", "apache2-bin"

    def command(self):
        user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
        modules = "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in ("mpm_event", "authz_core", "mime"))
        types = "".join(f"AddType {kind} {ending}\n" for ending, kind in TYPES.items())
        write(os.path.join(self.work, "types"), "")
        config = write(os.path.join(self.work, "httpd.conf"), f"""
ServerName localhost
Listen 127.0.0.1:{self.port}
{modules}{user}PidFile {self.work}/pid
DefaultRuntimeDir {self.work}
ErrorLog {self.work}/errors
TypesConfig {self.work}/types
{types}DocumentRoot {self.root}
<Directory {self.root}>
Require all granted
</Directory>
""")
        return ["apache2", "-DFOREGROUND", "-d", self.work, "-f", config]


class Lighttpd(Child):
    """lighttpd with its own defaults, but for its memory of what a file was a second ago."""

    program, package = "lighttpd", "lighttpd"

    def command(self):
        types = ", ".join(f'"{ending}" => "{kind}"' for ending, kind in TYPES.items())
        config = write(os.path.join(self.work, "lighttpd.conf"), f"""
server.bind = "127.0.0.1"
server.port = {self.port}
server.document-root = "{self.root}"
server.errorlog = "{self.work}/errors"
server.stat-cache-engine = "disable"
mimetype.assign = ( {types} )
""")
        return ["lighttpd", "-D", "-f", config]


class Caddy(Child):
    """Caddy's file server with its own defaults."""

    program, package = "caddy", "caddy"

    def command(self):
        config = write(os.path.join(self.work, "Caddyfile"), f"""{{
	admin off
	auto_https off
}}
http://127.0.0.1:{self.port} {{
	bind 127.0.0.1
	root * {self.root}
	file_server
}}
""")
        return ["caddy", "run", "--config", config, "--adapter", "caddyfile"]


class Rclone(Child):
    """`rclone serve http`: a date and no tag; its memory of directories is turned off."""

    program, package = "rclone", "rclone"

    def command(self):
        return ["rclone", "serve", "http", self.root, "--addr", f"127.0.0.1:{self.port}", "--dir-cache-time", "0s"]


class Moto(Child):
    """An object store: S3 as moto speaks it, with a strong tag, no If-Range, and a connection for each request."""

    program, package = MOTO, "python3-venv, then scripts/upstreams --prepare"

    def command(self):
        return [MOTO, "-H", "127.0.0.1", "-p", str(self.port)]

    def environment(self):
        # Films go to its disk, not to its memory.
        return {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": "65536"}

    def ready(self):
        super().ready()
        self.ask("/films")
        return self

    def ask(self, path, body=b"", **fields):
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        request = urllib.request.Request(self.url + path, data=body, method="PUT", headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            answer.read()

    def put(self, path, film):
        with open(film, "rb") as file:
            self.ask("/films/" + path, file.read(), Content_Type=TYPES[os.path.splitext(path)[1]], x_amz_acl="public-read")

    def path(self, path):
        return "/films/" + path


class Scripted(Child):
    """Servers that only say what applications say: one process of this file for each manner of `MANNERS`."""

    program, package, manner = "python3", "python3", ""

    def command(self):
        return [sys.executable, os.path.abspath(__file__), self.manner, self.root, str(self.port)]


class Handler(http.server.BaseHTTPRequestHandler):
    """A directory in a manner: which fields a reply has, whether ranges are served, and whether the length is told."""

    protocol_version = "HTTP/1.1"
    fields, ranges, length = (), True, True

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        path = os.path.join(self.server.root, self.path.lstrip("/"))
        if not os.path.isfile(path):
            self.send_error(404)
            return
        size = os.path.getsize(path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.ranges else None
        start, end = (int(asked[1]), min(int(asked[2] or size - 1) + 1, size)) if asked else (0, size)
        if start >= end:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if self.length:
            self.send_header("Content-Length", str(end - start))
        elif with_body:
            self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Content-Type", TYPES.get(os.path.splitext(path)[1]) or mimetypes.guess_type(path)[0])
        for name, value in self.fields:
            self.send_header(name, value(path) if callable(value) else value)
        self.end_headers()
        if with_body:
            self.send_body(path, start, end)

    def send_body(self, path, start, end):
        with open(path, "rb") as file:
            file.seek(start)
            try:
                while piece := file.read(min(64 * 1024, end - file.tell())):
                    self.wfile.write(piece if self.length else b"%x\r\n%s\r\n" % (len(piece), piece))
                if not self.length:
                    self.wfile.write(b"0\r\n\r\n")
            except OSError:
                self.close_connection = True

    def log_message(self, *_):
        pass


def weak_tag(path):
    status = os.stat(path)
    return f'W/"{status.st_size:x}-{status.st_mtime_ns:x}"'


class NextcloudLike(Handler):
    """Nextcloud's previews and players: no validator, and nothing may be stored."""

    fields = (("Accept-Ranges", "bytes"), ("Cache-Control", "no-cache, no-store, must-revalidate"), ("Pragma", "no-cache"),
              ("Expires", "Thu, 19 Nov 1981 08:52:00 GMT"), ("Content-Disposition", 'inline; filename="film"'),
              ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"))


class JellyfinLike(Handler):
    """Jellyfin and Xtream: ranges, no validator, and no word of freshness."""

    fields = (("Accept-Ranges", "bytes"),)


class XtreamLike(Handler):
    """Xtream Codes: the like, and an Accept-Ranges that is no unit."""

    fields = (("Accept-Ranges", lambda path: f"0-{os.path.getsize(path)}"),)


class UndatedLike(Handler):
    """Applications that hash what they send: a weak tag without a date, and max-age=0."""

    fields = (("Accept-Ranges", "bytes"), ("ETag", weak_tag), ("Cache-Control", "public, max-age=0"))


class ChunkedLike(Handler):
    """Scripts that promise ranges and have none: no length, chunks, Accept-Ranges all the same."""

    ranges, length = False, False
    fields = (("Accept-Ranges", "bytes"), ("Cache-Control", "no-cache"))


MANNERS = {"nextcloud": NextcloudLike, "jellyfin": JellyfinLike, "xtream": XtreamLike, "undated": UndatedLike, "chunked": ChunkedLike}


def scripted(manner):
    return type(MANNERS[manner].__name__, (Scripted,), {"manner": manner, "__doc__": MANNERS[manner].__doc__})


SERVERS = {
    "express": Express, "http.server": HttpServer, "nginx": Nginx, "apache": Apache, "lighttpd": Lighttpd, "caddy": Caddy,
    "rclone": Rclone, "s3": Moto, **{manner: scripted(manner) for manner in MANNERS},
}


class Door(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass  # A player that hangs up is no error.


def main():
    manner, root, port = sys.argv[1:]
    door = Door(("127.0.0.1", int(port)), MANNERS[manner])
    door.root = root
    door.serve_forever()


if __name__ == "__main__":
    main()
