//! How soon a stack that is in a snapshot serves again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ReplicationController;
use rustls::ClientConfig;
use tokio::time::{Instant, sleep, timeout};

use super::{Bench, Failure};
use crate::cli::environment::OwnCluster;
use crate::cli::figures::shipped;
use crate::cluster::life::{self, Cluster};
use crate::kubernetes::client::{Client, ListParams};
use crate::scenario::deploy::{self, Deployed, NAMESPACE};
use crate::scenario::load::{HttpRequest, ask_once, trust_only};
use crate::scenario::spec::Load;

/// The scenario whose stack it is.
const SCENARIO: &str = "failover";
/// The snapshot that holds it for the while of a run.
pub(super) const SNAPSHOT: &str = "bench-stack";
/// Pause between two looks at the replicas, which must not keep the machines busy.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Pause after a request that was not answered.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// The status of a good answer.
const GOOD: u16 = 200;

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct StackTimes {
    /// From the order to restore to the return of it.
    pub(super) restored: Duration,
    /// From there to the end of the first good answer.
    pub(super) served: Duration,
}

impl Bench {
    /// Deploys the stack, saves it, takes the cluster down, and restores it.
    pub(super) async fn stack(&self, cluster: Cluster) -> Result<StackTimes, Failure> {
        let scenario = shipped(&self.home, &self.spec.name, SCENARIO)?;
        let Some(load) = scenario.loads.values().next() else {
            return Err(Failure::new(format!(
                "scenario `{SCENARIO}` has no load to ask for"
            )));
        };
        self.live.step("deploying the stack");
        let deployed = deploy::deploy(&cluster.client, &scenario).await?;
        let tls = trust_only(deployed.trusted.clone());
        let within = scenario.deploy.wait;
        await_replicas(&cluster.client, &deployed, within).await?;
        self.await_answer(&cluster, load, &tls, within).await?;
        life::save(&self.home, &self.spec.name, SNAPSHOT, self.live.reporter()).await?;
        self.down(cluster).await?;

        // Unlike all others, this one is not owned: killed, this command leaves it.
        let begun = Instant::now();
        let cluster =
            life::restore(&self.home, &self.spec.name, SNAPSHOT, self.live.reporter()).await?;
        let restored = begun.elapsed();
        let served = self.await_answer(&cluster, load, &tls, within).await?;
        self.down(cluster).await?;
        life::remove_snapshot(&self.paths, SNAPSHOT)?;
        Ok(StackTimes { restored, served })
    }

    /// Asks on the prober's own way until there is a good answer; returns how long that took.
    async fn await_answer(
        &self,
        cluster: &Cluster,
        load: &Load,
        tls: &Arc<ClientConfig>,
        within: Duration,
    ) -> Result<Duration, Failure> {
        let dial = Arc::new(OwnCluster::new(cluster.daemon.clone(), &self.spec));
        let request = HttpRequest {
            dial,
            url: load.url.clone(),
            tls: Arc::clone(tls),
        };
        let begun = Instant::now();
        loop {
            let seen = match ask_once(&request, Instant::now() + load.deadline).await {
                Ok(answer) if answer.status == GOOD => return Ok(begun.elapsed()),
                Ok(answer) => format!("status {}", answer.status),
                Err(class) => class.name().to_owned(),
            };
            if begun.elapsed() > within {
                let waited = within.as_secs();
                return Err(Failure::new(format!(
                    "waited {waited} s for `{}` to answer; last seen: {seen}",
                    load.url.host
                )));
            }
            sleep(ASK_AGAIN).await;
        }
    }
}

async fn await_replicas(
    client: &Client,
    deployed: &Deployed,
    within: Duration,
) -> Result<(), Failure> {
    let ready = async {
        loop {
            let listed = client
                .list::<ReplicationController>(NAMESPACE, &ListParams::all())
                .await?
                .items;
            let is_ready = |(name, wanted): &(String, u32)| {
                let found = listed
                    .iter()
                    .find(|controller| controller.metadata.name.as_ref() == Some(name));
                let ready = found
                    .and_then(|controller| controller.status.as_ref()?.ready_replicas)
                    .unwrap_or_default();
                i64::from(ready) >= i64::from(*wanted)
            };
            if deployed.controllers.iter().all(is_ready) {
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    let late = |_| {
        Failure::new(format!(
            "waited {} s for the stack's replicas to be ready",
            within.as_secs()
        ))
    };
    timeout(within, ready).await.map_err(late)?
}
