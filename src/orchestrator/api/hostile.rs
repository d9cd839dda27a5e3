//! Generated requests, wrong in every way we know of, against all routes: no panic, no 500, no answer without a bound.
//!
//! Everything follows from a seed. By hand a million of them:
//! `FLIGHTCAGE_REQUESTS=1000000 cargo test --release --lib generated_requests -- --nocapture`, which also tells how long the slowest
//! answer took and how much memory the process had at most.

mod generate;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::generate::{Generated, USERS, generate};
use super::authorize::Identity;
use super::barrier::Barrier;
use super::custom::tests::lamps;
use super::http::{Server, router};
use super::kinds;
use super::panics::Panics;
use super::places::{Place, Users};
use super::registry::tests::registry;
use super::tokens::Tokens;
use super::tunnels::Tunnels;

/// How many requests, when it matters.
const REQUESTS: &str = "FLIGHTCAGE_REQUESTS";
/// The seed of a run that is to be repeated.
const SEED: &str = "FLIGHTCAGE_SEED";
/// Requests of one server: what they leave behind does not add up over a long run.
const REQUESTS_OF_SERVER: usize = 5_000;
/// Pieces that are read of an answer that does not end, as of a watch.
const PIECES: usize = 32;
/// Longest refusal: it may repeat a path, or what it lists of fields.
const REFUSAL_BYTES: usize = 128 << 10;
/// What an answer may take in a run by hand.
const ANSWER_MS: u128 = 500;

/// A server without sockets.
struct Bench {
    router: Router,
    panics: Panics,
    places: BTreeMap<&'static str, (Identity, Arc<Place>)>,
}

impl Bench {
    async fn new(panics: Panics) -> Self {
        let registry = registry().await;
        let kind = &kinds::CUSTOM_RESOURCE_DEFINITION;
        let defined = registry.create(kind, None, lamps()).await;
        defined.expect("a right definition");
        let barrier = Arc::new(Barrier::default());
        let users = Arc::new(Users::default());
        let places = USERS.iter().map(|(user, group)| {
            let who = Identity {
                user: (*user).to_owned(),
                groups: vec![(*group).to_owned()],
            };
            let place = users.admit(&who).expect("there are places");
            (*user, (who, Arc::new(place)))
        });
        let places = places.collect();
        let router = router(Server {
            tunnels: Arc::new(Tunnels::new(registry.clone(), barrier.clone())),
            registry,
            barrier,
            cancel: CancellationToken::new(),
            address: "127.0.0.1:6443".to_owned(),
            panics: panics.clone(),
            tokens: Arc::new(Tokens::ephemeral().expect("random bytes")),
            users,
        });
        Self {
            router,
            panics,
            places,
        }
    }

    /// Code and body of the answer; 0 when nothing can send such a request.
    async fn send(&self, request: &Generated) -> (u16, usize) {
        let (who, place) = &self.places[request.user];
        let mut built = Request::builder()
            .method(request.method.as_str())
            .uri(&request.uri);
        for (name, value) in &request.headers {
            built = built.header(*name, value);
        }
        let body = Body::from(Bytes::from(request.body.clone()));
        let Ok(mut built) = built.body(body) else {
            return (0, 0);
        };
        built.extensions_mut().insert(who.clone());
        built.extensions_mut().insert(place.clone());
        let answered = async {
            let response = self.router.clone().oneshot(built).await;
            let response = response.unwrap_or_else(|never| match never {});
            let code = response.status().as_u16();
            let pieces = response.into_body().into_data_stream().take(PIECES);
            let bytes = pieces.map(|piece| piece.map_or(0, |piece| piece.len()));
            (
                code,
                bytes.fold(0, |sum, piece| async move { sum + piece }).await,
            )
        };
        self.panics.caught(answered).await.unwrap_or((500, 0))
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// The most memory of its own that this process ever had, in KiB.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    value.expect("a number of KiB")
}

/// Time stands still but for what waits: a watch ends at once, and no test waits for a time-out.
#[tokio::test(start_paused = true)]
async fn generated_requests_break_nothing() {
    let by_hand = number(REQUESTS);
    let count = by_hand.map_or(50_000, |count| usize::try_from(count).expect("a count"));
    let seed = number(SEED).unwrap_or(14);
    let panics = Panics::default();
    let mut random = StdRng::seed_from_u64(seed);
    let mut codes: BTreeMap<u16, usize> = BTreeMap::new();
    let mut slowest = (0, String::new());
    let mut bench = Bench::new(panics.clone()).await;
    for done in 0..count {
        if done % REQUESTS_OF_SERVER == REQUESTS_OF_SERVER - 1 {
            bench = Bench::new(panics.clone()).await;
        }
        let request = generate(&mut random);
        let begun = std::time::Instant::now();
        let (code, bytes) = bench.send(&request).await;
        let took = begun.elapsed().as_millis();
        if took > slowest.0 {
            slowest = (took, request.to_string());
        }
        assert_eq!(panics.count(), 0, "seed {seed}, request {done}: {request}");
        assert_ne!(code, 500, "seed {seed}, request {done}: {request}");
        assert!(
            code < 400 || bytes <= REFUSAL_BYTES,
            "seed {seed}, request {done}: a refusal of {bytes} bytes: {request}"
        );
        *codes.entry(code).or_default() += 1;
    }
    // They reach what they are meant for: an API that refused everything would pass the rest.
    for code in [200, 201, 400, 403, 404, 405, 409, 413, 415, 422] {
        assert!(codes.contains_key(&code), "no answer was {code}: {codes:?}");
    }
    if by_hand.is_some() {
        let peak = peak_memory_kib();
        tell(&format!(
            "{count} requests, seed {seed}: {codes:?}; slowest answer {} ms ({}); peak memory {peak} KiB",
            slowest.0, slowest.1
        ));
        assert!(slowest.0 <= ANSWER_MS, "{slowest:?}");
    }
}

/// For a run by hand, whose figures somebody wants to read.
fn tell(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").expect("written");
}
