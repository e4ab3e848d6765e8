//! Where connections come in.
//!
//! The listener is made here, not by the framework, for the length of its queue, and so that an address that cannot be
//! had is an error of the start. It takes port 0 for a free one, and an address that has just been left.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// How many connections may wait to be accepted; no more than `net.core.somaxconn`. The standard library's 128 are full
/// while the thread that accepts waits a moment for a processor and a page of posters is opened; what does not fit is
/// tried again by the client's kernel a second later. The figure is the default of `net.core.somaxconn` since Linux
/// 5.4.
const WAITING: i32 = 4096;

/// A socket that listens at `address`; one that has just been left is taken over (`SO_REUSEADDR`).
///
/// # Errors
/// Where the address is in use or not ours.
pub(super) fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
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
        let listener = listen_at("127.0.0.1:0".parse().expect("an address")).expect("a port");
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
        let listener = listen_at("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let again = listen_at(listener.local_addr().expect("bound"));
        assert_eq!(again.expect_err("in use").kind(), io::ErrorKind::AddrInUse);
    }
}
