//! Faults that our binary begins and ends on a machine, as the host orders them: `machine fault`, with an order on standard input.
//!
//! Each order is idempotent. One that acts for a time holds its own deadline on the machine (a timer or a unit of systemd that ends),
//! so that nothing stays broken when the host is gone.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::node_memory::Amount;
use super::role_kill::Role;
use super::silence::Served;
use super::{
    MachineError, container_oom, node_cpu, node_memory, pod_freeze, pod_kill, role_kill, silence,
};

/// What a machine is to do to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Kill all processes of these pods' containers.
    KillPods {
        /// The pods' uids.
        pods: Vec<String>,
        /// Whenever they come back, for so long; 0: once.
        again_s: u64,
        /// The step that it belongs to.
        name: String,
    },
    /// Kill them again and again until this process ends: what a unit of [`Self::KillPods`] does.
    KeepKilling {
        /// The pods' uids.
        pods: Vec<String>,
    },
    /// Kill them no more.
    StopKilling {
        /// The step that it belongs to.
        name: String,
    },
    /// Let all processes of these pods stand still.
    FreezePods {
        /// The pods' uids.
        pods: Vec<String>,
        /// They go on after this by themselves.
        hold_s: u64,
        /// The step that it belongs to.
        name: String,
    },
    /// Let them go on.
    ThawPods {
        /// The pods' uids.
        pods: Vec<String>,
        /// The step that it belongs to.
        name: String,
    },
    /// Kill the main process of one of our services.
    KillRole {
        /// Which.
        role: Role,
        /// It stays down for at most so long; 0: it is started again as after a crash.
        down_s: u64,
        /// The step that it belongs to.
        name: String,
    },
    /// Let it run, if it is down.
    StartRole {
        /// Which.
        role: Role,
        /// The step that it belongs to.
        name: String,
    },
    /// Take a share of all processors together.
    TakeProcessor {
        /// In thousandths.
        permille: u64,
        /// It is given back after this.
        for_s: u64,
        /// The step that it belongs to.
        name: String,
    },
    /// Use all that is given until this process ends: what a unit of [`Self::TakeProcessor`] does.
    KeepBusy,
    /// Give it back.
    LeaveProcessor {
        /// The step that it belongs to.
        name: String,
    },
    /// Take memory.
    TakeMemory {
        /// How much.
        amount: Amount,
        /// It is given back after this.
        for_s: u64,
        /// The step that it belongs to.
        name: String,
    },
    /// Hold memory until this process ends: what a unit of [`Self::TakeMemory`] does.
    HoldMemory {
        /// How much.
        bytes: u64,
    },
    /// Give it back.
    LeaveMemory {
        /// The step that it belongs to.
        name: String,
    },
    /// Let the containers of these pods hit their memory limits.
    ExhaustPods {
        /// The pods' uids.
        pods: Vec<String>,
        /// Whenever they come back, for so long; 0: once.
        again_s: u64,
        /// The step that it belongs to.
        name: String,
    },
    /// Let them again and again until this process ends: what a unit of [`Self::ExhaustPods`] does.
    KeepExhausting {
        /// The pods' uids.
        pods: Vec<String>,
    },
    /// Let them no more.
    StopExhausting {
        /// The pods' uids.
        pods: Vec<String>,
        /// The step that it belongs to.
        name: String,
    },
    /// Give containers the limits that they had: what a timer of [`Self::ExhaustPods`] does.
    PutLimitsBack {
        /// Control groups, and the limit of each as the kernel writes it.
        limits: Vec<(PathBuf, String)>,
    },
    /// Drop what is sent to a service from here.
    Silence {
        /// Which.
        service: Served,
        /// It passes again after this.
        hold_s: u64,
        /// The step that it belongs to.
        name: String,
    },
    /// Let it pass.
    Hear {
        /// Which.
        service: Served,
        /// The step that it belongs to.
        name: String,
    },
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Whether the effect itself was observed.
    pub verified: bool,
    /// What was measured, in words.
    pub measured: String,
    /// How long ago it took effect.
    pub acted_for_ms: u64,
}

impl Seen {
    /// It took effect at `since`.
    pub(super) fn new(verified: bool, measured: String, since: Instant) -> Self {
        Self {
            verified,
            measured,
            acted_for_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// How long ago it took effect.
    #[must_use]
    pub fn acted_for(&self) -> Duration {
        Duration::from_millis(self.acted_for_ms)
    }
}

impl Order {
    /// As it is handed on.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("an order is plain data")
    }

    /// Does it and measures what came of it.
    ///
    /// # Errors
    /// When it cannot be done; then nothing acts for longer than its deadline.
    pub async fn obey(self) -> Result<Seen, MachineError> {
        match self {
            Self::KillPods {
                pods,
                again_s,
                name,
            } => pod_kill::kill(&pods, again_s, &name).await,
            Self::KeepKilling { pods } => pod_kill::keep_killing(&pods).await,
            Self::StopKilling { name } => pod_kill::stop_killing(&name),
            Self::FreezePods { pods, hold_s, name } => {
                pod_freeze::freeze(&pods, hold_s, &name).await
            }
            Self::ThawPods { pods, name } => pod_freeze::thaw(&pods, &name).await,
            Self::KillRole { role, down_s, name } => role_kill::kill(role, down_s, &name).await,
            Self::StartRole { role, name } => role_kill::start(role, &name).await,
            Self::TakeProcessor {
                permille,
                for_s,
                name,
            } => node_cpu::take(permille, for_s, &name).await,
            Self::KeepBusy => node_cpu::keep_busy().await,
            Self::LeaveProcessor { name } => node_cpu::give_back(&name),
            Self::TakeMemory {
                amount,
                for_s,
                name,
            } => node_memory::take(amount, for_s, &name).await,
            Self::HoldMemory { bytes } => node_memory::hold(bytes).await,
            Self::LeaveMemory { name } => node_memory::give_back(&name),
            Self::ExhaustPods {
                pods,
                again_s,
                name,
            } => container_oom::exhaust(&pods, again_s, &name).await,
            Self::KeepExhausting { pods } => container_oom::keep_exhausting(&pods).await,
            Self::StopExhausting { pods, name } => container_oom::stop_exhausting(&pods, &name),
            Self::PutLimitsBack { limits } => container_oom::put_back(&limits),
            Self::Silence {
                service,
                hold_s,
                name,
            } => silence::silence(service, hold_s, &name).await,
            Self::Hear { service, name } => silence::hear(service, &name).await,
        }
    }
}
