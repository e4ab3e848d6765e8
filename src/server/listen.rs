//! The sockets at which connections come in.
//!
//! Listeners are made here, not by the framework, for the length of their queues, and so that an address that cannot be
//! had is an error of the start. They take port 0 for a free one, and an address that has just been left. A socket in
//! the file system that nobody listens at any more is replaced; one that somebody listens at, and any other file, is
//! not.

use super::AppError;
use crate::access::Door;
use crate::config::ListenAddress;
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// How many connections may wait to be accepted; no more than `net.core.somaxconn`. The standard library's 128 are full
/// while the thread that accepts waits a moment for a processor and a page of posters is opened; what does not fit is
/// tried again by the client's kernel a second later. The figure is the default of `net.core.somaxconn` since Linux
/// 5.4.
const WAITING: i32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    /// With the address that it has.
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile, Door),
}

impl ListeningSocket {
    /// The address that it has.
    pub(super) fn address(&self) -> ListenAddress {
        match self {
            Self::Tcp(_, address) => ListenAddress::Tcp(*address),
            Self::Unix(_, file, _) => ListenAddress::Unix(file.path.clone()),
        }
    }
}

/// The name of a socket in the file system, which is removed when this is dropped, unless another server has taken it
/// over meanwhile.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The device and inode of the socket.
    id: Option<(u64, u64)>,
}

impl SocketFile {
    fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            id: id_of(path),
        }
    }
}

fn id_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.id.is_some() && id_of(&self.path) == self.id {
            // Where somebody is faster there is nothing to be removed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Sockets that listen at all of the addresses.
///
/// # Errors
/// For the first address that cannot be had.
pub(super) fn listen_at_all(addresses: &[ListenAddress]) -> Result<Vec<ListeningSocket>, AppError> {
    let listen = |address: &ListenAddress| {
        let listener = match address {
            ListenAddress::Tcp(address) => {
                listen_at(*address, has_same_port_in_ipv4(addresses, *address)).and_then(|listener| {
                    let address = listener.local_addr()?;
                    Ok(ListeningSocket::Tcp(listener, address))
                })
            }
            ListenAddress::Unix(path) => listen_at_path(path, None)
                .map(|listener| ListeningSocket::Unix(listener, SocketFile::of(path), Door::Public)),
        };
        listener.map_err(|reason| AppError::Listen {
            address: address.clone(),
            reason,
        })
    };
    addresses.iter().map(listen).collect()
}

/// The name of the control socket in the data directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The control socket in the data directory, which the directory's owner alone may open; `None`, with a warning, where
/// there cannot be one, or another server has it.
pub(super) fn listen_for_control(data: &Path) -> Option<ListeningSocket> {
    let path = data.join(CONTROL_SOCKET);
    let listen = || {
        DirBuilder::new().recursive(true).mode(0o700).create(data)?;
        listen_at_path(&path, Some(0o600))
    };
    match listen() {
        Ok(listener) => {
            let file = SocketFile::of(&path);
            Some(ListeningSocket::Unix(listener, file, Door::Control))
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "there is no control socket: commands need a token, or another data directory (--data)");
            None
        }
    }
}

/// Whether the IPv6 address must leave IPv4 alone: `[::]` takes it along, so that `0.0.0.0` could not be listened at
/// beside it.
fn has_same_port_in_ipv4(addresses: &[ListenAddress], address: SocketAddr) -> bool {
    let is_same = |other: &ListenAddress| matches!(other, ListenAddress::Tcp(SocketAddr::V4(other)) if other.port() == address.port());
    address.port() != 0 && addresses.iter().any(is_same)
}

/// A socket that listens at `address`; one that has just been left is taken over (`SO_REUSEADDR`).
///
/// # Errors
/// Where the address is in use or not ours.
fn listen_at(address: SocketAddr, only_ipv6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && only_ipv6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(WAITING)?;
    Ok(socket.into())
}

fn listen_at_path(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    // A server that was killed has left its name behind; nobody answers there.
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    // Connections are refused before it listens.
    if let Some(mode) = mode {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    socket.listen(WAITING)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::time::Duration;

    #[test]
    fn a_burst_of_connections_waits_to_be_accepted() {
        let listener = listen_at("127.0.0.1:0".parse().expect("an address"), false).expect("a port");
        let address = listener.local_addr().expect("bound");
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
        let most: usize = most.ok().and_then(|most| most.trim().parse().ok()).unwrap_or(128);
        // No thread accepts yet; a connection that does not fit into the backlog would wait for a second, at least.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(900));
        let burst: Result<Vec<_>, _> = (0..most.min(400)).map(connect).collect();
        burst.expect("connected");
    }

    #[test]
    fn an_address_in_use_is_refused() {
        let listener = listen_at("127.0.0.1:0".parse().expect("an address"), false).expect("a port");
        let again = listen_at(listener.local_addr().expect("bound"), false);
        assert_eq!(again.expect_err("in use").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pond.sock");
        drop(listen_at_path(&path, None).expect("listening"));
        assert!(path.exists(), "the name was left behind");
        let _listener = listen_at_path(&path, None).expect("replaced");
        assert_eq!(
            listen_at_path(&path, None).expect_err("in use").kind(),
            io::ErrorKind::AddrInUse
        );
        let file = dir.path().join("film.mkv");
        std::fs::write(&file, "a film").expect("written");
        assert!(listen_at_path(&file, None).is_err());
        assert_eq!(std::fs::read(&file).expect("still there"), b"a film");
    }
}
