//! One connection and one request, with every moment noted.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::Class;
use crate::scenario::fault::DialService;
use crate::scenario::spec::{Asked, Url};
use crate::transport::BoxStream;

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
    sender: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
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
            Box::new(
                connector
                    .connect(name, stream)
                    .await
                    .map_err(|error| tls_class(&error))?,
            )
        } else {
            stream
        };
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| http_class(&error))?;
        // What ends the connection is told to the request that waits on it.
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(driver.await) }));
        moments.connected = Some(Instant::now());
        Ok(Self {
            number,
            sender,
            _driver: driver,
        })
    }

    /// Waits until another request may be sent; false if it never will.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends one request and reads the whole answer.
    pub(super) async fn ask(
        &mut self,
        question: &Question<'_>,
        moments: &mut Moments,
    ) -> Result<Answer, Class> {
        let request = question.request().map_err(|_| Class::Prober)?;
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(|error| http_class(&error))?;
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
        let mut connection = Connection::open(request, 0, &mut moments).await?;
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
