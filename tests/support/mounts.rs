//! File systems that a test mounts. Where that is not possible the test says so, loudly, and is over.

use super::PATIENCE;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Runs a command; the error is its output, where it does not end well.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// Something that is mounted as long as this lives.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn new(arguments: &[&str], at: &Path) -> Option<Self> {
        let at = at.to_owned();
        let text = at.display().to_string();
        match run("mount", &[arguments, &[&text]].concat()) {
            Ok(()) => Some(Self(at)),
            Err(why) => {
                skip(&format!("mount {}: {why}", arguments.join(" ")));
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.0.display().to_string()]);
    }
}

/// A FUSE server in the foreground.
pub(crate) struct Fuse {
    child: Child,
    at: PathBuf,
}

impl Fuse {
    pub(crate) fn new(program: &str, arguments: &[&str], at: &Path) -> Option<Self> {
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let before = device(at);
        let child = Command::new(program)
            .args(arguments)
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(child) = child else {
            skip(&format!("{program} is not installed"));
            return None;
        };
        let mut fuse = Self {
            child,
            at: at.to_owned(),
        };
        let began = std::time::Instant::now();
        while device(at) == before {
            if fuse.child.try_wait().expect("asked").is_some() || began.elapsed() > PATIENCE {
                skip(&format!("{program} does not mount here"));
                return None;
            }
            std::thread::yield_now();
        }
        Some(fuse)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("sent");
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::CONT);
        let _ = run("umount", &["-l", &self.at.display().to_string()]);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
