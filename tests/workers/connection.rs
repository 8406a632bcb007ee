//! Owns one connection of a client: the handshake, and a request in the protocol of the server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::processes::PATIENCE;

/// What is spoken inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Postgres,
    Redis,
}

pub(crate) struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    protocol: Protocol,
    pub(crate) begun: Instant,
    pub(crate) leaf: CertificateDer<'static>,
}

/// A request that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// Another may follow.
    Kept,
    /// The server has said that it was the last.
    Last,
}

/// A request that was not.
pub(crate) enum Failure {
    /// The connection was closed without a byte of an answer, as a server may that has been idle (RFC 9112, 9.3.1).
    Closed(io::Error),
    Failed(io::Error),
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, config: &Arc<ClientConfig>, protocol: Protocol) -> io::Result<Self> {
        let begun = Instant::now();
        let mut tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        if protocol == Protocol::Postgres {
            tcp.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?;
            let mut answer = [0];
            tcp.read_exact(&mut answer)?;
            if answer != *b"S" {
                return Err(io::Error::other("no TLS"));
            }
        }
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let leaf = tls.peer_certificates().unwrap()[0].clone().into_owned();
        let mut connection = Self { stream: StreamOwned::new(tls, tcp), protocol, begun, leaf };
        if protocol == Protocol::Postgres {
            let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
            startup.extend(b"user\0client\0database\0postgres\0\0");
            startup[3] = u8::try_from(startup.len()).unwrap();
            connection.stream.write_all(&startup)?;
            connection.until_ready()?;
        }
        Ok(connection)
    }

    pub(crate) fn ask(&mut self) -> Result<Answered, Failure> {
        let request: &[u8] = match self.protocol {
            Protocol::Http => b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
            Protocol::Postgres => b"Q\0\0\0\x0dSELECT 1\0",
            Protocol::Redis => b"*1\r\n$4\r\nPING\r\n",
        };
        let mut first = [0];
        let asked = self.stream.write_all(request).and_then(|()| self.stream.flush());
        if let Err(error) = asked.and_then(|()| self.stream.read_exact(&mut first)) {
            let closed = [
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::ConnectionAborted,
                io::ErrorKind::BrokenPipe,
            ];
            return Err(if closed.contains(&error.kind()) { Failure::Closed(error) } else { Failure::Failed(error) });
        }
        self.answer(first[0]).map_err(Failure::Failed)
    }

    /// Ends it as a client should.
    pub(crate) fn close(mut self) {
        if self.protocol == Protocol::Postgres {
            let _ = self.stream.write_all(b"X\0\0\0\x04");
        }
        self.stream.conn.send_close_notify();
        let _ = self.stream.flush();
    }

    fn answer(&mut self, first: u8) -> io::Result<Answered> {
        match self.protocol {
            Protocol::Http => self.http(first),
            Protocol::Redis => {
                let mut rest = [0; 6];
                self.stream.read_exact(&mut rest)?;
                if first != b'+' || rest != *b"PONG\r\n" {
                    return Err(unexpected(&[&[first], &rest[..]].concat()));
                }
                Ok(Answered::Kept)
            }
            Protocol::Postgres => {
                let mut kinds = vec![first];
                self.message(first)?;
                kinds.extend(self.until_ready()?);
                if !kinds.contains(&b'D') {
                    return Err(unexpected(&kinds));
                }
                Ok(Answered::Kept)
            }
        }
    }

    fn http(&mut self, first: u8) -> io::Result<Answered> {
        let mut head = vec![first];
        while !head.ends_with(b"\r\n\r\n") {
            let mut next = [0];
            self.stream.read_exact(&mut next)?;
            head.push(next[0]);
        }
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        let length = field("content-length").parse().map_err(|_| unexpected(&head))?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if !text.starts_with("http/1.1 200 ") || !body.windows(5).any(|part| part == b"hello") {
            return Err(unexpected(&[head, body].concat()));
        }
        Ok(if field("connection") == "close" { Answered::Last } else { Answered::Kept })
    }

    /// The kinds of the messages until the server waits for a query.
    fn until_ready(&mut self) -> io::Result<Vec<u8>> {
        let mut kinds = Vec::new();
        while kinds.last() != Some(&b'Z') {
            let mut kind = [0];
            self.stream.read_exact(&mut kind)?;
            self.message(kind[0])?;
            kinds.push(kind[0]);
        }
        Ok(kinds)
    }

    /// The rest of a message of `PostgreSQL`.
    fn message(&mut self, kind: u8) -> io::Result<()> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap().saturating_sub(4)];
        self.stream.read_exact(&mut body)?;
        if kind == b'E' { Err(unexpected(&body)) } else { Ok(()) }
    }
}

fn unexpected(answer: &[u8]) -> io::Error {
    io::Error::other(format!("unexpected answer {:?}", String::from_utf8_lossy(answer)))
}
