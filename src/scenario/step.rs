//! Runs the steps: each starts when the one before has ended, at its `when`, or with others by `parallel`, and a failed one stops
//! those that have not begun.

mod inject;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::deploy::NAMESPACE;
use super::events::View;
use super::hopeless::{Hopeless, Hopes};
use super::live::Seen;
use super::load::{HttpRequest, ask_once};
use super::parallel::{Turn, turn};
use super::path::LoadPath;
use super::pods;
use super::report::{FaultReport, StepReport};
use super::run::{LOOK_AGAIN, Run};
use super::spec::{Action, Condition, Progress, Step, Url};
use super::steps::StepContext;
use crate::model::names::NodeName;

/// How long one question of an `http` step may take, and the pause before the next.
const HTTP_DEADLINE: Duration = Duration::from_secs(2);
const HTTP_PAUSE: Duration = Duration::from_millis(250);

/// What the steps brought.
#[derive(Debug, Default)]
pub(super) struct StepsOutcome {
    pub(super) steps: Vec<StepReport>,
    pub(super) faults: Vec<FaultReport>,
    pub(super) doubts: Vec<String>,
    /// By fault: the pods of the loads' paths at its place.
    pub(super) struck: BTreeMap<String, Vec<String>>,
    pub(super) on_path: PathsSeen,
}

/// The pods and machines that were on each load's path at some time.
#[derive(Debug, Default)]
pub(super) struct PathsSeen(BTreeMap<String, BTreeMap<String, String>>);

impl PathsSeen {
    /// Looks which pods are there now, and returns them all.
    pub(super) fn look(&mut self, paths: &[LoadPath], view: &View) -> BTreeMap<String, String> {
        let mut now = BTreeMap::new();
        for path in paths {
            let pods = path.pods(view);
            now.extend(pods.clone());
            self.0.entry(path.load.clone()).or_default().extend(pods);
        }
        now
    }

    pub(super) fn join(&mut self, other: Self) {
        for (load, pods) in other.0 {
            self.0.entry(load).or_default().extend(pods);
        }
    }

    /// Pods and machines of one load's path.
    pub(super) fn of(&self, load: &str) -> (Vec<String>, Vec<String>) {
        let pods = self.0.get(load).into_iter().flatten();
        let (pods, machines): (Vec<String>, BTreeSet<String>) =
            pods.map(|(pod, node)| (pod.clone(), node.clone())).unzip();
        (pods, machines.into_iter().collect())
    }
}

impl StepsOutcome {
    /// Steps that ran side by side are noted as they ended, and told as they began.
    fn by_start(mut self) -> Self {
        self.steps.sort_by_key(|step| step.start_ms);
        self.faults.sort_by_key(|fault| fault.requested_ms);
        self
    }
}

/// How far a step is.
#[derive(Debug, Clone, Default)]
struct State {
    /// When it began; a fault begins at its measured onset.
    begun: Option<Instant>,
    replaced: u32,
    node: Option<NodeName>,
    ended: bool,
}

/// Why a step did not succeed.
enum Problem {
    /// The stack did not do it.
    Failed(String),
    /// We could not do it.
    Doubt(String),
    /// Another step failed, or the run is cancelled.
    Stopped,
}

pub(super) struct Steps<'a> {
    run: &'a Run<'a>,
    view: &'a View,
    request: &'a (dyn Fn(&Url) -> HttpRequest + Sync),
    paths: &'a [LoadPath],
    states: Vec<watch::Sender<State>>,
    stop: CancellationToken,
    outcome: Mutex<StepsOutcome>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(
        run: &'a Run<'a>,
        view: &'a View,
        request: &'a (dyn Fn(&Url) -> HttpRequest + Sync),
        paths: &'a [LoadPath],
    ) -> Self {
        let states = run
            .scenario
            .steps
            .iter()
            .map(|_| watch::Sender::new(State::default()))
            .collect();
        Self {
            run,
            view,
            request,
            paths,
            states,
            stop: run.cancel.child_token(),
            outcome: Mutex::default(),
        }
    }

    /// Runs all steps to their ends; faults are healed when it returns.
    pub(super) async fn run_all(self) -> StepsOutcome {
        join_all((0..self.states.len()).map(|index| self.run_one(index))).await;
        self.outcome
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .by_start()
    }

    fn note(&self, note: impl FnOnce(&mut StepsOutcome)) {
        note(&mut self.outcome.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn run_one(&self, index: usize) {
        let step = &self.run.scenario.steps[index];
        let started = tokio::select! {
            () = self.wait_for_turn(index) => Instant::now(),
            () = self.stop.cancelled() => return,
        };
        self.run.tell(format!("step `{}` begins", step.id));
        self.run.environment.live.tell(|| Seen::StepBegan {
            id: step.id.clone(),
            at_ms: self.run.millis(started),
        });
        if !matches!(step.action, Action::Fault { .. }) {
            self.states[index].send_modify(|state| state.begun = Some(started));
        }
        let done = match &step.action {
            Action::Fault {
                fault,
                target,
                duration,
            } => self.fault(index, fault, target, *duration).await,
            Action::Wait { condition, within } => {
                self.stoppable(self.wait(condition, *within)).await
            }
            Action::RollingUpdate {
                from,
                to,
                update_period,
                within,
                ends,
            } => {
                self.stoppable(Box::pin(self.update(
                    index,
                    from,
                    to,
                    (*update_period, *within, *ends),
                )))
                .await
            }
            Action::Rollback { old, new, within } => {
                self.stoppable(self.roll_back(old, new, *within)).await
            }
            Action::DeletePod { rc, grace } => {
                let deleted = pods::delete_one(
                    &self.run.environment.client,
                    rc,
                    *grace,
                    self.run.environment.seed,
                )
                .await;
                deleted
                    .map(|pod| self.run.tell(format!("pod `{pod}` is deleted")))
                    .map_err(Problem::Failed)
            }
            Action::Exec(exec) => {
                let done = pods::exec(
                    &self.run.environment.client,
                    exec,
                    self.run.environment.seed,
                );
                self.stoppable(async { done.await.map_err(Problem::Failed) })
                    .await
            }
            Action::Apply(file) => pods::apply(&self.run.environment.client, file)
                .await
                .map_err(Problem::Failed),
            Action::Http {
                url,
                status,
                within,
            } => self.stoppable(self.http(url, *status, *within)).await,
            Action::Parallel(ids) => self.stoppable(self.all_ended(ids)).await,
            Action::Other(action) => {
                let faults_act = || self.faults_act();
                let tell = |text: String| self.run.tell(text);
                let context = StepContext {
                    client: &self.run.environment.client,
                    faults_act: &faults_act,
                    tell: &tell,
                };
                let done = action.run(&context);
                self.stoppable(async { done.await.map_err(Problem::Failed) })
                    .await
            }
        };
        let ended = Instant::now();
        let (start_ms, end_ms) = (self.run.millis(started), self.run.millis(ended));
        let failed = match done {
            Ok(()) => {
                self.run.tell(format!("step `{}` done", step.id));
                None
            }
            Err(ref problem) => self.failed(step, problem),
        };
        self.run.environment.live.tell(|| Seen::StepEnded {
            id: step.id.clone(),
            at_ms: end_ms,
            failed: failed.clone(),
        });
        let updates = match &step.action {
            Action::RollingUpdate { .. } => true,
            Action::Other(action) => action.updates(),
            _ => false,
        };
        self.note(|outcome| {
            outcome.steps.push(StepReport {
                id: step.id.clone(),
                start_ms,
                end_ms,
                updated: updates && done.is_ok(),
                failed,
            });
        });
        self.states[index].send_modify(|state| state.ended = true);
    }

    /// Notes a problem, and returns why the step failed. A failure while we are being cancelled says nothing about the stack.
    fn failed(&self, step: &Step, problem: &Problem) -> Option<String> {
        let id = &step.id;
        let mut failed = None;
        match problem {
            Problem::Failed(why) => {
                self.run.tell(format!("step `{id}` failed: {why}"));
                if self.run.cancel.is_cancelled() {
                    self.note(|outcome| outcome.doubts.push("interrupted".to_owned()));
                } else {
                    failed = Some(why.clone());
                }
            }
            Problem::Doubt(why) => {
                self.run.tell(format!("step `{id}`: {why}"));
                self.note(|outcome| outcome.doubts.push(format!("step `{id}`: {why}")));
            }
            Problem::Stopped => {}
        }
        self.stop.cancel();
        failed
    }

    async fn stoppable(
        &self,
        work: impl Future<Output = Result<(), Problem>>,
    ) -> Result<(), Problem> {
        tokio::select! {
            done = work => done,
            () = self.stop.cancelled() => Err(Problem::Stopped),
        }
    }

    async fn wait_for_turn(&self, index: usize) {
        let step = &self.run.scenario.steps[index];
        let Some(when) = &step.when else {
            match turn(&self.run.scenario.steps, index) {
                Turn::First => {}
                Turn::After(before) => self.until(before, |state| state.ended).await,
                Turn::With(starter) => {
                    self.until(starter, |state| state.begun.is_some() || state.ended)
                        .await;
                }
            }
            if let Some(draw) = &step.drawn {
                sleep(draw.pause).await;
            }
            return;
        };
        let other = self
            .run
            .scenario
            .steps
            .iter()
            .position(|step| step.id == when.step)
            .unwrap_or(0);
        match when.progress {
            Progress::Plus(plus) => {
                self.until(other, |state| state.begun.is_some() || state.ended)
                    .await;
                let begun = self.states[other]
                    .borrow()
                    .begun
                    .unwrap_or_else(Instant::now);
                tokio::time::sleep_until(begun + plus).await;
            }
            Progress::Replaced(count) => {
                self.until(other, |state| state.replaced >= count || state.ended)
                    .await
            }
        }
    }

    /// Waits until all of these steps have ended.
    async fn all_ended(&self, ids: &[String]) -> Result<(), Problem> {
        let steps = self.run.scenario.steps.iter().zip(0_usize..);
        let meant: Vec<usize> = steps
            .filter(|(step, _)| ids.contains(&step.id))
            .map(|(_, index)| index)
            .collect();
        for index in meant {
            self.until(index, |state| state.ended).await;
        }
        Ok(())
    }

    async fn until(&self, index: usize, condition: impl FnMut(&State) -> bool) {
        let mut state = self.states[index].subscribe();
        // The sender lives as long as `self`.
        drop(state.wait_for(condition).await);
    }

    async fn wait(&self, condition: &Condition, within: Duration) -> Result<(), Problem> {
        let done = async {
            let mut hopes = Hopes::default();
            while !self.holds(condition) {
                if let Some(lost) = hopes.look(Instant::now(), self.hopeless(condition)) {
                    let why = lost.words(&self.run.environment.client).await;
                    return Err(Problem::Failed(format!("{condition} cannot come: {why}")));
                }
                drop(timeout(LOOK_AGAIN, self.view.changed()).await);
            }
            Ok(())
        };
        let timed_out = |_| {
            let mut seen = vec![format!("{} nodes ready", self.view.nodes_ready())];
            seen.extend(self.view.pods_waiting());
            Problem::Failed(format!(
                "no {condition} within {} s; last seen: {}",
                within.as_secs(),
                seen.join("; ")
            ))
        };
        timeout(within, done).await.map_err(timed_out)?
    }

    /// Pods for which a condition waits in vain. While a fault acts, it may be for that alone.
    fn hopeless(&self, condition: &Condition) -> Vec<Hopeless> {
        match condition {
            Condition::ReplicasReady { rc, .. } if !self.faults_act() => {
                self.view.hopeless(Some((NAMESPACE, &[rc.as_str()])))
            }
            _ => Vec::new(),
        }
    }

    /// Whether a fault acts now.
    fn faults_act(&self) -> bool {
        let steps = self.run.scenario.steps.iter().zip(&self.states);
        let mut faults = steps.filter(|(step, _)| matches!(step.action, Action::Fault { .. }));
        faults.any(|(_, state)| {
            let state = state.borrow();
            state.begun.is_some() && !state.ended
        })
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::NodesReady(count) => {
                u32::try_from(self.view.nodes_ready()).is_ok_and(|ready| ready == *count)
            }
            Condition::ReplicasReady {
                rc,
                count,
                avoiding: None,
            } => self.view.replicas_ready(NAMESPACE, rc) >= *count,
            Condition::ReplicasReady {
                rc,
                count,
                avoiding: Some(fault),
            } => {
                let index = self
                    .run
                    .scenario
                    .steps
                    .iter()
                    .position(|step| step.id == *fault);
                let node = index.and_then(|index| self.states[index].borrow().node.clone());
                self.view
                    .replicas_ready_avoiding(NAMESPACE, rc, node.as_ref())
                    >= *count
            }
        }
    }

    async fn http(&self, url: &Url, status: u16, within: Duration) -> Result<(), Problem> {
        let until = Instant::now() + within;
        let request = (self.request)(url);
        loop {
            let seen = match ask_once(&request, (Instant::now() + HTTP_DEADLINE).min(until)).await {
                Ok(answer) if answer.status == status => return Ok(()),
                Ok(answer) => format!("status {}", answer.status),
                Err(class) => class.to_string(),
            };
            if Instant::now() + HTTP_PAUSE >= until {
                return Err(Problem::Failed(format!(
                    "{url} did not answer {status} within {} s; last: {seen}",
                    within.as_secs()
                )));
            }
            sleep(HTTP_PAUSE).await;
        }
    }

    async fn stoppable_value<T>(
        &self,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        tokio::select! {
            done = work => done,
            () = self.stop.cancelled() => Err(Problem::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_in_the_order_of_their_starts() {
        let step = |id: &str, start_ms: u64, end_ms: u64| StepReport {
            id: id.to_owned(),
            start_ms,
            end_ms,
            ..StepReport::default()
        };
        let steps = vec![
            step("inner", 200, 300),
            step("outer", 100, 900),
            step("last", 900, 950),
        ];
        let outcome = StepsOutcome {
            steps,
            ..StepsOutcome::default()
        }
        .by_start();
        assert_eq!(
            outcome
                .steps
                .iter()
                .map(|step| step.id.as_str())
                .collect::<Vec<_>>(),
            ["outer", "inner", "last"]
        );
    }
}
