//! The commands that ask a running server, as a user types them: what they print, what they change, how they end.

use crate::cli::Program;
use crate::support::{Film, Upstream, data_of, eventually, get};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// An id that no test's object has.
const NOBODY: &str = "ffffffffffffffffffffffffffffffff";

/// The output of a command and its exit code.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// The lines of JSON that it printed.
    fn json(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(args);
    for variable in ["MILLPOND_CONFIG", "MILLPOND_SERVER", "MILLPOND_LISTEN", "MILLPOND_DATA"] {
        command.env_remove(variable);
    }
    command
}

fn said(command: &mut Command) -> Said {
    let output = command.output().expect("run");
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Runs the command against this server, by its control socket.
fn ask(program: &Program, args: &[&str]) -> Said {
    let data = data_of(program.address).display().to_string();
    said(command(args).args(["--server", &data]))
}

/// Plays the film to its end, and waits until all of it is stored.
fn watch(program: &Program, film: &Film, path: &str) {
    film.check(0, &get(program.address, path).expect(200).body);
    eventually("all objects are complete", || {
        let list = get(program.address, "/-/api/v1/objects").json();
        let objects = list["objects"].as_array().expect("a list");
        objects.iter().all(|object| object["state"] == "complete")
    });
}

/// Stops the server in good order.
fn stop(mut program: Program) {
    program.terminate();
    assert_eq!(program.child.wait().expect("ended").code(), Some(0));
}

/// The URLs that `ls` lists.
fn urls(program: &Program) -> Vec<String> {
    let list = ask(program, &["ls", "--json"]).expect(0).json();
    let urls = list
        .iter()
        .map(|object| object["url"].as_str().expect("a URL").to_owned());
    urls.collect()
}

/// The only body in the data directory.
fn body_file(dir: &Path) -> PathBuf {
    let entries = |dir: &Path| {
        let entries = std::fs::read_dir(dir).expect("listed");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let shards = entries(&dir.join("objects"));
    let mut bodies: Vec<PathBuf> = shards
        .iter()
        .filter(|path| path.is_dir())
        .flat_map(|shard| entries(shard))
        .filter(|path| path.extension().is_some_and(|extension| extension == "body"))
        .collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    bodies.remove(0)
}

fn flip_byte(file: &Path, at: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[!byte[0]], at).expect("written");
}

#[test]
fn a_complete_film_is_listed() {
    let film = Film::new(300_000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    let nothing = ask(&program, &["ls"]).expect(0);
    assert!(
        nothing.out.is_empty() && nothing.err.contains("nothing is stored"),
        "{nothing:?}"
    );

    watch(&program, &film, "/film");
    let url = format!("{}film", upstream.url());
    for args in [
        &["ls"] as &[&str],
        &["ls", "--long"],
        &["ls", "--prefix", &upstream.url()],
    ] {
        let list = ask(&program, args).expect(0);
        let line = list.out.lines().find(|line| line.ends_with(&url)).expect("a line");
        assert!(line.contains("complete") && line.contains("100%"), "{list:?}");
    }
    let json = ask(&program, &["ls", "--json"]).expect(0).json();
    assert_eq!(json.len(), 1);
    assert_eq!(json[0]["url"], url);
    assert_eq!(json[0]["present_bytes"], 300_000);

    let elsewhere = ask(&program, &["ls", "--prefix", "https://example.org"]).expect(0);
    assert!(elsewhere.out.is_empty(), "{elsewhere:?}");
}

#[test]
fn an_object_is_shown_by_its_id_its_url_and_the_url_it_is_served_at() {
    let film = Film::new(300_000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    watch(&program, &film, "/film");
    let url = format!("{}film", upstream.url());
    let host = upstream.url().replace("http://", "");
    let served = format!("http://{}/http/{host}film", program.address);

    let by_url = ask(&program, &["show", &url, "--json"]).expect(0).json();
    let id = by_url[0]["id"].as_str().expect("an id").to_owned();
    for name in [&id, &url, &served] {
        let json = ask(&program, &["show", name, "--json"]).expect(0).json();
        assert_eq!(json[0]["id"], id.as_str(), "{name}");
        let text = ask(&program, &["show", name]).expect(0).out;
        for part in [&id, &url, &format!("[{}]", "#".repeat(60)), "0-299999"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}

#[test]
fn a_url_that_only_the_server_can_resolve_is_misuse() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    watch(&program, &film, "/film");
    let served = format!("http://{}/film", program.address);
    let refused = ask(&program, &["rm", &format!("{}film", upstream.url()), &served]).expect(2);
    assert!(refused.err.contains("upstream URL is needed"), "{refused:?}");
    // A mistake in one name, and no object is removed.
    assert_eq!(urls(&program).len(), 1);
    ask(&program, &["show", "film"]).expect(2);
    ask(&program, &["rm"]).expect(2);
    ask(&program, &["rm", "--prefix", ""]).expect(2);
}

#[test]
fn a_removed_film_is_asked_of_the_upstream_again() {
    let film = Film::new(300_000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    let url = format!("{}film", upstream.url());
    watch(&program, &film, "/film");
    let once = upstream.requests().len();
    watch(&program, &film, "/film");
    assert_eq!(upstream.requests().len(), once, "the second time it was here");

    let removed = ask(&program, &["rm", &url]).expect(0);
    assert!(removed.out.contains(&url), "{removed:?}");
    assert!(urls(&program).is_empty());
    watch(&program, &film, "/film");
    assert!(upstream.requests().len() > once);

    let json = ask(&program, &["rm", &url, "--json"]).expect(0).json();
    assert_eq!(json[0]["removed"], 1);
}

#[test]
fn rm_by_prefix_removes_only_urls_under_it() {
    let film = Film::new(100_000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    for path in ["/a/1", "/a/2", "/ab/1"] {
        watch(&program, &film, path);
    }
    let prefix = format!("{}a/", upstream.url());
    let removed = ask(&program, &["rm", "--prefix", &prefix]).expect(0);
    assert!(removed.out.contains("removed 2 objects"), "{removed:?}");
    assert_eq!(urls(&program), [format!("{}ab/1", upstream.url())]);
    // A prefix that matches no object any more is no failure.
    let again = ask(&program, &["rm", "--prefix", &prefix]).expect(0);
    assert!(again.out.contains("removed 0 objects"), "{again:?}");
}

#[test]
fn rm_takes_a_tag_and_can_be_soft() {
    let upstream = Upstream::scripted(|_, conn| {
        let fields = [
            ("Cache-Control", "max-age=1000".to_owned()),
            ("Surrogate-Key", "one two".to_owned()),
            ("Content-Length", "2".to_owned()),
        ];
        conn.head(200, &fields);
        conn.raw(b"ok");
    });
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    for name in ["/a", "/b"] {
        get(program.address, name).expect(200);
    }
    eventually("both are stored", || urls(&program).len() == 2);
    let expired = ask(&program, &["rm", "--soft", "--tag", "two"]).expect(0);
    assert_eq!(expired.out, "expired 2 objects\n");
    let url = format!("{}a", upstream.url());
    let expired = ask(&program, &["rm", "--soft", &url]).expect(0);
    assert_eq!(expired.out, format!("expired {url}\n"));
    assert_eq!(urls(&program).len(), 2);
    let removed = ask(&program, &["rm", "--tag", "one"]).expect(0);
    assert!(removed.out.starts_with("removed 2 objects, "), "{removed:?}");
    assert!(urls(&program).is_empty());
    ask(&program, &["rm", "--tag", ""]).expect(2);
    ask(&program, &["rm", "--tag", "one", &url]).expect(2);
}

#[test]
fn a_pin_outlives_the_server_and_an_unpin_ends_it() {
    let film = Film::new(300_000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let url = format!("{}film", upstream.url());
    let program = Program::serve(dir.path(), &upstream, &[]);
    watch(&program, &film, "/film");
    let pinned = |program: &Program| {
        let json = ask(program, &["show", &url, "--json"]).expect(0).json();
        json[0]["pinned"].as_bool().expect("a truth")
    };
    assert!(!pinned(&program));
    ask(&program, &["pin", &url]).expect(0);
    assert!(pinned(&program));
    let list = ask(&program, &["ls"]).expect(0);
    assert!(list.out.contains(" pin "), "{list:?}");
    stop(program);

    let again = Program::serve(dir.path(), &upstream, &[]);
    assert!(pinned(&again));
    let answer = ask(&again, &["unpin", &url, "--json"]).expect(0).json();
    assert_eq!(answer[0]["pinned"], false);
    assert!(!pinned(&again));
}

#[test]
fn an_unknown_object_is_named_and_the_others_are_still_done() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    watch(&program, &film, "/film");
    let url = format!("{}film", upstream.url());
    let unknown = format!("{}other", upstream.url());
    for name in [NOBODY, &unknown] {
        for verb in ["show", "rm", "pin", "unpin", "verify"] {
            let said = ask(&program, &[verb, name]).expect(1);
            assert!(
                said.err.contains(name) && said.err.contains("not stored"),
                "{verb}: {said:?}"
            );
        }
    }
    let pin = ask(&program, &["pin", NOBODY, &unknown, &url]).expect(1);
    assert!(pin.out.contains(&url), "{pin:?}");
    assert!(pin.err.contains(NOBODY) && pin.err.contains(&unknown), "{pin:?}");
    assert_eq!(ask(&program, &["show", &url, "--json"]).json()[0]["pinned"], true);
}

#[test]
fn a_dead_server_is_named_with_the_mend() {
    // A reserved port: no other test gets it from the system.
    let address = "127.0.0.1:1";
    for args in [&["ls"] as &[&str], &["stats"], &["verify"], &["rm", NOBODY, NOBODY]] {
        let said = said(command(args).args(["--server", address])).expect(1);
        assert!(said.err.contains(address) && said.err.contains("--server"), "{said:?}");
        assert_eq!(said.err.lines().count(), 1, "it is said once: {said:?}");
    }
    let misnamed = said(command(&["ls"]).args(["--server", "ftp://h/"])).expect(2);
    assert!(misnamed.err.contains("ftp://h/"), "{misnamed:?}");
}

#[test]
fn a_server_that_is_not_millpond_is_reported_as_such() {
    let stranger = Upstream::scripted(|_, conn| {
        conn.head(404, &[("Content-Length", "0".to_owned())]);
    });
    let said = said(command(&["show", NOBODY]).args(["--server", &stranger.url()])).expect(1);
    assert!(said.err.contains("API") && !said.err.contains("not stored"), "{said:?}");
}

#[test]
fn the_server_that_the_environment_names_is_asked() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    let address = program.address.to_string();
    said(command(&["stats"]).env("MILLPOND_SERVER", &address)).expect(0);
    said(command(&["stats"]).env("MILLPOND_LISTEN", &address)).expect(0);
    // The same shell can still start a server: the variable is no setting that it does not know.
    said(command(&["config", "check", "--data", "/d"]).env("MILLPOND_SERVER", &address)).expect(0);
}

#[test]
fn stats_count_the_objects() {
    let film = Film::new(300_000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    for path in ["/1", "/2"] {
        watch(&program, &film, path);
    }
    let stats = ask(&program, &["stats"]).expect(0);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert!(
        stats.out.lines().any(|line| words(line) == ["objects", "2"]),
        "{stats:?}"
    );
    let json = ask(&program, &["stats", "--json"]).expect(0).json();
    assert_eq!(json[0]["objects"], 2);
    assert_eq!(json[0]["present_bytes"], 600_000);
}

#[test]
fn a_reader_that_is_gone_is_no_panic() {
    let film = Film::new(1000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let program = Program::serve(dir.path(), &upstream, &[]);
    watch(&program, &film, "/film");
    let mut child = command(&["ls", "--server", &program.address.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_healthy_store_verifies() {
    let film = Film::new(3_000_000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let program = Program::serve(dir.path(), &upstream, &[]);
    watch(&program, &film, "/film");
    let url = format!("{}film", upstream.url());
    for args in [&["verify"] as &[&str], &["verify", &url], &["verify", "--repair"]] {
        let verified = ask(&program, args).expect(0);
        assert!(verified.out.contains("no bad blocks"), "{args:?}: {verified:?}");
    }
    let json = ask(&program, &["verify", "--json"]).expect(0).json();
    assert_eq!(json.last().expect("a summary")["verified"]["bad_blocks"], 0);

    // While a server owns the directory nobody else opens it.
    let refused = said(&mut command(&["verify", "--data", data])).expect(1);
    assert!(refused.err.contains("in use"), "{refused:?}");
    stop(program);
    let verified = said(&mut command(&["verify", "--data", data])).expect(0);
    assert!(verified.out.contains("no bad blocks"), "{verified:?}");
    said(&mut command(&["verify", "--data", "/no/such/directory"])).expect(1);
}

#[test]
fn a_flipped_byte_is_found_named_and_mended() {
    const FLIPPED: u64 = 1_234_567;
    let film = Film::new(3_000_000);
    let upstream = Upstream::of(&film);
    let dir = TempDir::new().expect("a directory");
    let data = dir.path().to_str().expect("UTF-8");
    let url = format!("{}film", upstream.url());
    let program = Program::serve(dir.path(), &upstream, &[]);
    watch(&program, &film, "/film");
    stop(program);
    flip_byte(&body_file(dir.path()), FLIPPED);

    let json = said(&mut command(&["verify", "--data", data, "--json"]))
        .expect(1)
        .json();
    let bad: Vec<&Value> = json
        .iter()
        .map(|line| &line["bad"])
        .filter(|bad| bad.is_object())
        .collect();
    assert_eq!(bad.len(), 1, "{json:?}");
    assert_eq!(bad[0]["url"], url);
    let edge = |name: &str| bad[0][name].as_u64().expect("an offset");
    assert!((edge("start")..edge("end")).contains(&FLIPPED), "{bad:?}");
    assert_eq!(json.last().expect("a summary")["verified"]["bad_blocks"], 1);

    // Without --repair nothing was changed: it is found again.
    let found = said(&mut command(&["verify", "--data", data])).expect(1);
    let block = format!("block {}", bad[0]["block"]);
    assert!(found.out.contains(&block) && found.out.contains(&url), "{found:?}");

    let repaired = said(&mut command(&["verify", "--data", data, "--repair"])).expect(0);
    assert!(
        repaired.out.contains(&block) && repaired.out.contains("1 repaired"),
        "{repaired:?}"
    );
    said(&mut command(&["verify", "--data", data])).expect(0);
    let once = upstream.requests().len();
    let program = Program::serve(dir.path(), &upstream, &[]);
    watch(&program, &film, "/film");
    assert!(upstream.requests().len() > once, "the block was fetched again");
}
