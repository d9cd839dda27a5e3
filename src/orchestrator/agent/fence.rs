//! Keeps service traffic away from this node's pods while its lease has lapsed and they may be replaced elsewhere.
//!
//! What is to be done is decided by [`contact::judge`]; this task asks the other workers, carries the decision out, and lifts the fence only
//! when no replaced pod (one whose UID the API has no longer) is left here. Containers go on running behind the fence, and so do their probes:
//! nothing is restarted on account of a partition.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::contact::{ASK_AFTER, Contact, Lease, PeerSaid, Word, judge, lapses};
use super::peers::{Found, Peers};
use super::runtime::Runtime;
use super::work::chain;
use crate::kubernetes::client::{Client, ListParams};

/// The lease is looked at so often while contact is missing or the fence is not down.
const ROUND: Duration = Duration::from_millis(100);
/// Other workers are asked so often while contact is missing, and so many at most: in a larger cluster the majority is that of this sample.
const ASK_EVERY: Duration = Duration::from_millis(850);
const ASKED_AT_MOST: usize = 16;
/// For the list of this node's pods before the fence is lifted.
const LIST_LIMIT: Duration = Duration::from_secs(2);
/// A replaced pod that cannot be removed does not keep the others from serving for longer than this; nobody sends it anything any more.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// Watches the lease, for ever.
pub(crate) async fn keep<R: Runtime>(client: Client, node: String, runtime: Arc<R>, peers: Arc<Peers>, contact: Arc<Contact>) {
    let mut fence = Fence { client, node, runtime, peers, up: None, held_since: None };
    let (answers_in, mut answers) = mpsc::channel(ASKED_AT_MOST * 4);
    let asked_workers = fence.peers.workers().len().min(ASKED_AT_MOST);
    let mut said: Vec<Option<PeerSaid>> = vec![None; asked_workers];
    let mut asked: Option<(Instant, AbortOnDropHandle<()>)> = None;
    let mut due = Instant::now();
    loop {
        tokio::time::sleep_until(due).await;
        let now = Instant::now();
        while let Ok((worker, answer)) = answers.try_recv() {
            said[worker] = Some(answer);
        }
        let heard = contact.heard();
        if now.saturating_duration_since(heard) > ASK_AFTER {
            if asked.as_ref().is_none_or(|(asked, _)| now.saturating_duration_since(*asked) >= ASK_EVERY) {
                let (peers, out) = (fence.peers.clone(), answers_in.clone());
                let asking = tokio::spawn(async move { ask_all(&peers, now, out).await });
                // The questions before are at their limit, or nearly so; see `peers::ANSWER_WITHIN`.
                asked = Some((now, AbortOnDropHandle::new(asking)));
            }
        } else {
            asked = None;
        }
        fence.obey(judge(now, heard, &said, contact.patience())).await;
        // While all is well, the next moment that matters is the one at which contact would be missed.
        let calm = heard + ASK_AFTER + Duration::from_millis(1);
        due = if fence.up == Some(false) { calm.max(now + ROUND) } else { now + ROUND };
        // The moment of the lapse is not missed by a part of a round.
        let lapse = lapses(heard, contact.patience());
        if lapse > now {
            due = due.min(lapse);
        }
    }
}

async fn ask_all(peers: &Peers, asked: Instant, out: mpsc::Sender<(usize, PeerSaid)>) {
    let questions = peers.workers().iter().take(ASKED_AT_MOST).enumerate().map(|(worker, address)| {
        let out = out.clone();
        async move {
            let word = match peers.ask(*address).await {
                Found::Agent(hello) => Word::Contact(Duration::from_millis(hello.contact_ms)),
                Found::Machine => Word::Reached,
                Found::Silence => Word::Silence,
                Found::Late => return,
            };
            let _ = out.send((worker, PeerSaid { asked, word })).await;
        }
    });
    join_all(questions).await;
}

struct Fence<R> {
    client: Client,
    node: String,
    runtime: Arc<R>,
    peers: Arc<Peers>,
    /// Whether it is up; `None` after a start, when one of an agent before may be.
    up: Option<bool>,
    /// Since when the lease is held again while the fence is still up.
    held_since: Option<Instant>,
}

impl<R: Runtime> Fence<R> {
    async fn obey(&mut self, lease: Lease) {
        match lease {
            Lease::Fence => {
                self.held_since = None;
                if self.up != Some(true) {
                    self.set(true, "the lease has lapsed and no other worker answers that the server is gone").await;
                }
            }
            Lease::LeftAlone if self.up == Some(true) => {
                self.set(false, "the server is gone, and was before anything could be replaced").await
            }
            Lease::Held if self.up != Some(false) => {
                let since = *self.held_since.get_or_insert_with(Instant::now);
                if self.replaced_are_gone().await || since.elapsed() > REMOVAL_LIMIT {
                    self.held_since = None;
                    self.set(false, "the server hears this node").await;
                }
            }
            Lease::Held | Lease::ServeOn | Lease::LeftAlone | Lease::Undecided => {}
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
                tracing::error!(up, error = %chain(&error), "the fence around this node's pods cannot be set, trying again")
            }
        }
    }

    /// Whether every pod that runs here is one that the API has now.
    async fn replaced_are_gone(&self) -> bool {
        let own = ListParams::fields(format!("spec.nodeName={}", self.node));
        let Ok(Ok(listed)) = timeout(LIST_LIMIT, self.client.list::<Pod>("", &own)).await else { return false };
        let known: BTreeSet<String> = listed.items.into_iter().filter_map(|pod| pod.metadata.uid).collect();
        let Ok(running) = self.runtime.list().await else { return false };
        running.iter().all(|sandbox| known.contains(&sandbox.pod_uid))
    }
}
