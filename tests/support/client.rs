//! A client on a raw socket that checks framing byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With its full length, or with the last chunk.
    Clean,
    /// The connection broke before that.
    Cut,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) ended: Ended,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// `Cache-Status` without the key, which is another one in each test.
    pub(crate) fn story(&self) -> Option<&str> {
        let story = self.header("cache-status")?;
        Some(story.split("; key=").next().unwrap_or(story))
    }

    /// Whether it came from the store, whatever is said beside that.
    pub(crate) fn is_hit(&self) -> bool {
        let story = self.story().unwrap_or_default();
        story == "millpond; hit" || story.starts_with("millpond; hit; ttl=")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> &Self {
        assert_eq!(
            self.status,
            status,
            "{:?} {}",
            self.headers,
            self.text().chars().take(300).collect::<String>()
        );
        assert_eq!(
            self.ended,
            Ended::Clean,
            "the body was cut after {} bytes",
            self.body.len()
        );
        self
    }
}

/// The socket that a client speaks over.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

/// A connection with one answer under way.
pub(crate) struct Client {
    reader: BufReader<Socket>,
    /// The value that it writes in `Host`.
    host: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    head_only: bool,
    /// Bytes of the body that were read already.
    taken: u64,
    /// Bytes of chunks that were read, and not asked for yet.
    pending: Vec<u8>,
}

impl Client {
    /// Sends a request and reads the answer's head.
    pub(crate) fn open(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Self {
        let mut client = Self::connect(address);
        client.ask(method, target, headers);
        client.read_head();
        client
    }

    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(super::PATIENCE)).expect("set");
        Self::on(Socket::Tcp(stream), address.to_string())
    }

    /// A connection to a socket in the file system.
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("connected");
        stream.set_read_timeout(Some(super::PATIENCE)).expect("set");
        Self::on(Socket::Unix(stream), "localhost".to_owned())
    }

    fn on(socket: Socket, host: String) -> Self {
        Self {
            reader: BufReader::new(socket),
            host,
            status: 0,
            headers: Vec::new(),
            head_only: false,
            taken: 0,
            pending: Vec::new(),
        }
    }

    pub(crate) fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let mut text = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text.push_str(&format!("Host: {}\r\n", self.host));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        self.head_only = method == "HEAD";
        self.reader.get_mut().write_all(text.as_bytes()).expect("sent");
    }

    /// Has the connection reset, rather than closed, when it is dropped.
    pub(crate) fn reset(&mut self) {
        let Socket::Tcp(stream) = self.reader.get_ref() else {
            panic!("only TCP is reset");
        };
        rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO)).expect("set");
    }

    /// Sends bytes of a request's body.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("sent");
    }

    pub(crate) fn read_head(&mut self) {
        self.read_any_head();
        // Interim responses before the final one.
        while (100..200).contains(&self.status) {
            self.read_any_head();
        }
    }

    fn read_any_head(&mut self) {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let count = self.reader.read_line(&mut line).expect("a head before the time-out");
            assert!(count > 0 && line.ends_with("\r\n"), "the head was cut: {lines:?}");
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        self.status = lines[0]
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        self.headers = lines[1..]
            .iter()
            .map(|line| line.split_once(':').expect("a field"))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Reads exactly that many bytes of a body that is not chunked.
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("bytes before the time-out");
        self.taken += count as u64;
        bytes
    }

    /// Reads exactly that many bytes of a chunked body; fewer where it ends before.
    pub(crate) fn read_stream(&mut self, count: usize) -> Vec<u8> {
        while self.pending.len() < count {
            match self.one_chunk() {
                Ok(chunk) if !chunk.is_empty() => self.pending.extend(chunk),
                _ => break,
            }
        }
        let count = count.min(self.pending.len());
        self.pending.drain(..count).collect()
    }

    /// Reads what is left of the body to its end, and checks that nothing follows it that was not promised.
    pub(crate) fn finish(mut self) -> Answer {
        let (body, ended) = self.finish_body();
        Answer {
            status: self.status,
            headers: self.headers,
            body,
            ended,
        }
    }

    fn finish_body(&mut self) -> (Vec<u8>, Ended) {
        let length = self
            .header("content-length")
            .map(|length| length.parse::<u64>().expect("a length"));
        let chunked = self.header("transfer-encoding") == Some("chunked");
        assert!(!(chunked && length.is_some()), "two framings: {:?}", self.headers);
        if self.head_only || matches!(self.status, 204 | 304) {
            return (Vec::new(), Ended::Clean);
        }
        if chunked {
            return self.chunks();
        }
        let length = length.expect("a length") - self.taken;
        let mut body = Vec::new();
        let read = self.reader.by_ref().take(length).read_to_end(&mut body);
        if let Err(error) = &read {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "silent after {} of {length} bytes",
                body.len()
            );
        }
        let whole = body.len() as u64 == length;
        assert!(self.reader.buffer().is_empty(), "more bytes than the declared {length}");
        (body, if whole { Ended::Clean } else { Ended::Cut })
    }

    fn chunks(&mut self) -> (Vec<u8>, Ended) {
        let mut body = std::mem::take(&mut self.pending);
        loop {
            match self.one_chunk() {
                Ok(chunk) if chunk.is_empty() => return (body, Ended::Clean),
                Ok(chunk) => body.extend(chunk),
                Err(ended) => return (body, ended),
            }
        }
    }

    /// The next chunk; an empty one is the last.
    fn one_chunk(&mut self) -> Result<Vec<u8>, Ended> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
            return Err(Ended::Cut);
        }
        let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| Ended::Cut)?;
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).map_err(|_| Ended::Cut)?;
        assert_eq!(&chunk[size..], b"\r\n");
        chunk.truncate(size);
        Ok(chunk)
    }
}

pub(crate) fn request(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    Client::open(address, method, target, headers).finish()
}

/// A request by the control socket of the server at that address, which may do everything.
pub(crate) fn rule(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut client = Client::connect_unix(&super::data_of(address).join("control.sock"));
    client.ask(method, target, headers);
    client.read_head();
    client.finish()
}

pub(crate) fn get(address: SocketAddr, target: &str) -> Answer {
    request(address, "GET", target, &[])
}

pub(crate) fn get_range(address: SocketAddr, target: &str, range: &str) -> Answer {
    request(address, "GET", target, &[("Range", range)])
}
