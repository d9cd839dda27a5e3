//! Who calls on a connection: whoever its certificate names, or, where tokens are taken, whose token its requests show.
//!
//! ```text
//!  certificate ──────────────────────────────────────────────► known
//!  none ──► stranger (bounded, the greediest gives way) ──► first token ──► known (bounded apart)
//!               └── no token, a wrong one, or none in time: 401, closed
//! ```
//! Invariants: nothing that a stranger sends is read beyond its headers; every request of a connection without a certificate shows a
//! token, which is looked at anew, and all are of one account. A certificate comes before a token.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;

use super::authorize::Identity;
use super::limits::{STRANGER_DRAIN_TIME, STRANGER_TIME, TOKEN_LOOK_TIME};
use super::places::{Handshake, Place, Users};
use super::registry::Registry;
use super::status::Status;
use super::tokens::{self, ISSUER, Tokens, Verified};

/// Who calls on one connection.
pub(super) enum Caller {
    /// Whom a certificate names.
    Certified {
        /// Who.
        who: Identity,
        /// Its place among the connections.
        place: Arc<Place>,
    },
    /// Who has to show tokens.
    Bearer(Box<Bearer>),
}

/// A connection without a certificate.
pub(super) struct Bearer {
    tokens: Arc<Tokens>,
    registry: Arc<Registry>,
    users: Arc<Users>,
    /// Whose token was shown last.
    shown: Mutex<Option<Shown>>,
    /// Its place among the strangers, until the first good token.
    stranger: Mutex<Option<Handshake>>,
    /// Cancelled when another stranger needs the place.
    given_up: CancellationToken,
    known: CancellationToken,
    refused: CancellationToken,
}

/// A token that was good.
struct Shown {
    token: String,
    verified: Verified,
    user: String,
    place: Arc<Place>,
}

impl Caller {
    /// Who has no certificate, and holds this place among strangers.
    pub(super) fn bearer(
        tokens: Arc<Tokens>,
        registry: Arc<Registry>,
        users: Arc<Users>,
        stranger: Handshake,
    ) -> Self {
        Self::Bearer(Box::new(Bearer {
            tokens,
            registry,
            users,
            shown: Mutex::default(),
            given_up: stranger.given_up.clone(),
            stranger: Mutex::new(Some(stranger)),
            known: CancellationToken::new(),
            refused: CancellationToken::new(),
        }))
    }

    /// Whose request it is that has these headers. After an error the connection has to end.
    pub(super) fn identify(
        &self,
        headers: &mut HeaderMap,
    ) -> Result<(Identity, Arc<Place>), Status> {
        // Nothing behind this sees a token.
        let shown = headers.remove(header::AUTHORIZATION);
        match self {
            Self::Certified { who, place } => Ok((who.clone(), place.clone())),
            Self::Bearer(bearer) => {
                let token = shown
                    .as_ref()
                    .and_then(|value| value.to_str().ok())
                    .and_then(bearer_token);
                let identified = token
                    .ok_or_else(Status::unauthorized)
                    .and_then(|token| bearer.identify(token, tokens::now()));
                if identified.is_err() {
                    bearer.refused.cancel();
                }
                identified
            }
        }
    }

    /// Waits until the connection has to end because of who calls.
    pub(super) async fn over(&self) {
        let Self::Bearer(bearer) = self else {
            return std::future::pending().await;
        };
        let unknown = async {
            tokio::select! {
                () = bearer.known.cancelled() => std::future::pending().await,
                () = bearer.given_up.cancelled() => {}
                () = tokio::time::sleep(STRANGER_TIME) => {}
            }
        };
        tokio::select! {
            () = bearer.refused.cancelled() => {}
            () = unknown => {}
            () = bearer.outlived() => tracing::debug!("a connection has outlived its token"),
        }
    }

    /// How long the connection's end may take, of `most`.
    pub(super) fn drain_time(&self, most: Duration) -> Duration {
        match self {
            Self::Bearer(bearer) if !bearer.known.is_cancelled() => STRANGER_DRAIN_TIME.min(most),
            _ => most,
        }
    }
}

impl Bearer {
    /// Waits until the token that was shown last is good no more.
    async fn outlived(&self) {
        self.known.cancelled().await;
        loop {
            tokio::time::sleep(TOKEN_LOOK_TIME).await;
            let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let last = shown.as_ref().map(|shown| &shown.verified);
            if last.is_none_or(|last| last.good(&self.registry, tokens::now()).is_err()) {
                return;
            }
        }
    }

    fn identify(&self, token: &str, now: i64) -> Result<(Identity, Arc<Place>), Status> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // A signature is looked at once; whether the token is still good, every time.
        let known = shown.as_ref().filter(|known| known.token == token);
        let verified = match known {
            Some(known) => known.verified.clone(),
            None => self.tokens.verify(token).ok_or_else(Status::unauthorized)?,
        };
        if verified.audiences(&[ISSUER.to_owned()]).is_empty() {
            return Err(Status::unauthorized());
        }
        let good = verified.good(&self.registry, now).map_err(|why| {
            tracing::debug!(why, "a token was refused");
            Status::unauthorized()
        })?;
        let place = match shown.as_ref() {
            Some(before) if before.user == good.who.user => before.place.clone(),
            // A connection's place is of one user.
            Some(_) => return Err(Status::unauthorized()),
            None => {
                let place = self.users.admit_by_token(&good.who).ok_or_else(|| {
                    Status::too_many_requests(
                        "too many connections without a client certificate: close some, or try again later",
                    )
                })?;
                Arc::new(place)
            }
        };
        *shown = Some(Shown {
            token: token.to_owned(),
            verified,
            user: good.who.user.clone(),
            place: place.clone(),
        });
        self.known.cancel();
        let stranger = self
            .stranger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(stranger);
        Ok((good.who, place))
    }
}

/// The token of an `Authorization` header, if it is one of a bearer.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::orchestrator::api::kinds;
    use crate::orchestrator::api::limits::STRANGERS;
    use crate::orchestrator::api::places::Handshakes;
    use crate::orchestrator::api::registry::DeleteOptions;
    use crate::orchestrator::api::registry::tests::registry;

    struct Bench {
        tokens: Arc<Tokens>,
        registry: Arc<Registry>,
        users: Arc<Users>,
        strangers: Arc<Handshakes>,
    }

    impl Bench {
        async fn new() -> Self {
            let registry = registry().await;
            for name in ["bird", "fish"] {
                let account = json!({"metadata": {"name": name}});
                registry
                    .create(&kinds::SERVICE_ACCOUNT, Some("default"), account)
                    .await
                    .expect("created");
            }
            Self {
                tokens: Arc::new(Tokens::ephemeral().expect("random bytes")),
                registry,
                users: Arc::default(),
                strangers: Arc::new(Handshakes::of(STRANGERS)),
            }
        }

        fn caller(&self) -> Caller {
            let stranger = self.strangers.begin(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let (tokens, registry) = (self.tokens.clone(), self.registry.clone());
            Caller::bearer(tokens, registry, self.users.clone(), stranger)
        }

        fn headers(&self, account: &str) -> HeaderMap {
            let admin = Identity {
                user: "admin".to_owned(),
                groups: vec!["system:masters".to_owned()],
            };
            let account = ("default", account);
            let (body, now) = (json!({}), tokens::now());
            let issued = self
                .tokens
                .request(&self.registry, &admin, account, &body, now)
                .expect("issued");
            let token = issued["status"]["token"].as_str().expect("a token");
            let value = format!("Bearer {token}").parse().expect("a header");
            HeaderMap::from_iter([(header::AUTHORIZATION, value)])
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_shows_no_token_in_time_is_over() {
        let bench = Bench::new().await;
        let begun = Instant::now();
        bench.caller().over().await;
        assert_eq!(begun.elapsed(), STRANGER_TIME);
        let caller = bench.caller();
        let refused = caller
            .identify(&mut HeaderMap::new())
            .expect_err("no token");
        assert_eq!(refused.code, 401);
        let begun = Instant::now();
        caller.over().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(
            caller.drain_time(Duration::from_mins(1)),
            STRANGER_DRAIN_TIME
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_token_makes_known_for_as_long_as_it_is_shown() {
        let bench = Bench::new().await;
        let caller = bench.caller();
        let mut headers = bench.headers("bird");
        let (who, _) = caller.identify(&mut headers).expect("good");
        assert_eq!(who.user, "system:serviceaccount:default:bird");
        assert!(headers.is_empty(), "nobody else sees the token");
        let hour = Duration::from_hours(1);
        assert!(tokio::time::timeout(hour, caller.over()).await.is_err());
        assert!(caller.identify(&mut bench.headers("bird")).is_ok());
        assert_eq!(bench.users.connections(), 1);
        // Another account's token does not go on in this one's place.
        assert!(caller.identify(&mut bench.headers("fish")).is_err());
        caller.over().await;
        drop(caller);
        assert_eq!(bench.users.connections(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_does_not_outlive_its_account() {
        let bench = Bench::new().await;
        let caller = bench.caller();
        assert!(caller.identify(&mut bench.headers("bird")).is_ok());
        let account = &kinds::SERVICE_ACCOUNT;
        let at_once = DeleteOptions::default();
        bench
            .registry
            .delete(account, Some("default"), "bird", at_once)
            .await
            .expect("deleted");
        let begun = Instant::now();
        caller.over().await;
        assert_eq!(begun.elapsed(), TOKEN_LOOK_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_give_way_to_strangers() {
        let bench = Bench::new().await;
        let silent: Vec<Caller> = (0..STRANGERS).map(|_| bench.caller()).collect();
        let begun = Instant::now();
        let _newest = bench.caller();
        silent[0].over().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[test]
    fn schemes() {
        assert_eq!(bearer_token("Bearer a.b.c"), Some("a.b.c"));
        assert_eq!(bearer_token("bearer  a"), Some("a"));
        for other in ["", "Bearer", "Bearer ", "Basic YTpi", "é"] {
            assert_eq!(bearer_token(other), None, "{other}");
        }
    }
}
