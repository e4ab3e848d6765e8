"""Real servers that list directories, and trees with names that go wrong: what mirrors are tested with.

    listings.py --write DIR     writes a page of each server, as tests/fixtures/listings has them
"""

import argparse
import hashlib
import os
import re
import socket
import sys
import tempfile
import threading
import unicodedata
import urllib.parse
import urllib.request

import servers

# Names that one server or another escapes, cuts, rounds or folds.
NAMES = [
    "a b.txt", "(c).txt", "d+e.txt", "100%.txt", "%41.txt", "#1.txt", "q?.txt", "a&b.txt", "a:b.txt", "'quote'.txt", "semi;colon,.txt",
    "<tag>.txt", "[x].txt", "t~.txt", "é.txt", unicodedata.normalize("NFD", "ö.txt"), "日本.txt", "x" * 100 + ".txt", ".hidden", "=@$!*.txt",
]


def amend(server, name, *changes, more=""):
    """Changes texts in a server's configuration, and adds to its end."""
    place = os.path.join(server.work, name)
    with open(place, encoding="utf-8") as file:
        text = file.read()
    for before, after in changes:
        text = text.replace(before, after)
    servers.write(place, text + more)


class NginxHtml(servers.Nginx):
    """nginx with `autoindex`."""

    form, format, precise = "", "nginx-html", False

    def command(self):
        command = super().command()
        amend(self, "nginx.conf", ("root " + self.root, f"autoindex on; {self.form} root {self.root}"))
        return command


class NginxJson(NginxHtml):
    """nginx with `autoindex_format json`."""

    form, format, precise = "autoindex_format json;", "nginx-json", True


class ApacheHtml(servers.Apache):
    """Apache with `mod_autoindex`, as a plain list of links with sort links."""

    modules, rules, format, precise = ("autoindex",), "Options Indexes\nIndexOptions FancyIndexing NameWidth=20", "apache-html", False

    def command(self):
        command = super().command()
        loaded = "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in self.modules)
        loaded += f"DavLockDB {self.work}/locks\n" * ("dav_fs" in self.modules)
        amend(self, "httpd.conf", ("ServerName localhost", loaded + "ServerName localhost"),
              ("Require all granted", self.rules + "\nRequire all granted"))
        return command


class ApacheTable(ApacheHtml):
    """The same as a table, with columns for sizes and times."""

    rules = "Options Indexes\nIndexOptions FancyIndexing HTMLTable IconsAreLinks FoldersFirst XHTML"


class ApachePlain(ApacheHtml):
    """The same without fancy indexing."""

    rules = "Options Indexes\nIndexOptions -FancyIndexing"


class ApacheDav(ApacheHtml):
    """Apache with `mod_dav`."""

    modules, rules, format, precise = ("dav", "dav_fs"), "Dav On", "webdav", True


class LighttpdHtml(servers.Lighttpd):
    """lighttpd with `mod_dirlisting`."""

    format, precise = "lighttpd-html", False

    def command(self):
        command = super().command()
        # Of a file whose type it does not know it tells no date and no tag.
        amend(self, "lighttpd.conf", ("mimetype.assign = (", 'mimetype.assign = ( "" => "application/octet-stream",'),
              more='server.modules += ( "mod_dirlisting" )\ndir-listing.activate = "enable"\n')
        return command


class CaddyJson(servers.Caddy):
    """Caddy with `file_server browse`."""

    format, precise = "caddy", True

    def command(self):
        command = super().command()
        amend(self, "Caddyfile", ("file_server", "file_server browse"))
        return command


class Python(servers.HttpServer):
    """Python's http.server."""

    format, precise = "python-html", False


class RcloneHtml(servers.Rclone):
    """rclone's own pages."""

    format, precise = "rclone-html", False


class RcloneDav(servers.Rclone):
    """rclone's WebDAV."""

    format, precise = "webdav", True

    def command(self):
        return ["rclone", "serve", "webdav", self.root, "--addr", f"127.0.0.1:{self.port}", "--dir-cache-time", "0s"]


class S3(servers.Moto):
    """A public bucket of moto's."""

    format, precise = "s3", True

    def fill(self):
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    key = urllib.parse.quote(os.path.relpath(path, self.root))
                    self.ask("/films/" + key, file.read(), Content_Type="application/octet-stream", x_amz_acl="public-read")


ALL = {
    "nginx-html": NginxHtml, "nginx-json": NginxJson, "apache-html": ApacheHtml, "apache-table": ApacheTable, "apache-plain": ApachePlain,
    "apache-dav": ApacheDav, "lighttpd-html": LighttpdHtml, "caddy-json": CaddyJson, "python-html": Python, "rclone-html": RcloneHtml,
    "rclone-dav": RcloneDav, "s3": S3,
}


class Counter:
    """A relay before a server that counts requests: no client here pipelines, so each begins a piece of its own."""

    BEGINS = re.compile(rb"(?:^|\n)([A-Z]+) [^ \r\n]+ HTTP/1\.[01]\r?\n")

    def __init__(self, port):
        self.port, self.methods, self.lock = port, [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                near.close()
                continue
            threading.Thread(target=self.pass_on, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(far, near, False), daemon=True).start()

    def pass_on(self, source, sink, counts):
        try:
            while piece := source.recv(65536):
                if counts:
                    with self.lock:
                        self.methods += [method.decode() for method in self.BEGINS.findall(piece)]
                sink.sendall(piece)
        except OSError:
            pass
        for side in (source, sink):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()

    def taken(self):
        """The requests since the last look."""
        with self.lock:
            methods, self.methods = self.methods, []
        return methods


def bytes_of(name, length):
    """Bytes that tell of which file they are."""
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (length // len(seed) + 1))[:length]


def tree(root, folders, files):
    """Makes so many collections, the root among them, and so many files in them, under names that go wrong."""
    here = [""]
    for number in range(1, folders):
        above = here[(number - 1) // 3]
        name = ["sub dir", "(old)", "ünder", "plus+plus", "50%", "a&b", "#hash"][number % 7] + f" {number}"
        here.append(os.path.join(above, name))
        os.makedirs(os.path.join(root, here[-1]), exist_ok=True)
    for number in range(files):
        folder = here[number % folders]
        name = NAMES[number % len(NAMES)] if number < len(NAMES) * folders and number // folders < 1 else f"file ({number}) é+{number}%.pdf"
        write_file(root, os.path.join(folder, name), 200 + number * 37)
    return here


def write_file(root, name, length):
    path = os.path.join(root, name)
    with open(path, "wb") as file:
        file.write(bytes_of(name, length))
    # Long ago: a file of this moment could still change within the second that its listing tells.
    os.utime(path, (1_600_000_000, 1_600_000_000))


def files_of(root):
    """The files beneath a directory: their bytes, by their names."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def page_of(server, name):
    """A page of the server, as a mirror asks for it."""
    headers, method, body = {"Accept": "application/json, text/html;q=0.5"}, "GET", None
    url = server.url + server.path("").replace("/films/", "/")
    if server.format == "webdav":
        headers, method = {"Depth": "1", "Content-Type": "application/xml"}, "PROPFIND"
        body = b'<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><D:getcontentlength/><D:getlastmodified/><D:getetag/></D:prop></D:propfind>'
    if server.format == "s3":
        url = server.url + "/films?list-type=2&delimiter=/&encoding-type=url&prefix=" + name
    else:
        url += name
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def main():
    parser = argparse.ArgumentParser(description="Writes a page of each server.")
    parser.add_argument("--write", required=True, metavar="DIR")
    arguments = parser.parse_args()
    os.makedirs(arguments.write, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        root = os.path.join(work, "root")
        os.makedirs(os.path.join(root, "odd", "sub dir"))
        os.makedirs(os.path.join(root, "odd", "empty"))
        write_file(root, "odd/sub dir/within.txt", 10)
        for number, name in enumerate(NAMES):
            write_file(root, os.path.join("odd", name), 1000 + number)
        for folder in ("odd/sub dir", "odd/empty", "odd", ""):
            os.utime(os.path.join(root, folder), (1_600_000_000, 1_600_000_000))
        for name, kind in ALL.items():
            server = kind(root, os.path.join(work, name)).ready()
            try:
                if name == "s3":
                    server.fill()
                for place, ending in (("odd/", "odd"), ("odd/empty/", "empty")):
                    page = page_of(server, place)
                    with open(os.path.join(arguments.write, f"{name}-{ending}"), "wb") as file:
                        file.write(page)
                    print(name, place, len(page))
            except OSError as why:
                sys.exit(f"{name}: {why}")
            finally:
                server.end()


if __name__ == "__main__":
    main()
