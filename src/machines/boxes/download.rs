//! Downloads a large file over HTTP: goes on where it was cut, in this run or in a later one.
//!
//! What has come lies beside a note of its URL and of the validator that its server gave it (RFC 9110, `ETag` or `Last-Modified`); a
//! file that has changed since is begun again, never mixed. What is whole is not thereby right: the caller verifies it.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use http::{StatusCode, header};
use reqwest::{Client, Response, redirect};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use crate::model::definition::hexadecimal;
use crate::shell::debian::Progress;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 8;
/// Attempts in a row that bring nothing before a download is given up.
const MAX_FRUITLESS_ATTEMPTS: u32 = 4;
/// Largest file that is fetched.
const MAX_BYTES: u64 = 16 << 30;
/// Largest metadata, key or signature.
const MAX_SMALL_BYTES: usize = 8 << 20;
/// Progress is told each time so much more has come.
const PROGRESS_BYTES: u64 = 4 << 20;
/// Room that is left on a disk, so that nothing else fails for want of it.
const SPARE_BYTES: u64 = 64 << 20;

/// Why a file could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server could not be asked, or its answer did not come to its end.
    #[error("download {url}: {what}; what has come is kept, the next attempt goes on from there")]
    Cut {
        /// From where.
        url: String,
        /// What was seen.
        what: String,
        /// The cause, if it was a connection's.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// It refused.
    #[error("download {url}: the server answers {status}")]
    Refused {
        /// From where.
        url: String,
        /// What it said.
        status: StatusCode,
    },
    /// It sends elsewhere for ever, or from a safe place to an unsafe one.
    #[error("download {url}: its redirects lead nowhere")]
    Redirects {
        /// From where.
        url: String,
        /// Which.
        #[source]
        source: reqwest::Error,
    },
    /// It is larger than what is taken.
    #[error("download {url}: it is larger than {} MiB", .limit >> 20)]
    TooLarge {
        /// From where.
        url: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The disk cannot hold it.
    #[error("download {url}: {} needs {} MiB, {} MiB are free: free some space, or set FLIGHTCAGE_HOME to a directory on a larger disk",
        path.display(), needed >> 20, free >> 20)]
    NoSpace {
        /// From where.
        url: String,
        /// To where.
        path: PathBuf,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// What was done.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Fetches files.
#[derive(Debug, Clone)]
pub(super) struct Downloader {
    client: Client,
    /// Pause before another attempt; doubles each time.
    pause: Duration,
    /// Asks how much a file system can still hold.
    free: fn(&Path) -> Option<u64>,
}

/// What is known of a file that has come in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    url: String,
    /// `ETag` or `Last-Modified`; without one, a part is worth nothing.
    validator: Option<String>,
}

/// How one attempt ended.
enum Attempt {
    Whole,
    Cut {
        what: String,
        source: Option<reqwest::Error>,
    },
}

impl Downloader {
    /// One that trusts the authorities in `roots_pem` and uses the proxy that the environment names.
    ///
    /// # Errors
    /// When the roots are not certificates.
    pub(super) fn new(roots_pem: &[u8]) -> Result<Self, reqwest::Error> {
        let roots = reqwest::Certificate::from_pem_bundle(roots_pem)?;
        Ok(Self {
            client: client(reqwest::Client::builder().tls_certs_only(roots))?,
            pause: Duration::from_secs(1),
            free: free_disk,
        })
    }

    /// A small file, whole.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub(super) async fn small(&self, url: &str) -> Result<Vec<u8>, DownloadError> {
        let cut = |source: reqwest::Error| Self::failed(url, source);
        let response = self.client.get(url).send().await.map_err(cut)?;
        if response.status() != StatusCode::OK {
            return Err(DownloadError::Refused {
                url: url.to_owned(),
                status: response.status(),
            });
        }
        let mut bytes = Vec::new();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            bytes.extend_from_slice(&chunk.map_err(cut)?);
            if bytes.len() > MAX_SMALL_BYTES {
                return Err(DownloadError::TooLarge {
                    url: url.to_owned(),
                    limit: MAX_SMALL_BYTES as u64,
                });
            }
        }
        Ok(bytes)
    }

    /// A large file, into `directory`; returns its path there. A cancelled call leaves a part from which the next one goes on.
    ///
    /// # Errors
    /// When it does not come to its end.
    pub(super) async fn large(
        &self,
        url: &str,
        directory: &Path,
        progress: Progress<'_>,
    ) -> Result<PathBuf, DownloadError> {
        let (path, mut fruitless) = (partial_path(directory, url), 0);
        loop {
            let before = length(&path);
            let (what, source) = match self.attempt(url, &path, progress).await? {
                Attempt::Whole => return Ok(path),
                Attempt::Cut { what, source } => (what, source),
            };
            fruitless = if length(&path) > before {
                0
            } else {
                fruitless + 1
            };
            if fruitless == MAX_FRUITLESS_ATTEMPTS {
                return Err(DownloadError::Cut {
                    url: url.to_owned(),
                    what,
                    source,
                });
            }
            progress(&format!("{what}; going on"));
            tokio::time::sleep(self.pause * 2_u32.pow(fruitless)).await;
        }
    }

    async fn attempt(
        &self,
        url: &str,
        path: &Path,
        progress: Progress<'_>,
    ) -> Result<Attempt, DownloadError> {
        let have = length(path);
        let note =
            read_note(path).filter(|note| note.url == url && note.validator.is_some() && have > 0);
        let mut request = self.client.get(url);
        if let Some(validator) = note.as_ref().and_then(|note| note.validator.as_deref()) {
            request = request
                .header(header::RANGE, format!("bytes={have}-"))
                .header(header::IF_RANGE, validator);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_redirect() => return Err(Self::failed(url, error)),
            Err(error) => {
                return Ok(Attempt::Cut {
                    what: "the server does not answer".into(),
                    source: Some(error),
                });
            }
        };
        let now = Note {
            url: url.to_owned(),
            validator: validator(&response),
        };
        let total = total_of_range(&response);
        let goes_on =
            note.as_ref() == Some(&now) && total.is_some_and(|(start, _)| start == Some(have));
        match response.status() {
            StatusCode::OK => self.receive(response, path, &now, 0, progress).await,
            StatusCode::PARTIAL_CONTENT if goes_on => {
                self.receive(response, path, &now, have, progress).await
            }
            // Everything had come when the last run ended.
            StatusCode::RANGE_NOT_SATISFIABLE if note.is_some() && total == Some((None, have)) => {
                Ok(Attempt::Whole)
            }
            // A part of something else: begin again.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                forget(path);
                Ok(Attempt::Cut {
                    what: "the file has changed".into(),
                    source: None,
                })
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Ok(Attempt::Cut {
                    what: format!("the server answers {status}"),
                    source: None,
                })
            }
            status => Err(DownloadError::Refused {
                url: url.to_owned(),
                status,
            }),
        }
    }

    async fn receive(
        &self,
        response: Response,
        path: &Path,
        note: &Note,
        from: u64,
        progress: Progress<'_>,
    ) -> Result<Attempt, DownloadError> {
        let failed = |action: &'static str| {
            let path = path.to_owned();
            move |source| DownloadError::File {
                action,
                path,
                source,
            }
        };
        let announced = response.content_length();
        let needed = announced.unwrap_or(0);
        if from + needed > MAX_BYTES {
            return Err(DownloadError::TooLarge {
                url: note.url.clone(),
                limit: MAX_BYTES,
            });
        }
        if let Some(free) = (self.free)(path).filter(|free| needed + SPARE_BYTES > *free) {
            return Err(DownloadError::NoSpace {
                url: note.url.clone(),
                path: path.to_owned(),
                needed,
                free,
            });
        }
        write_note(path, note).map_err(failed("write the note of"))?;
        let mut file = tokio::fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create(true)
            .truncate(from == 0)
            .open(path)
            .await
            .map_err(failed("open"))?;
        if from > 0 {
            file.seek(SeekFrom::Start(from))
                .await
                .map_err(failed("seek in"))?;
        }
        let (mut have, mut told) = (from, from);
        let mut body = response.bytes_stream();
        let mut ending = None;
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    ending = Some(error);
                    break;
                }
            };
            have += chunk.len() as u64;
            if have > MAX_BYTES {
                return Err(DownloadError::TooLarge {
                    url: note.url.clone(),
                    limit: MAX_BYTES,
                });
            }
            file.write_all(&chunk).await.map_err(failed("write"))?;
            if have - told >= PROGRESS_BYTES {
                told = have;
                progress(&progress_line(have, announced.map(|bytes| from + bytes)));
            }
        }
        file.flush().await.map_err(failed("write"))?;
        let whole = announced.is_none_or(|bytes| have == from + bytes);
        if whole && ending.is_none() {
            return Ok(Attempt::Whole);
        }
        Ok(Attempt::Cut {
            what: format!("the connection was cut after {have} bytes"),
            source: ending,
        })
    }

    fn failed(url: &str, source: reqwest::Error) -> DownloadError {
        let url = url.to_owned();
        if source.is_redirect() {
            return DownloadError::Redirects { url, source };
        }
        DownloadError::Cut {
            url,
            what: "the server does not answer".into(),
            source: Some(source),
        }
    }
}

fn client(builder: reqwest::ClientBuilder) -> Result<Client, reqwest::Error> {
    let follow = redirect::Policy::custom(|attempt| {
        let downgrade = attempt.previous().iter().any(|url| url.scheme() == "https")
            && attempt.url().scheme() != "https";
        if downgrade {
            attempt.error("it leads from https to http")
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("there are too many redirects")
        } else {
            attempt.follow()
        }
    });
    builder
        .redirect(follow)
        .connect_timeout(Duration::from_secs(20))
        .read_timeout(Duration::from_mins(1))
        .build()
}

/// Removes a download, whole or in part.
pub(super) fn forget(path: &Path) {
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_file(note_path(path));
}

fn free_disk(path: &Path) -> Option<u64> {
    crate::machines::qemu::free_disk(path)
}

/// Where a download lies: named by its URL, so that another run finds it.
fn partial_path(directory: &Path, url: &str) -> PathBuf {
    use sha2::Digest as _;
    directory.join(format!(
        "{}.part",
        hexadecimal(&sha2::Sha256::digest(url)[..16])
    ))
}

fn note_path(path: &Path) -> PathBuf {
    path.with_extension("json")
}

fn read_note(path: &Path) -> Option<Note> {
    serde_json::from_slice(&std::fs::read(note_path(path)).ok()?).ok()
}

fn write_note(path: &Path, note: &Note) -> std::io::Result<()> {
    std::fs::write(
        note_path(path),
        serde_json::to_vec(note).expect("plain data serialises"),
    )
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// A validator that stands for these very bytes: a weak `ETag` does not.
fn validator(response: &Response) -> Option<String> {
    let text = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    text(header::ETAG)
        .filter(|tag| !tag.starts_with("W/"))
        .or_else(|| text(header::LAST_MODIFIED))
}

/// First byte and whole length of a `Content-Range`: `bytes 100-199/200`, or `bytes */200`.
fn total_of_range(response: &Response) -> Option<(Option<u64>, u64)> {
    let (range, total) = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    Some((
        range
            .split_once('-')
            .and_then(|(start, _)| start.parse().ok()),
        total.parse().ok()?,
    ))
}

fn progress_line(have: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!(
            "downloaded {} of {} MiB ({} %)",
            have >> 20,
            total >> 20,
            have * 100 / total.max(1)
        ),
        None => format!("downloaded {} MiB", have >> 20),
    }
}

#[cfg(test)]
#[path = "download_tests.rs"]
pub(super) mod tests;
