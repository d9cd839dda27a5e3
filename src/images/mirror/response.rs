//! Files as answers, whole or in part.

use std::io;
use std::path::Path;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

pub(super) async fn file_response(
    path: &Path,
    digest: &str,
    media_type: &str,
    request: &HeaderMap,
) -> io::Result<Response> {
    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let response = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header("docker-content-digest", digest)
        .header("docker-distribution-api-version", "registry/2.0")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, format!("\"{digest}\""));
    let range = request
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    let (response, length) = match range.map(|range| byte_range(range, size)) {
        None => (response, size),
        Some(None) => {
            let refused = response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            let refused = refused
                .header(header::CONTENT_RANGE, format!("bytes */{size}"))
                .body(Body::empty());
            return refused.map_err(io::Error::other);
        }
        Some(Some((first, last))) => {
            file.seek(io::SeekFrom::Start(first)).await?;
            let part = response.status(StatusCode::PARTIAL_CONTENT);
            (
                part.header(
                    header::CONTENT_RANGE,
                    format!("bytes {first}-{last}/{size}"),
                ),
                last - first + 1,
            )
        }
    };
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), 64 * 1024));
    let response = response.header(header::CONTENT_LENGTH, length).body(body);
    response.map_err(io::Error::other)
}

/// First and last byte of a `Range` of one part; `None` when it cannot be satisfied.
fn byte_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = size.checked_sub(1)?;
    let (first, last) = match (first, last) {
        ("", suffix) => (
            size.saturating_sub(suffix.parse().ok().filter(|count| *count > 0)?),
            end,
        ),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(end)),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        for (text, expected) in [
            ("bytes=0-3", Some((0, 3))),
            ("bytes=4-", Some((4, 9))),
            ("bytes=-3", Some((7, 9))),
            ("bytes=5-99", Some((5, 9))),
            ("bytes=-99", Some((0, 9))),
            ("bytes=10-", None),
            ("bytes=3-2", None),
            ("bytes=-0", None),
            ("bytes=x-", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(byte_range(text, 10), expected, "{text}");
        }
        assert_eq!(byte_range("bytes=0-", 0), None);
    }
}
