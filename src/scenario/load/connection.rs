//! One connection and one request, with every moment noted.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Body as _;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::Class;
use crate::scenario::fault::DialService;
use crate::scenario::spec::{Asked, HttpVersion, Url};
use crate::transport::BoxStream;

/// The name of HTTP/2 in ALPN (RFC 9113, section 3.2).
pub(super) const HTTP_2_ALPN: &[u8] = b"h2";
/// An answer is not read beyond this.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What is asked, and how to get there.
#[derive(Clone)]
pub struct HttpRequest {
    /// The prober's own path.
    pub dial: Arc<dyn DialService>,
    /// What is asked for.
    pub url: Url,
    /// Whom to trust.
    pub tls: Arc<ClientConfig>,
}

/// An open connection; dropping it closes it.
pub(super) struct Connection {
    pub(super) number: u64,
    sender: Sender,
    driver: Arc<AbortOnDropHandle<()>>,
}

/// Where requests are sent.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; nothing if nobody wants it.
    pub body: Vec<u8>,
}

/// How far a request is; whoever times out reads it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moments {
    pub(super) tcp: Option<Instant>,
    pub(super) connected: Option<Instant>,
    pub(super) first_byte: Option<Instant>,
    /// Nothing of the request was sent: its connection was ending already.
    pub(super) unsent: bool,
}

impl Moments {
    /// The class of a request that is not over at its deadline.
    pub(super) fn class_at_deadline(self) -> Class {
        match self {
            Self {
                first_byte: Some(_),
                ..
            } => Class::Deadline,
            Self { tcp: Some(_), .. } => Class::ReadTimeout,
            _ => Class::ConnectTimeout,
        }
    }
}

impl Connection {
    /// Dials, makes the TLS handshake, and starts HTTP.
    pub(super) async fn open(
        request: &HttpRequest,
        version: HttpVersion,
        number: u64,
        moments: &mut Moments,
    ) -> Result<Self, Class> {
        let stream = request
            .dial
            .dial(&request.url.service(), request.url.port)
            .await
            .map_err(|error| dial_class(&error))?;
        moments.tcp = Some(Instant::now());
        let stream: BoxStream = if request.url.tls {
            let name = ServerName::try_from(request.url.host.clone()).map_err(|_| Class::Prober)?;
            let connector = TlsConnector::from(Arc::clone(&request.tls));
            let stream = connector
                .connect(name, stream)
                .await
                .map_err(|error| tls_class(&error))?;
            let agreed = stream.get_ref().1.alpn_protocol();
            if version == HttpVersion::Two && agreed != Some(HTTP_2_ALPN) {
                return Err(Class::Tls);
            }
            Box::new(stream)
        } else {
            stream
        };
        let stream = TokioIo::new(stream);
        // What ends the connection is told to the requests that wait on it.
        let (sender, driver) = match version {
            HttpVersion::One => {
                let (sender, driver) = http1::handshake(stream)
                    .await
                    .map_err(|error| http_class(&error))?;
                let driver = tokio::spawn(async move { drop(driver.await) });
                (Sender::One(sender), driver)
            }
            HttpVersion::Two => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .map_err(|error| http_class(&error))?;
                let driver = tokio::spawn(async move { drop(driver.await) });
                (Sender::Two(sender), driver)
            }
        };
        moments.connected = Some(Instant::now());
        Ok(Self {
            number,
            sender,
            driver: Arc::new(AbortOnDropHandle::new(driver)),
        })
    }

    /// The same connection for another request at the same time, if its protocol allows that.
    pub(super) fn share(&self) -> Option<Self> {
        let Sender::Two(sender) = &self.sender else {
            return None;
        };
        Some(Self {
            number: self.number,
            sender: Sender::Two(sender.clone()),
            driver: Arc::clone(&self.driver),
        })
    }

    /// Waits until another request may be sent; false if it never will.
    pub(super) async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::One(sender) => sender.ready().await.is_ok(),
            Sender::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends one request and reads the whole answer.
    pub(super) async fn ask(
        &mut self,
        question: &Question<'_>,
        moments: &mut Moments,
    ) -> Result<Answer, Class> {
        let response = match &mut self.sender {
            Sender::One(sender) => {
                let request = question.request().map_err(|_| Class::Prober)?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => {
                let request = question.request_two().map_err(|_| Class::Prober)?;
                sender.try_send_request(request).await.map_err(|mut error| {
                    moments.unsent = error.take_message().is_some();
                    error.into_error()
                })
            }
        };
        let response = response.map_err(|error| http_class(&error))?;
        moments.first_byte = Some(Instant::now());
        let (head, mut body) = response.into_parts();
        let mut read = 0;
        let mut kept = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| http_class(&error))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            read += data.len();
            if read > BODY_BYTES_MAX {
                return Err(Class::Body);
            }
            if question.reads_body {
                kept.extend_from_slice(data);
            }
        }
        // A stream may be reset without an error, which hyper takes for the body's end.
        if matches!(self.sender, Sender::Two(_)) && !body.is_end_stream() {
            return Err(Class::Reset);
        }
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: kept,
        })
    }
}

/// One request.
pub(super) struct Question<'a> {
    pub(super) url: &'a Url,
    pub(super) asked: &'a Asked,
    pub(super) keep: Keep,
    /// Whether the answer's body is wanted.
    pub(super) reads_body: bool,
}

impl Question<'_> {
    fn request(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        let Asked {
            method,
            headers,
            body,
        } = self.asked;
        let mut request = Request::builder()
            .method(method.clone())
            .uri(self.url.path.as_str())
            .header(header::HOST, self.url.host.as_str())
            .body(Full::new(body.clone()))?;
        let all = request.headers_mut();
        all.insert(header::USER_AGENT, HeaderValue::from_static("flightcage"));
        if self.keep == Keep::Close {
            all.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in headers {
            all.insert(name, value.clone());
        }
        Ok(request)
    }

    /// The same for HTTP/2, which has an authority and no Host, and says nothing of the connection (RFC 9113, section 8.2.2).
    fn request_two(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        let Asked {
            method,
            headers,
            body,
        } = self.asked;
        let scheme = if self.url.tls { "https" } else { "http" };
        let host = headers.iter().find(|(name, _)| *name == header::HOST);
        let host = host.and_then(|(_, value)| value.to_str().ok());
        let authority = host.unwrap_or(&self.url.host);
        let mut request = Request::builder()
            .method(method.clone())
            .version(Version::HTTP_2)
            .uri(format!("{scheme}://{authority}{}", self.url.path))
            .body(Full::new(body.clone()))?;
        let all = request.headers_mut();
        all.insert(header::USER_AGENT, HeaderValue::from_static("flightcage"));
        for (name, value) in headers {
            if *name != header::HOST && *name != header::CONNECTION {
                all.insert(name, value.clone());
            }
        }
        Ok(request)
    }
}

/// Whether the connection is to be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Open,
    Close,
}

/// Asks once on a new connection.
pub async fn ask_once(request: &HttpRequest, deadline: Instant) -> Result<Answer, Class> {
    let mut moments = Moments::default();
    let asked = timeout_at(deadline, async {
        let mut connection = Connection::open(request, HttpVersion::One, 0, &mut moments).await?;
        let question = Question {
            url: &request.url,
            asked: &Asked::default(),
            keep: Keep::Close,
            reads_body: false,
        };
        connection.ask(&question, &mut moments).await
    })
    .await;
    asked.unwrap_or_else(|_| Err(moments.class_at_deadline()))
}

fn dial_class(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => {
            Class::Prober
        }
        io::ErrorKind::TimedOut => Class::ConnectTimeout,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Class::Reset,
        _ => Class::Refused,
    }
}

fn tls_class(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Class::Reset,
        _ => Class::Tls,
    }
}

fn http_class(error: &hyper::Error) -> Class {
    if error.is_parse() {
        Class::Body
    } else {
        Class::Reset
    }
}
