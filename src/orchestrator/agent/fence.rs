//! Keeps service traffic away from this node's pods while its lease has lapsed and they may be replaced elsewhere.
//!
//! What is to be done is decided by [`Contact::look`]; this task asks the other workers, carries the decision out, and ends doubt, with or
//! without a fence, only when no replaced pod (one whose UID the API has no longer) is left here. It waits for nothing else meanwhile: an
//! API that does not answer must not keep it from fencing. Containers go on running behind the fence, and so do their probes:
//! nothing is restarted on account of a partition.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::contact::Contact;
use super::lease::{ASK_AFTER, Lease, PeerSaid};
use super::peers::Peers;
use super::runtime::Runtime;
use super::work::chain;
use crate::kubernetes::client::{Client, ListParams};

/// The lease is looked at so often while contact is missing or the fence is not down.
const ROUND: Duration = Duration::from_millis(100);
/// Other workers are asked so often while contact is missing, and so many at most: in a larger cluster the majority is that of this sample.
const ASK_EVERY: Duration = Duration::from_millis(850);
const ASKED_AT_MOST: usize = 16;
/// For the list of this node's pods before the fence is lifted, and how often it is asked for.
const LIST_LIMIT: Duration = Duration::from_secs(2);
const LIST_EVERY: Duration = Duration::from_millis(250);
/// A replaced pod that cannot be removed does not keep the others from serving for longer than this; nobody sends it anything any more.
const REMOVAL_LIMIT: Duration = Duration::from_mins(1);

/// Watches the lease, for ever.
pub(crate) async fn keep<R: Runtime>(
    client: Client,
    node: String,
    runtime: Arc<R>,
    peers: Arc<Peers>,
    contact: Arc<Contact>,
) {
    let mut fence = Fence {
        client,
        node,
        runtime,
        peers,
        contact,
        up: None,
        held_since: None,
        listing: None,
    };
    let (answers_in, mut answers) = mpsc::channel(ASKED_AT_MOST * 4);
    let (lists_in, mut lists) = mpsc::channel(1);
    let asked_workers = fence.peers.workers().len().min(ASKED_AT_MOST);
    let mut said: Vec<Option<PeerSaid>> = vec![None; asked_workers];
    let mut asked: Option<(Instant, AbortOnDropHandle<()>)> = None;
    let mut due = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            Some(listed) = lists.recv() => fence.listed(listed).await,
        }
        let now = Instant::now();
        while let Ok((worker, answer)) = answers.try_recv() {
            said[worker] = Some(answer);
        }
        let heard = fence.contact.heard();
        if now.saturating_duration_since(heard) > ASK_AFTER {
            if asked
                .as_ref()
                .is_none_or(|(asked, _)| now.saturating_duration_since(*asked) >= ASK_EVERY)
            {
                let (peers, out) = (fence.peers.clone(), answers_in.clone());
                let asking = tokio::spawn(async move { ask_all(&peers, now, out).await });
                // The questions before are at their limit, or nearly so; see `peers::ANSWER_WITHIN`.
                asked = Some((now, AbortOnDropHandle::new(asking)));
            }
        } else {
            asked = None;
        }
        fence.obey(fence.contact.look(now, &said), &lists_in).await;
        // While all is well, the next moment that matters is the one at which contact would be missed.
        let calm = heard + ASK_AFTER + Duration::from_millis(1);
        due = if fence.up == Some(false) && !fence.contact.is_in_doubt() {
            calm.max(now + ROUND)
        } else {
            now + ROUND
        };
        // The moment of the lapse is not missed by a part of a round.
        let lapse = fence.contact.lapse();
        if lapse > now {
            due = due.min(lapse);
        }
    }
}

async fn ask_all(peers: &Peers, asked: Instant, out: mpsc::Sender<(usize, PeerSaid)>) {
    let questions =
        peers
            .workers()
            .iter()
            .take(ASKED_AT_MOST)
            .enumerate()
            .map(|(worker, address)| {
                let out = out.clone();
                async move {
                    let found = peers.ask(*address).await;
                    let said = PeerSaid::new(asked, Instant::now(), &found);
                    if let Some(said) = said {
                        let _ = out.send((worker, said)).await;
                    }
                }
            });
    join_all(questions).await;
}

/// When the API was asked for this node's pods, and the UIDs it has.
type Listed = (Instant, Option<BTreeSet<String>>);

struct Fence<R> {
    client: Client,
    node: String,
    runtime: Arc<R>,
    peers: Arc<Peers>,
    contact: Arc<Contact>,
    /// Whether it is up; `None` after a start, when one of an agent before may be.
    up: Option<bool>,
    /// Since when the lease is held again while there is still doubt.
    held_since: Option<Instant>,
    /// When the API was asked last. It may be away, and the lease goes on meanwhile.
    listing: Option<(Instant, AbortOnDropHandle<()>)>,
}

impl<R: Runtime> Fence<R> {
    async fn obey(&mut self, lease: Lease, lists: &mpsc::Sender<Listed>) {
        if lease != Lease::Held {
            self.held_since = None;
            self.listing = None;
        }
        match lease {
            Lease::Fence if self.up != Some(true) => {
                self.set(
                    true,
                    "the lease has lapsed, and the pods may be replaced elsewhere",
                )
                .await;
            }
            Lease::LeftAlone(_) if self.up != Some(false) => {
                self.set(
                    false,
                    "the server is gone, and was before anything could be replaced",
                )
                .await;
            }
            Lease::Held if self.up != Some(false) || self.contact.is_in_doubt() => {
                let since = *self.held_since.get_or_insert_with(Instant::now);
                if since.elapsed() > REMOVAL_LIMIT {
                    self.contact.give_up_doubt();
                    self.trust().await;
                } else if self
                    .listing
                    .as_ref()
                    .is_none_or(|(asked, task)| task.is_finished() && asked.elapsed() > LIST_EVERY)
                {
                    self.list(lists.clone());
                }
            }
            Lease::Held => self.listing = None,
            Lease::Fence
            | Lease::ServeOn(_)
            | Lease::CutOff(_)
            | Lease::LeftAlone(_)
            | Lease::Undecided => {}
        }
    }

    async fn trust(&mut self) {
        self.held_since = None;
        self.listing = None;
        if self.up != Some(false) {
            self.set(false, "the server hears this node").await;
        }
    }

    async fn set(&mut self, up: bool, why: &str) {
        match self.runtime.fence(up).await {
            Ok(()) => {
                if self.up.is_some() || up {
                    tracing::warn!(up, why, "the fence around this node's pods");
                }
                self.up = Some(up);
                self.peers.set_fenced(up);
            }
            Err(error) => {
                tracing::error!(up, error = %chain(&error), "the fence around this node's pods cannot be set, trying again");
            }
        }
    }

    /// Asks the API for this node's pods.
    fn list(&mut self, lists: mpsc::Sender<Listed>) {
        let own = ListParams::fields(format!("spec.nodeName={}", self.node));
        let (client, asked) = (self.client.clone(), Instant::now());
        let listing = tokio::spawn(async move {
            let listed = timeout(LIST_LIMIT, client.list::<Pod>("", &own))
                .await
                .ok()
                .and_then(Result::ok);
            let known = listed.map(|listed| {
                listed
                    .items
                    .into_iter()
                    .filter_map(|pod| pod.metadata.uid)
                    .collect()
            });
            let _ = lists.send((asked, known)).await;
        });
        self.listing = Some((asked, AbortOnDropHandle::new(listing)));
    }

    /// The API has answered, or will not: whether every pod that runs here is one that it has.
    async fn listed(&mut self, (asked, known): Listed) {
        let is_last = self
            .listing
            .as_ref()
            .is_some_and(|(last, _)| *last == asked);
        let (true, Some(known), Ok(running)) = (is_last, known, self.runtime.list().await) else {
            return;
        };
        if running
            .iter()
            .all(|sandbox| known.contains(&sandbox.pod_uid))
            && self.contact.all_are_known(asked)
        {
            self.trust().await;
        }
    }
}
