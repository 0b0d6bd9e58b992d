//! A connection between two hosts: TLS 1.3 with both sides authenticated, or plain on the loopback where that is asked for.
//!
//! Keys are raw Ed25519 public keys (RFC 7250) and no certificates: there is no authority that could vouch for a machine
//! that moves once. The source pins the destination's key by the token; the destination pins the source's, which follows
//! from the token's secret. (A cluster's own certificates would take the place of both checks.)

use crate::token::{Token, source_seed};
use crate::wire::WireError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long data may be unacknowledged before the link counts as lost.
const LOST: Duration = Duration::from_secs(15);
/// Unsent bytes that a socket may hold: what is said last must not wait behind megabytes.
const UNSENT: usize = 256 << 10;

/// PKCS#8 of an Ed25519 key, up to its seed.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// How the connections of a migration are secured, for one side of it.
#[derive(Clone, Debug)]
pub enum Security {
    /// The source's end of TLS.
    Source(Arc<ClientConfig>),
    /// The destination's end of TLS.
    Destination(Arc<ServerConfig>),
    /// None.
    Plain,
}

fn certified(provider: &CryptoProvider, seed: &[u8; 32]) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let der = [&PKCS8[..], seed].concat();
    let key = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)))?;
    let public =
        key.public_key().ok_or_else(|| rustls::Error::General("the key has no public part".into()))?;
    let public = CertificateDer::from(public.to_vec());
    Ok(Arc::new(CertifiedKey::new(vec![public], key)))
}

fn digest(key: &CertifiedKey) -> [u8; 32] {
    key.cert.first().map_or([0; 32], |c| Sha256::digest(c.as_ref()).into())
}

/// Knows one key by its digest.
#[derive(Debug)]
struct Pin {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn check(&self, key: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if Sha256::digest(key.as_ref())[..] == self.digest {
            Ok(())
        } else {
            Err(rustls::CertificateError::UnknownIssuer.into())
        }
    }

    fn signed(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(
            message,
            &key,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }
}

/// TLS before 1.3 is not spoken.
fn too_old() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(key).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        too_old()
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, key, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(key).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        too_old()
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, key, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// What a destination is known by: the seed of its key, and the token for its source.
///
/// # Errors
/// The seed makes no key.
pub fn token(secret: [u8; 32], seed: &[u8; 32]) -> Result<Token, rustls::Error> {
    let fingerprint = digest(&*certified(&ring::default_provider(), seed)?);
    Ok(Token { secret, fingerprint })
}

impl Security {
    /// The source's end.
    ///
    /// # Errors
    /// The token makes no key.
    pub fn source(token: &Token) -> Result<Security, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let own = certified(&provider, &source_seed(&token.secret))?;
        let pin = Arc::new(Pin { digest: token.fingerprint, provider: provider.clone() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(pin)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own)));
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Security::Source(Arc::new(config)))
    }

    /// The destination's end, whose key is made from `seed`.
    ///
    /// # Errors
    /// The seed makes no key.
    pub fn destination(secret: &[u8; 32], seed: &[u8; 32]) -> Result<Security, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let theirs = digest(&*certified(&provider, &source_seed(secret))?);
        let own = certified(&provider, seed)?;
        let pin = Arc::new(Pin { digest: theirs, provider: provider.clone() });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(pin)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
        config.send_tls13_tickets = 0;
        Ok(Security::Destination(Arc::new(config)))
    }
}

/// A connection.
pub enum Link {
    /// The source's end.
    Source(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// The destination's end.
    Destination(Box<StreamOwned<ServerConnection, TcpStream>>),
    /// Not secured.
    Plain(TcpStream),
}

impl Link {
    /// Connects to a destination.
    ///
    /// # Errors
    /// It does not answer, or is not the one that the token is of; plain to somewhere that is not this host.
    pub fn connect(address: &str, security: &Security) -> Result<Link, WireError> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the address has no host");
        for at in address.to_socket_addrs()? {
            if matches!(security, Security::Plain) && !at.ip().is_loopback() {
                return Err(WireError::Protocol("without encryption it only goes to this host itself"));
            }
            match TcpStream::connect_timeout(&at, CONNECT) {
                Ok(tcp) => return Link::over(tcp, security),
                Err(e) => last = e,
            }
        }
        Err(last.into())
    }

    /// Secures an accepted or connected socket.
    ///
    /// # Errors
    /// The host's; the handshake's.
    pub fn over(tcp: TcpStream, security: &Security) -> Result<Link, WireError> {
        tcp.set_nodelay(true)?;
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&tcp, LOST.as_millis() as u32);
        let _ = rustix::net::sockopt::set_socket_keepalive(&tcp, true);
        let _ = rustix::net::sockopt::set_tcp_keepidle(&tcp, Duration::from_secs(5));
        let _ = rustix::net::sockopt::set_tcp_keepintvl(&tcp, Duration::from_secs(3));
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&tcp, UNSENT);
        tcp.set_read_timeout(Some(LOST))?;
        let tls = |e: rustls::Error| WireError::Io(io::Error::other(e));
        Ok(match security {
            Security::Plain => Link::Plain(tcp),
            Security::Source(config) => {
                // The name is part of the interface and means nothing: the key is pinned.
                let name = ServerName::try_from("strata").map_err(|_| WireError::Protocol("no name"))?;
                let mut conn = ClientConnection::new(config.clone(), name).map_err(tls)?;
                conn.set_buffer_limit(Some(UNSENT));
                let mut stream = StreamOwned::new(conn, tcp);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Link::Source(Box::new(stream))
            }
            Security::Destination(config) => {
                let conn = ServerConnection::new(config.clone()).map_err(tls)?;
                let mut stream = StreamOwned::new(conn, tcp);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Link::Destination(Box::new(stream))
            }
        })
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Link::Source(s) => &s.sock,
            Link::Destination(s) => &s.sock,
            Link::Plain(s) => s,
        }
    }

    /// A handle on the socket, by which another thread can end the connection.
    ///
    /// # Errors
    /// The host gives no descriptor.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.tcp().try_clone()
    }

    /// How long a read may take; none is for ever.
    ///
    /// # Errors
    /// The host's.
    pub fn patience(&self, limit: Option<Duration>) -> io::Result<()> {
        self.tcp().set_read_timeout(limit)
    }

    /// Waits until there is something to read, `other` has something, or `limit` is over; gives whether there is
    /// something to read here. The rest of what has begun to come is waited for by the read.
    ///
    /// # Errors
    /// The connection's.
    pub fn wait(&mut self, other: Option<BorrowedFd<'_>>, limit: Duration) -> Result<bool, WireError> {
        let tls = |e: rustls::Error| WireError::Io(io::Error::other(e));
        // What was decrypted with the last read is not in the socket any more.
        let held = match self {
            Link::Source(s) => s.conn.process_new_packets().map_err(tls)?.plaintext_bytes_to_read(),
            Link::Destination(s) => s.conn.process_new_packets().map_err(tls)?.plaintext_bytes_to_read(),
            Link::Plain(_) => 0,
        };
        if held > 0 {
            return Ok(true);
        }
        let socket = self.tcp();
        let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        match poll(&mut fds, Some(&limit)) {
            Ok(_) => Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(WireError::Io(e.into())),
        }
    }

    /// The other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }
}

impl Read for Link {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Source(s) => s.read(buf),
            Link::Destination(s) => s.read(buf),
            Link::Plain(s) => s.read(buf),
        }
    }
}

impl Write for Link {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Link::Source(s) => s.write(buf),
            Link::Destination(s) => s.write(buf),
            Link::Plain(s) => s.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Link::Source(s) => s.flush(),
            Link::Destination(s) => s.flush(),
            Link::Plain(s) => s.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What comes over from a source with one token to a destination with its own; both ends' answers.
    fn talk(source: Security, destination: Security) -> (Result<(), WireError>, Result<[u8; 5], WireError>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let there = std::thread::spawn(move || {
            let mut link = Link::over(listener.accept().unwrap().0, &destination)?;
            let mut heard = [0; 5];
            link.read_exact(&mut heard)?;
            link.write_all(b"yes")?;
            Ok(heard)
        });
        let here = Link::connect(&address, &source).and_then(|mut link| {
            link.write_all(b"hello")?;
            link.flush()?;
            Ok(link.read_exact(&mut [0; 3])?)
        });
        (here, there.join().unwrap())
    }

    #[test]
    fn who_has_the_token_is_let_in_and_nobody_else() {
        let (secret, seed) = ([1; 32], [2; 32]);
        let good = token(secret, &seed).unwrap();
        let destination = || Security::destination(&secret, &seed).unwrap();
        let (here, there) = talk(Security::source(&good).unwrap(), destination());
        assert_eq!((here.is_ok(), there.unwrap()), (true, *b"hello"));
        let stolen = Token { secret: [9; 32], ..good.clone() };
        let (here, there) = talk(Security::source(&stolen).unwrap(), destination());
        assert!(here.is_err() && there.is_err(), "a source without the secret was let in");
        let elsewhere = Token { fingerprint: [9; 32], ..good };
        let (here, there) = talk(Security::source(&elsewhere).unwrap(), destination());
        assert!(here.is_err() && there.is_err(), "a source talked to a destination that is not its own");
        // It may take an alert for an answer; the destination hears nothing.
        let (_, there) = talk(Security::Plain, destination());
        assert!(there.is_err(), "a source was let in without encryption");
    }

    #[test]
    fn plain_stays_on_this_host() {
        let e = Link::connect("192.0.2.1:9", &Security::Plain).map(|_| ()).unwrap_err();
        assert!(e.to_string().contains("this host itself"), "{e}");
    }
}
