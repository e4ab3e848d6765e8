"""Films, the players that play them, and the verdict by content: shared by the scripts that run real players.

A player is a function of a URL or path, the second to begin at (0: from the start), and a scratch directory; it
returns what it got: packet or frame digests, sha256, or True for a film that ended at the right time. The same
player's result on the local file is the measure. Exit codes prove nothing.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

PICTURES_A_SECOND = 25
PATIENCE = 90

PACKAGES = {
    "ffmpeg": "ffmpeg",
    "mpv": "mpv",
    "vlc": "vlc-bin vlc-plugin-base",
    "gstreamer": "gstreamer1.0-plugins-base-apps gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav",
    "curl": "curl",
    "wget": "wget",
    "aria2": "aria2",
    "chromium": "chromium chromium-driver",
}
PROGRAMS = {"vlc": "cvlc", "gstreamer": "gst-play-1.0", "aria2": "aria2c", "chromium": "chromedriver"}


class Failure(Exception):
    """A player did not do what it should."""


def run(command, **options):
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, **options)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"no end within {PATIENCE} s") from late


def make_films(directory, seconds, kilobits=2000, names=("end.mp4", "start.mp4", "film.mkv", "film.webm"), picture="testsrc2"):
    """The same film in several containers; made once, since nothing in it depends on the code."""
    films = {name: os.path.join(directory, name) for name in names}
    if all(os.path.exists(path) for path in films.values()):
        return films
    quiet = ["ffmpeg", "-v", "error", "-y"]
    part = os.path.join(directory, "part")
    os.makedirs(part, exist_ok=True)
    at = lambda name: os.path.join(part, name)  # noqa: E731
    pictures = f"{picture}=s=640x360:r={PICTURES_A_SECOND}:d={seconds},noise=alls=12:allf=t"
    rate = f"{kilobits}k"
    steps = {
        "end.mp4": ["-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", f"sine=d={seconds}", "-c:v", "libx264", "-preset", "ultrafast",
                    "-pix_fmt", "yuv420p", "-b:v", rate, "-maxrate", rate, "-bufsize", rate, "-g", "50", "-c:a", "aac"],
        "start.mp4": ["-i", at("end.mp4"), "-c", "copy", "-movflags", "+faststart"],
        "film.mkv": ["-i", at("end.mp4"), "-c", "copy"],
        "film.webm": ["-i", at("end.mp4"), "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", rate, "-g", "50",
                      "-c:a", "libvorbis"],
    }
    for name in ("end.mp4", *(name for name in names if name != "end.mp4")):
        subprocess.run([*quiet, *steps[name], at(name)], check=True, stdin=subprocess.DEVNULL)
    for name, path in films.items():
        os.replace(at(name), path)
    return films


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def ffmpeg(source, start, _scratch):
    where = ["-ss", str(start)] if start else []
    done = run(["ffmpeg", "-v", "error", *where, "-i", source, "-map", "0", "-c", "copy", "-f", "md5", "-"])
    return done.stdout.strip()


def mpv(source, start, scratch):
    out = os.path.join(scratch, "mpv")
    where = [f"--start={start}"] if start else []
    # With sound its encoder drops pictures whenever the line is slower than it, from any server.
    run(["mpv", "--no-config", "--really-quiet", "--no-audio", *where, source, "-o", out, "--of=framemd5", "--ovc=rawvideo"])
    if not os.path.exists(out):
        return None
    # Stream 0 is the pictures; the digest is the last column.
    with open(out, encoding="ascii") as frames:
        return [line.split(",")[-1].strip() for line in frames if line.startswith("0,")]


def vlc(source, start, scratch):
    out = os.path.join(scratch, "vlc.mkv")
    where = [f"--start-time={start}"] if start else []
    command = ["cvlc", "-q", "-I", "dummy", "--play-and-exit", *where, source, "--sout", f"#std{{access=file,mux=mkv,dst={out}}}"]
    if os.geteuid() == 0:
        # VLC does not run as root.
        os.chmod(scratch, 0o777)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    run(command, env={**os.environ, "HOME": scratch})
    done = run(["ffmpeg", "-v", "error", "-i", out, "-map", "0:v", "-c", "copy", "-f", "framemd5", "-"])
    return [line.split(",")[-1].strip() for line in done.stdout.decode().splitlines() if line.startswith("0,")]


def gstreamer(source, start, _scratch):
    where = ["-s", str(start)] if start else []
    done = run(["gst-play-1.0", "--no-interactive", *where, "--videosink=checksumsink sync=false",
                "--audiosink=fakesink sync=false", source])
    return re.findall(r"\b[0-9a-f]{40}\b", done.stdout.decode(errors="replace"))


class Browser:
    """Headless Chromium, driven over WebDriver. `page`: the path of some document of the film's own origin, so that
    nothing but the media element is tested."""

    def __init__(self, page="/-/healthz"):
        self.page = page
        self.port = 9515 + os.getpid() % 1000
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}", "--silent"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.profile = tempfile.mkdtemp(prefix="millpond-chromium-")
        self.session = None
        self.lock = threading.Lock()

    def call(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method,
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]

    def open(self):
        deadline = time.monotonic() + 20
        while True:
            try:
                self.call("GET", "/status")
                break
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline:
                    raise Failure("chromedriver does not answer") from None
                time.sleep(0.1)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--autoplay-policy=no-user-gesture-required", "--mute-audio", f"--user-data-dir={self.profile}"]
        options = {"args": flags}
        if shutil.which("chromium"):
            options["binary"] = shutil.which("chromium")
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "timeouts": {"script": PATIENCE * 1000}}}}
        self.session = self.call("POST", "/session", wanted)["sessionId"]

    def player(self, seconds):
        """The player of films that last so long; one plays at a time."""

        def play(source, start, _scratch):
            with self.lock:
                return True if os.path.exists(source) else self.play(source, start, seconds)

        return play

    def play(self, source, start, seconds):
        if self.session is None:
            self.open()
        self.call("POST", f"/session/{self.session}/url", {"url": urllib.parse.urljoin(source, self.page)})
        script = """
            const [url, seek, done] = arguments;
            const v = document.createElement('video');
            v.muted = true; v.preload = 'auto';
            let first = null;
            const tell = (what) => {
                const told = {what, time: v.currentTime, duration: v.duration, first,
                    error: v.error && v.error.message, frames: v.getVideoPlaybackQuality().totalVideoFrames};
                // A player that keeps its connections is a reader still.
                v.onerror = null; v.removeAttribute('src'); v.load(); v.remove();
                done(told);
            };
            v.onerror = () => tell('error');
            v.onended = () => tell('ended');
            const go = () => { v.playbackRate = 8; v.play().catch((e) => tell('play: ' + e)); };
            v.onloadedmetadata = () => { if (seek) { v.currentTime = seek; } else { first = 0; go(); } };
            v.onseeked = () => { if (first === null) { first = v.currentTime; go(); } };
            v.src = url; document.body.append(v);
        """
        told = self.call("POST", f"/session/{self.session}/execute/async", {"script": script, "args": [source, start]})
        wanted_frames = (seconds - start) * PICTURES_A_SECOND
        good = (told["what"] == "ended" and abs(told["time"] - told["duration"]) < 0.3 and abs(told["duration"] - seconds) < 1
                and abs(told["first"] - start) < 0.1 and told["frames"] >= wanted_frames * 0.8)
        if not good:
            raise Failure(json.dumps(told))
        return True

    def close(self):
        if self.session:
            try:
                self.call("DELETE", f"/session/{self.session}")
            except (urllib.error.URLError, OSError):
                pass
        self.driver.terminate()
        self.driver.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def short(value):
    text = f"{len(value)} frames" if isinstance(value, list) else str(value)
    return text[:90]


def agrees(got, wanted, sought):
    """Equal; after a seek, equal but for the first moments. `sought`: the seconds from there to the end; 0 without a seek.

    On a loaded machine VLC and GStreamer begin a seek now with, now without the pictures that they show while
    seeking, from a local file too: GStreamer was seen with none and with seven. So one of the two may have more at
    its start. From the place that was sought to the end there is every picture, and the right one.
    """
    if not (sought and isinstance(got, list) and isinstance(wanted, list)):
        return got == wanted
    moments, before = 3, PICTURES_A_SECOND
    common = min(len(got), len(wanted)) - moments
    complete = len(got) >= min(len(wanted), sought * PICTURES_A_SECOND) - moments
    return complete and abs(len(got) - len(wanted)) <= before and common > 0 and got[-common:] == wanted[-common:]
