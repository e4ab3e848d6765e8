//! The program as a user meets it: its output, its mistakes, its end.

use crate::support::{Client, Ended, Film, Upstream, Valve, get};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// The real program on port 0.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Program {
    pub(crate) fn serve(dir: &Path, upstream: &Upstream, more: &[&str]) -> Self {
        Self::serve_and_die_at("", dir, upstream, more)
    }

    /// As `serve`, with a place at which the program dies (`src/store/fault.rs`).
    pub(crate) fn serve_and_die_at(place: &str, dir: &Path, upstream: &Upstream, more: &[&str]) -> Self {
        // The log level of a test's servers, for the search for a fault.
        let log = std::env::var("POND_TEST_LOG").unwrap_or_else(|_| "error".to_owned());
        let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--log", &log]);
        command
            .arg("--data")
            .arg(dir)
            .args(["--upstream", &upstream.url()])
            .args(more)
            .env("POND_FAULT", place);
        Self::started(&mut command)
    }

    /// As `serve`, with settings as environment variables.
    pub(crate) fn serve_with(variables: &[(&str, &str)], dir: &Path, upstream: &Upstream) -> Self {
        let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--log", "error"]);
        command.arg("--data").arg(dir).args(["--upstream", &upstream.url()]);
        command.envs(variables.iter().copied());
        Self::started(&mut command)
    }

    /// As `serve`, with its log of that level in a file.
    pub(crate) fn serve_with_log(level: &str, log: &Path, dir: &Path, upstream: &Upstream) -> Self {
        let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--log", level]);
        command.arg("--data").arg(dir).args(["--upstream", &upstream.url()]);
        // Readers of what is not coming are let go soon.
        command.env("MILLPOND_HOLD_LIMIT", "1s");
        command.stderr(std::fs::File::create(log).expect("a log"));
        Self::started(&mut command)
    }

    /// The program that a command has started, once it listens.
    fn started(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line
            .trim_end()
            .strip_prefix("listening on http://")
            .and_then(|address| address.parse().ok());
        let mut arguments = command.get_args().skip_while(|argument| *argument != "--data");
        if let (Some(address), Some(data)) = (address, arguments.nth(1)) {
            crate::support::started(address, Path::new(data));
        }
        Self {
            child,
            address: address.unwrap_or_else(|| panic!("not the line that was promised: {line:?}")),
        }
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    }

    /// Ends it with no chance to do anything.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(args).env_remove("MILLPOND_CONFIG");
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().expect("run")
}

/// The descriptors of a process.
fn descriptors(program: &Program) -> usize {
    let path = format!("/proc/{}/fd", program.child.id());
    std::fs::read_dir(path).expect("a running process").count()
}

#[test]
fn objects_without_readers_are_closed() {
    let dir = TempDir::new().expect("a directory");
    let upstream = Upstream::of(&Film::new(1000));
    // A quarter of the descriptors is for objects without a reader.
    let mut limited = Command::new("sh");
    limited
        .args([
            "-c",
            "ulimit -n 2000; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_millpond"),
        ])
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--log",
            "error",
            "--upstream",
            &upstream.url(),
            "--data",
        ])
        .arg(dir.path())
        .env_remove("MILLPOND_CONFIG");
    let program = Program::started(&mut limited);
    for number in 0..1500 {
        get(program.address, &format!("/{number}")).expect(200);
    }
    assert!(descriptors(&program) < 750, "{}", descriptors(&program));
}

/// The environment of a system without certificate authorities, like a container without `ca-certificates`.
const NO_AUTHORITIES: [(&str, &str); 2] = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")];

#[test]
fn a_system_without_certificate_authorities_serves_http_upstreams() {
    let dir = TempDir::new().expect("a directory");
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let program = Program::serve_with(&NO_AUTHORITIES, dir.path(), &upstream);
    film.check(0, &get(program.address, "/film").expect(200).body);
    let server = format!("http://{}", program.address);
    let mut stats = command(&["stats", "--server", &server]);
    let told = stats.envs(NO_AUTHORITIES).output().expect("run");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
}

#[test]
fn as_many_files_may_be_open_as_the_system_allows() {
    let dir = TempDir::new().expect("a directory");
    let upstream = Upstream::of(&Film::new(1000));
    let program = Program::serve(dir.path(), &upstream, &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.child.id())).expect("readable");
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let numbers: Vec<&str> = line.expect("told").split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1]);
}

#[test]
fn wrong_values_are_reported_all_at_once_and_exit_2() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("pond.toml");
    std::fs::write(&file, "hold_limit = \"long\"\nspeed = 11\n").expect("written");
    let output = command(&[
        "serve",
        "--listen",
        "here",
        "--quota",
        "lots",
        "--upstream",
        "gopher://h/",
    ])
    .args(["--config".as_ref(), file.as_os_str()])
    .env("MILLPOND_GRACE", "30")
    .output()
    .expect("run");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for key in [
        "--listen",
        "--quota",
        "--upstream",
        "MILLPOND_GRACE",
        "hold_limit",
        "speed",
    ] {
        assert!(text.contains(key), "{key} is missing in:\n{text}");
    }
    assert!(text.contains("50GiB") && text.contains("unit"), "{text}");
}

#[test]
fn variables_that_a_container_platform_sets_by_itself_are_told_and_ignored() {
    use std::os::unix::ffi::OsStrExt;
    let check = command(&["config", "check", "--data", "/d"])
        .env("MILLPOND_PORT", "tcp://10.96.0.7:8080")
        .env("MILLPOND_SERVICE_HOST", "10.96.0.7")
        .env("NOT_TEXT", std::ffi::OsStr::from_bytes(b"\xff"))
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(0), "{text}");
    for name in ["MILLPOND_PORT", "MILLPOND_SERVICE_HOST"] {
        assert!(text.contains(&format!("warning: {name}")), "{text}");
    }
}

#[test]
fn an_unknown_flag_or_a_missing_file_exits_2() {
    assert_eq!(run(&["serve", "--lissten", "x"]).status.code(), Some(2));
    let missing = run(&["serve", "--config", "/no/such/file"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/file"));
}

#[test]
fn config_check_and_show_tell_without_serving() {
    assert_eq!(
        run(&["config", "check", "--grace", "5s", "--data", "/d"]).status.code(),
        Some(0)
    );
    assert_eq!(run(&["config", "check", "--grace", "5"]).status.code(), Some(2));
    let show = run(&["config", "show"]);
    let text = String::from_utf8_lossy(&show.stdout).into_owned();
    assert!(text.contains("hold_limit") && text.contains("upstream"), "{text}");
}

#[test]
fn a_second_process_on_the_data_directory_is_refused() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let first = Program::serve(dir.path(), &upstream, &[]);
    let second = command(&["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(dir.path())
        .output()
        .expect("run");
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stdout.is_empty());
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("in use") && text.contains("--data"), "{text}");
    assert!(
        text.contains(&first.child.id().to_string()),
        "it names the process: {text}"
    );
    get(first.address, "/film").expect(200);
}

#[test]
fn a_taken_port_is_named() {
    let dir = TempDir::new().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = command(&["serve", "--listen", &address, "--data"])
        .arg(dir.path())
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&address) && text.contains("--listen"), "{text}");
}

#[test]
fn sigterm_finishes_short_answers_records_progress_and_exits_0() {
    let film = Film::new(3_000_000);
    let valve = Valve::new(1_000_000);
    let upstream = Upstream::limited(&film, valve.clone(), 0);
    let dir = TempDir::new().expect("a directory");
    let mut program = Program::serve(dir.path(), &upstream, &["--grace", "30s"]);
    let mut running = Client::open(program.address, "GET", "/film", &[("Range", "bytes=0-1999999")]);
    film.check(0, &running.read(500_000));
    program.terminate();
    // New connections are refused; the running answer gets what it was promised.
    crate::support::eventually("a closed door", || {
        std::net::TcpStream::connect(program.address).is_err()
    });
    valve.allow(1_000_000);
    let rest = running.read(1_500_000);
    film.check(500_000, &rest);
    drop(running);
    assert_eq!(program.child.wait().expect("ended").code(), Some(0));
    // Everything that was fetched is recorded.
    let again = Program::serve(dir.path(), &upstream, &[]);
    let list = get(again.address, "/-/api/v1/objects").json();
    assert_eq!(list["objects"][0]["present_bytes"], 2_000_000);
}

#[test]
fn sigterm_cuts_answers_that_outlast_the_grace_time() {
    let film = Film::new(3_000_000);
    let upstream = Upstream::limited(&film, Valve::new(1_000_000), 0);
    let dir = TempDir::new().expect("a directory");
    let mut program = Program::serve(dir.path(), &upstream, &["--grace", "1s"]);
    let running = Client::open(program.address, "GET", "/film", &[]);
    program.terminate();
    let cut = running.finish();
    assert_eq!(cut.ended, Ended::Cut);
    film.check(0, &cut.body);
    assert_eq!(program.child.wait().expect("ended").code(), Some(0));
}
