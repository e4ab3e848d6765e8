//! A real radio: Icecast, fed by ffmpeg, relayed to mpv and curl.

use crate::support::{Pond, eventually, get};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Bytes a second of the radio.
const RATE: u64 = 16_000;

/// How long everybody listens: 30 s at full scale.
fn seconds() -> u64 {
    if std::env::var_os("POND_FULL_SCALE").is_some() {
        30
    } else {
        6
    }
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("started"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("bound").port()
}

fn icecast(dir: &Path, port: u16) -> Running {
    let config = format!(
        "<icecast><limits><clients>1000</clients><sources>2</sources></limits>
        <authentication><source-password>pond</source-password><admin-user>a</admin-user><admin-password>pond</admin-password></authentication>
        <hostname>localhost</hostname><listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
        <paths><basedir>/usr/share/icecast2</basedir><logdir>{dir}</logdir><webroot>/usr/share/icecast2/web</webroot><adminroot>/usr/share/icecast2/admin</adminroot></paths>
        <logging><accesslog>access.log</accesslog><errorlog>error.log</errorlog><loglevel>3</loglevel></logging>
        <security><chroot>0</chroot><changeowner><user>nobody</user><group>nogroup</group></changeowner></security></icecast>",
        dir = dir.display()
    );
    let file = dir.join("icecast.xml");
    std::fs::write(&file, config).expect("written");
    // As root it gives its rights away, and still has to write its log.
    let _ = Command::new("chmod").arg("777").arg(dir).status();
    let running = Running::start("icecast2", &["-c", &file.display().to_string()]);
    eventually("icecast to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    running
}

/// The listeners of the radio itself.
fn listeners(port: u16) -> u64 {
    let status = get(([127, 0, 0, 1], port).into(), "/status-json.xsl").json();
    status["icestats"]["source"]["listeners"].as_u64().unwrap_or_default()
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// The seconds of sound in a file.
fn duration_of(file: &Path) -> f64 {
    let file = file.display().to_string();
    let arguments = [
        "-v",
        "error",
        "-show_entries",
        "format=duration",
        "-of",
        "csv=p=0",
        &file,
    ];
    let probed = Command::new("ffprobe").args(arguments).output().expect("probed");
    String::from_utf8_lossy(&probed.stdout)
        .trim()
        .parse()
        .expect("a duration")
}

#[test]
fn icecast_is_relayed_to_mpv_and_curl() {
    let missing: Vec<&str> = ["icecast2", "ffmpeg", "mpv", "curl"]
        .into_iter()
        .filter(|program| !has(program))
        .collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "missing: {missing:?}");
        eprintln!("skipped, missing: {missing:?}");
        return;
    }
    let (dir, port) = (TempDir::new().expect("a directory"), free_port());
    let _icecast = icecast(dir.path(), port);
    let source = format!("icecast://source:pond@127.0.0.1:{port}/live");
    let _source = Running::start(
        "ffmpeg",
        &[
            "-v",
            "quiet",
            "-re",
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440:sample_rate=44100",
            "-ac",
            "2",
            "-c:a",
            "libmp3lame",
            "-b:a",
            "128k",
            "-content_type",
            "audio/mpeg",
            "-ice_name",
            "pond",
            "-f",
            "mp3",
            &source,
        ],
    );
    let radio = format!("http://127.0.0.1:{port}/");
    eventually("the radio to be on the air", || {
        get(([127, 0, 0, 1], port).into(), "/status-json.xsl")
            .text()
            .contains("pond")
    });
    let pond = Pond::start(&[("upstream", &radio)]);
    let (url, time) = (format!("http://{}/live", pond.address()), seconds());
    let (heard, taken) = (dir.path().join("heard.wav"), dir.path().join("taken.mp3"));
    let player = Running::start(
        "mpv",
        &[
            "--no-config",
            "--really-quiet",
            "--no-video",
            "--ao=pcm",
            &format!("--ao-pcm-file={}", heard.display()),
            &format!("--end={time}"),
            &url,
        ],
    );
    // Two more, with and without metadata.
    let limit = time.to_string();
    let with = Command::new("curl")
        .args([
            "-s",
            "--max-time",
            &limit,
            "-H",
            "Icy-MetaData: 1",
            "-o",
            "/dev/null",
            "-w",
            "%{size_download}",
            &url,
        ])
        .stdout(Stdio::piped())
        .spawn();
    let without = Command::new("curl")
        .args(["-s", "--max-time", &limit, "-o", &taken.display().to_string(), &url])
        .status();
    assert!(without.is_ok());
    // Listeners with metadata share one connection, those without another.
    assert!(listeners(port) <= 2, "{} connections to the radio", listeners(port));
    let with = with.expect("started").wait_with_output().expect("ended");
    let with: u64 = String::from_utf8_lossy(&with.stdout).trim().parse().expect("a number");
    let without = std::fs::metadata(&taken).expect("taken").len();
    for (what, bytes) in [("with metadata", with), ("without", without)] {
        let least = RATE * (time - 2);
        let most = RATE * (time + 8) + 128 * 1024;
        assert!((least..most).contains(&bytes), "{what}: {bytes} bytes in {time} s");
    }
    let mut player = player;
    assert!(player.0.wait().expect("ended").success(), "mpv failed");
    let (heard, decoded) = (duration_of(&heard), duration_of(&taken));
    assert!(heard + 1.0 >= time as f64, "mpv heard {heard} s of {time}");
    assert!(decoded + 2.0 >= time as f64, "{decoded} s decode of {time}");
    eprintln!(
        "mpv heard {heard:.1} s; curl took {with} bytes with metadata and {without} without, {decoded:.1} s of sound"
    );
}
