//! The download path against a real server on loopback that misbehaves as told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, Uri};

use super::*;

/// What the server does with one request for the file.
#[derive(Debug, Clone)]
pub(in crate::machines::boxes) enum Answer {
    /// Serves it rightly, ranges and `If-Range` included.
    Right,
    /// Serves it, but closes after so many bytes of the body.
    CutAfter(usize),
    /// Answers with a status only.
    Status(u16),
    /// Sends elsewhere.
    Redirect(&'static str),
}

#[derive(Debug)]
struct Served {
    content: Vec<u8>,
    etag: Option<&'static str>,
    /// Used up one by one; then [`Answer::Right`].
    answers: VecDeque<Answer>,
    /// `Range` of every request for the file.
    ranges: Vec<Option<String>>,
}

/// Contents by path.
type Files = Vec<(String, Vec<u8>)>;

/// The server: `/image` behaves as told, every other path holds what was put there.
#[derive(Clone)]
pub(in crate::machines::boxes) struct Server {
    pub(in crate::machines::boxes) url: String,
    served: Arc<Mutex<Served>>,
    files: Arc<Mutex<Files>>,
}

impl Server {
    pub(in crate::machines::boxes) async fn start(
        content: Vec<u8>,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = Served {
            content,
            etag: Some("\"one\""),
            answers: answers.into_iter().collect(),
            ranges: Vec::new(),
        };
        let server = Self {
            url,
            served: Arc::new(Mutex::new(served)),
            files: Arc::default(),
        };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub(in crate::machines::boxes) fn image(&self) -> String {
        format!("{}/image", self.url)
    }

    pub(in crate::machines::boxes) fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.files
            .lock()
            .unwrap()
            .push((path.to_owned(), content.into()));
    }

    fn change(&self, change: impl FnOnce(&mut Served)) {
        change(&mut self.served.lock().unwrap());
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.served.lock().unwrap().ranges.clone()
    }
}

async fn answer(State(server): State<Server>, uri: Uri, headers: HeaderMap) -> Response {
    if uri.path() != "/image" {
        let files = server.files.lock().unwrap();
        let found = files.iter().rev().find(|(path, _)| path == uri.path());
        return found.map_or_else(
            || StatusCode::NOT_FOUND.into_response(),
            |(_, content)| content.clone().into_response(),
        );
    }
    let mut served = server.served.lock().unwrap();
    let text = |name: header::HeaderName| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    served.ranges.push(text(header::RANGE));
    let told = served.answers.pop_front().unwrap_or(Answer::Right);
    match told {
        Answer::Status(status) => return StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Redirect(to) => {
            return (StatusCode::FOUND, [(header::LOCATION, to)]).into_response();
        }
        Answer::Right | Answer::CutAfter(_) => {}
    }
    let total = served.content.len();
    let same = text(header::IF_RANGE).as_deref() == served.etag;
    let from = text(header::RANGE).filter(|_| same).and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    let mut response = Response::builder();
    if let Some(etag) = served.etag {
        response = response.header(header::ETAG, etag);
    }
    let from: usize = match from {
        None => 0,
        Some(from) if from >= total => {
            response = response
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, format!("bytes */{total}"));
            return response.body(Body::empty()).unwrap();
        }
        Some(from) => {
            let range = format!("bytes {from}-{}/{total}", total - 1);
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, range);
            from
        }
    };
    let rest = &served.content[from..];
    response = response.header(header::CONTENT_LENGTH, rest.len());
    let sent = match told {
        Answer::CutAfter(bytes) => &rest[..bytes.min(rest.len())],
        _ => rest,
    };
    let sent = Bytes::copy_from_slice(sent);
    let body = match told {
        Answer::CutAfter(_) => {
            // What was sent is flushed while the body has nothing more.
            let cut = async {
                tokio::task::yield_now().await;
                Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
            };
            Body::from_stream(futures::stream::iter([Ok(sent)]).chain(futures::stream::once(cut)))
        }
        _ => Body::from(sent),
    };
    response.body(body).unwrap()
}

pub(in crate::machines::boxes) fn downloader() -> Downloader {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertificateParams::new(Vec::new())
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let root = reqwest::Certificate::from_der(root.der()).unwrap();
    let client = client(reqwest::Client::builder().tls_certs_only([root]).no_proxy()).unwrap();
    Downloader {
        client,
        pause: Duration::ZERO,
        free: |_| Some(u64::MAX),
    }
}

fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

async fn fetch(server: &Server, directory: &Path) -> Result<Vec<u8>, DownloadError> {
    let path = downloader()
        .large(&server.image(), directory, &|_| ())
        .await?;
    Ok(std::fs::read(path).unwrap())
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was() {
    let server = Server::start(
        content(),
        [
            Answer::CutAfter(100_000),
            Answer::Status(503),
            Answer::CutAfter(0),
        ],
    )
    .await;
    let directory = tempfile::tempdir().unwrap();
    assert!(fetch(&server, directory.path()).await.unwrap() == content());
    let ranges = server.ranges();
    assert_eq!((ranges.len(), &ranges[0]), (4, &None));
    let from = |range: &Option<String>| -> usize {
        range.as_ref().unwrap()[6..]
            .trim_end_matches('-')
            .parse()
            .unwrap()
    };
    assert!(
        ranges[1..]
            .iter()
            .all(|range| (1..=100_000).contains(&from(range))),
        "{ranges:?}"
    );
}

#[tokio::test]
async fn another_run_goes_on_and_a_whole_file_is_not_fetched_again() {
    let cuts = || {
        std::iter::once(Answer::CutAfter(70_000)).chain(std::iter::repeat_n(Answer::CutAfter(0), 4))
    };
    let server = Server::start(content(), cuts()).await;
    let directory = tempfile::tempdir().unwrap();
    let error = fetch(&server, directory.path()).await.unwrap_err();
    assert!(matches!(error, DownloadError::Cut { .. }), "{error}");
    assert!(fetch(&server, directory.path()).await.unwrap() == content());
    let ranges = server.ranges();
    assert!(ranges.last().unwrap().is_some(), "{ranges:?}");
    assert!(fetch(&server, directory.path()).await.unwrap() == content());
    assert_eq!(
        server.ranges().last(),
        Some(&Some(format!("bytes={}-", content().len())))
    );
}

#[tokio::test]
async fn a_file_that_changed_is_begun_again() {
    let server = Server::start(
        content(),
        std::iter::once(Answer::CutAfter(70_000))
            .chain(std::iter::repeat_n(Answer::CutAfter(0), 4)),
    )
    .await;
    let directory = tempfile::tempdir().unwrap();
    fetch(&server, directory.path()).await.unwrap_err();
    let other: Vec<u8> = content().into_iter().rev().collect();
    server.change(|served| {
        served.etag = Some("\"two\"");
        served.content = other.clone();
    });
    assert!(fetch(&server, directory.path()).await.unwrap() == other);
}

#[tokio::test]
async fn without_a_strong_validator_nothing_is_put_together() {
    let server = Server::start(content(), [Answer::CutAfter(70_000)]).await;
    server.change(|served| served.etag = Some("W/\"weak\""));
    let directory = tempfile::tempdir().unwrap();
    assert!(fetch(&server, directory.path()).await.unwrap() == content());
    assert_eq!(server.ranges(), [None, None]);
}

#[tokio::test]
async fn a_server_that_never_gets_further_is_given_up() {
    let server = Server::start(content(), std::iter::repeat_n(Answer::Status(500), 20)).await;
    let directory = tempfile::tempdir().unwrap();
    let error = fetch(&server, directory.path())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("500 Internal Server Error"), "{error}");
    assert_eq!(
        server.ranges().len(),
        usize::try_from(MAX_FRUITLESS_ATTEMPTS).unwrap()
    );
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let server = Server::start(
        content(),
        [Answer::Redirect("/image"), Answer::Redirect("/image")],
    )
    .await;
    let directory = tempfile::tempdir().unwrap();
    assert!(fetch(&server, directory.path()).await.unwrap() == content());
    let server = Server::start(
        content(),
        std::iter::repeat_n(Answer::Redirect("/image"), 50),
    )
    .await;
    let error = fetch(&server, directory.path()).await.unwrap_err();
    assert!(matches!(error, DownloadError::Redirects { .. }), "{error}");
    assert_eq!(server.ranges().len(), MAX_REDIRECTS + 1);
}

#[tokio::test]
async fn what_is_not_there_is_said_at_once() {
    let server = Server::start(content(), [Answer::Status(404)]).await;
    let directory = tempfile::tempdir().unwrap();
    let error = fetch(&server, directory.path()).await.unwrap_err();
    assert!(
        matches!(
            error,
            DownloadError::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(server.ranges().len(), 1);
}

#[tokio::test]
async fn a_disk_without_room_is_said_before_and_while_writing() {
    let server = Server::start(content(), []).await;
    let directory = tempfile::tempdir().unwrap();
    let small = Downloader {
        free: |_| Some(SPARE_BYTES),
        ..downloader()
    };
    let error = small
        .large(&server.image(), directory.path(), &|_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            DownloadError::NoSpace {
                needed: 800_000,
                ..
            }
        ),
        "{error}"
    );
    // The kernel's own full disk.
    std::os::unix::fs::symlink("/dev/full", partial_path(directory.path(), &server.image()))
        .unwrap();
    let error = fetch(&server, directory.path()).await.unwrap_err();
    let DownloadError::File { source, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn a_small_file_is_taken_whole_or_not_at_all() {
    let server = Server::start(Vec::new(), []).await;
    server.put("/key", "key");
    server.put("/large", vec![0; MAX_SMALL_BYTES + 1]);
    assert_eq!(
        downloader()
            .small(&format!("{}/key", server.url))
            .await
            .unwrap(),
        b"key"
    );
    let large = downloader()
        .small(&format!("{}/large", server.url))
        .await
        .unwrap_err();
    assert!(matches!(large, DownloadError::TooLarge { .. }), "{large}");
    let none = downloader()
        .small(&format!("{}/none", server.url))
        .await
        .unwrap_err();
    assert!(matches!(none, DownloadError::Refused { .. }), "{none}");
}
