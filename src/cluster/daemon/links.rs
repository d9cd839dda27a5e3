//! The daemon's requests about links: rules, what they do as measured, captures.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Daemon;
use super::control::{Failure, Shared};
use super::network::Network;
use crate::machines::fabric::{
    CaptureFilter, Fabric, FabricError, Layer, LinkCounters, LinkRule, Links, Measured, Port,
    ProbePlan,
};

/// Links that are measured at a time: their probes share one delay line.
const MEASURED_AT_ONCE: usize = 4;

/// A rule for links, in place of the one that the same tag has set before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkChange {
    /// Which.
    pub links: Links,
    /// What they do.
    pub rule: LinkRule,
    /// It heals itself after this.
    pub lasts: Option<Duration>,
    /// The name under which it is healed.
    pub tag: String,
    /// What decides its chances.
    pub seed: u64,
}

/// What a rule does to one directed link, measured by probes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkEffect {
    /// The sender.
    pub from: Port,
    /// The receiver.
    pub to: Port,
    /// What was measured.
    pub measured: Measured,
    /// Whether that is at least what the rule says.
    pub verified: bool,
    /// How long the rule has acted when this is told.
    pub acted_for: Duration,
}

/// Which rules to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkHeal {
    /// Of which links.
    pub links: Links,
    /// Set under which tag; `None`: any.
    pub tag: Option<String>,
}

/// A directed link as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkState {
    /// The sender.
    pub from: Port,
    /// The receiver.
    pub to: Port,
    /// The rules that act, each with its tag.
    pub rules: Vec<(String, LinkRule)>,
    /// What has passed since the daemon started, where the network is ours.
    pub counters: Option<LinkCounters>,
}

/// What to capture: `port`, or `from` and `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// What this port sends and receives.
    pub port: Option<Port>,
    /// What arrives on the link from here …
    pub from: Option<Port>,
    /// … to here.
    pub to: Option<Port>,
    /// It ends by itself after so many milliseconds.
    pub for_ms: Option<u64>,
}

impl From<FabricError> for Failure {
    fn from(error: FabricError) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl Daemon {
    /// The fabric; machines with a network of their own have none.
    fn fabric(&self) -> Result<&Fabric, Failure> {
        match &self.network {
            Network::Fabric(fabric) => Ok(fabric),
            Network::Relays(..) => Err(Failure(
                StatusCode::BAD_REQUEST,
                "the machines' network is not ours, so that its frames are not seen here".into(),
            )),
        }
    }

    /// The directed links meant; an unknown port is an error.
    fn links(&self, links: &Links) -> Result<Vec<(Port, Port)>, Failure> {
        let ports = match &self.network {
            Network::Fabric(fabric) => fabric.ports().to_vec(),
            Network::Relays(_, machines) => machines.ports(),
        };
        if let Some(unknown) = links.named().find(|port| !ports.contains(port)) {
            let known: Vec<String> = ports.iter().map(Port::to_string).collect();
            return Err(Failure(
                StatusCode::NOT_FOUND,
                format!(
                    "node `{unknown}` does not exist; there are {}",
                    known.join(", ")
                ),
            ));
        }
        Ok(links.among(&ports))
    }
}

pub(super) async fn change(
    State(daemon): Shared,
    Json(change): Json<LinkChange>,
) -> Result<Json<Vec<LinkEffect>>, Failure> {
    let links = daemon.links(&change.links)?;
    if let Network::Relays(_, machines) = &daemon.network {
        return Ok(Json(machines.change(&change).await.map_err(unable)?));
    }
    let layer = Layer {
        tag: change.tag,
        lasts: change.lasts,
        seed: change.seed,
    };
    for (from, to) in &links {
        daemon.fabric()?.set_rule(from, to, change.rule, &layer)?;
    }
    let acts_since = Instant::now();
    let plan = ProbePlan::for_rule(&change.rule);
    let measure = |(from, to): (Port, Port)| {
        let daemon = daemon.clone();
        async move {
            let measured = daemon.fabric()?.measure(&from, &to, plan).await?;
            let verified = measured.shows(&change.rule);
            Ok::<_, Failure>(LinkEffect {
                from,
                to,
                measured,
                verified,
                acted_for: acts_since.elapsed(),
            })
        }
    };
    let effects: Vec<_> = futures::stream::iter(links)
        .map(measure)
        .buffered(MEASURED_AT_ONCE)
        .collect()
        .await;
    Ok(Json(effects.into_iter().collect::<Result<_, _>>()?))
}

pub(super) async fn heal(
    State(daemon): Shared,
    Json(heal): Json<LinkHeal>,
) -> Result<Json<()>, Failure> {
    let links = daemon.links(&heal.links)?;
    if let Network::Relays(_, machines) = &daemon.network {
        return Ok(Json(machines.heal(&heal).await.map_err(unable)?));
    }
    for (from, to) in links {
        daemon
            .fabric()?
            .heal(Some((&from, &to)), heal.tag.as_deref())?;
    }
    Ok(Json(()))
}

pub(super) async fn states(State(daemon): Shared) -> Result<Json<Vec<LinkState>>, Failure> {
    if let Network::Relays(_, machines) = &daemon.network {
        return Ok(Json(machines.states().await));
    }
    let fabric = daemon.fabric()?;
    let acting = fabric.rules();
    let state = |(from, to): (Port, Port)| {
        let of_link = acting
            .iter()
            .filter(|(sender, receiver, ..)| *sender == from && *receiver == to);
        let rules = of_link
            .map(|(_, _, tag, rule)| (tag.clone(), *rule))
            .collect();
        Ok::<_, Failure>(LinkState {
            rules,
            counters: Some(fabric.counters(&from, &to)?),
            from,
            to,
        })
    };
    Ok(Json(
        daemon
            .links(&Links::all())?
            .into_iter()
            .map(state)
            .collect::<Result<_, _>>()?,
    ))
}

/// What a machine said when it could not.
fn unable(what: String) -> Failure {
    Failure(StatusCode::BAD_GATEWAY, what)
}

pub(super) async fn capture(
    State(daemon): Shared,
    Query(request): Query<CaptureRequest>,
) -> Result<Response, Failure> {
    let filter = match (request.port, request.from, request.to) {
        (Some(port), None, None) => CaptureFilter::Port(port),
        (None, Some(from), Some(to)) => CaptureFilter::Link(from, to),
        _ => {
            return Err(Failure(
                StatusCode::BAD_REQUEST,
                "name a node, or both ends of a link".into(),
            ));
        }
    };
    let capture = daemon
        .fabric()?
        .capture(&filter, request.for_ms.map(Duration::from_millis))?;
    Ok(Body::from_stream(capture.map(Ok::<_, std::convert::Infallible>)).into_response())
}
