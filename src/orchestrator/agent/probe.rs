//! Probes: what is asked, when, and what the answers add up to.
//!
//! Source: `pkg/kubelet/prober/worker.go`. [`Tracker`] is pure; [`watch_container`] runs one probe of one container instance on
//! tokio's clock; [`Prober`] is what asks, so that tests answer in its place.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Which of a container's three probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Failure kills the container.
    Liveness,
    /// Failure takes the pod out of its Services.
    Readiness,
    /// The others wait until it has succeeded; failure kills the container.
    Startup,
}

impl Kind {
    /// As Kubernetes writes it in event messages.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }
}

/// What is asked of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// `GET`; 200 to 399 is a success.
    Http {
        /// Whether TLS is spoken; the certificate is not verified, as in Kubernetes.
        tls: bool,
        /// Address, when the manifest names one in place of the pod's own.
        host: Option<Ipv4Addr>,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// A connection that opens is a success.
    Tcp {
        /// See `Http`.
        host: Option<Ipv4Addr>,
        /// Port.
        port: u16,
    },
    /// gRPC's own health check; SERVING is a success.
    Grpc {
        /// Whether TLS is spoken; the certificate is not verified.
        tls: bool,
        /// Port.
        port: u16,
        /// The service asked for; empty for the server itself.
        service: String,
    },
    /// Exit code 0 is a success.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// What cannot be asked always fails, with this reason.
    Impossible {
        /// Why.
        why: String,
    },
}

/// One probe with Kubernetes' defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Which.
    pub(crate) kind: Kind,
    /// What.
    pub(crate) action: Action,
    /// From the container's start to the first question.
    pub(crate) initial_delay: Duration,
    /// Between questions.
    pub(crate) period: Duration,
    /// For an answer.
    pub(crate) timeout: Duration,
    /// Successes in a row that change the verdict.
    pub(crate) success_threshold: u32,
    /// Failures in a row that change the verdict.
    pub(crate) failure_threshold: u32,
    /// The probe's own grace for the kill it causes.
    pub(crate) grace: Option<Duration>,
}

/// The probes of a container.
pub(crate) fn plans(container: &Container) -> Vec<Plan> {
    let probes = [
        (Kind::Startup, &container.startup_probe),
        (Kind::Liveness, &container.liveness_probe),
        (Kind::Readiness, &container.readiness_probe),
    ];
    probes
        .into_iter()
        .filter_map(|(kind, probe)| probe.as_ref().map(|probe| plan(kind, probe, container)))
        .collect()
}

fn plan(kind: Kind, probe: &Probe, container: &Container) -> Plan {
    let seconds = |value: Option<i32>, default: u64, least: u64| {
        Duration::from_secs(
            value
                .and_then(|value| u64::try_from(value).ok())
                .map_or(default, |value| value.max(least)),
        )
    };
    let count = |value: Option<i32>, default: u32| {
        value
            .and_then(|value| u32::try_from(value).ok())
            .filter(|&value| value > 0)
            .unwrap_or(default)
    };
    Plan {
        kind,
        action: action(probe, container),
        initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
        period: seconds(probe.period_seconds.filter(|&value| value != 0), 10, 1),
        timeout: seconds(probe.timeout_seconds.filter(|&value| value != 0), 1, 1),
        success_threshold: count(probe.success_threshold, 1),
        failure_threshold: count(probe.failure_threshold, 3),
        grace: probe
            .termination_grace_period_seconds
            .and_then(|value| u64::try_from(value).ok())
            .map(Duration::from_secs),
    }
}

/// A port by number or by the container's own name for it.
pub(crate) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|known| known.name.as_deref() == Some(name))
            .map(|known| known.container_port)
            .or_else(|| name.parse().ok()),
    };
    match number.and_then(|number| u16::try_from(number).ok()) {
        Some(number) if number > 0 => Ok(number),
        _ => Err(format!(
            "couldn't find port {}",
            match port {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            }
        )),
    }
}

/// Which address `host` names: `None` is the pod's own.
fn host_address(host: Option<&String>) -> Result<Option<Ipv4Addr>, String> {
    match host.map(String::as_str) {
        None | Some("") => Ok(None),
        Some("localhost") => Ok(Some(Ipv4Addr::LOCALHOST)),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| format!("host `{text}` is not an IPv4 address")),
    }
}

/// What an `httpGet` asks for, probe or hook.
pub(crate) fn http_action(
    get: &k8s_openapi::api::core::v1::HTTPGetAction,
    container: &Container,
) -> Action {
    let made = resolve_port(&get.port, container)
        .and_then(|port| host_address(get.host.as_ref()).map(|host| (port, host)));
    match made {
        Err(why) => Action::Impossible { why },
        Ok((port, host)) => {
            let path = get
                .path
                .clone()
                .filter(|path| !path.is_empty())
                .unwrap_or_else(|| "/".into());
            Action::Http {
                tls: get.scheme.as_deref() == Some("HTTPS"),
                host,
                port,
                path: if path.starts_with('/') {
                    path
                } else {
                    format!("/{path}")
                },
                headers: get
                    .http_headers
                    .iter()
                    .flatten()
                    .map(|header| (header.name.clone(), header.value.clone()))
                    .collect(),
            }
        }
    }
}

fn action(probe: &Probe, container: &Container) -> Action {
    if let Some(get) = &probe.http_get {
        http_action(get, container)
    } else if let Some(socket) = &probe.tcp_socket {
        match resolve_port(&socket.port, container)
            .and_then(|port| host_address(socket.host.as_ref()).map(|host| (port, host)))
        {
            Ok((port, host)) => Action::Tcp { host, port },
            Err(why) => Action::Impossible { why },
        }
    } else if let Some(exec) = &probe.exec {
        Action::Exec {
            command: exec.command.clone().unwrap_or_default(),
        }
    } else if let Some(grpc) = &probe.grpc {
        match resolve_port(&IntOrString::Int(grpc.port), container) {
            Ok(port) => Action::Grpc {
                tls: grpc.mode.as_deref() == Some("TLS"),
                port,
                service: grpc.service.clone().unwrap_or_default(),
            },
            Err(why) => Action::Impossible { why },
        }
    } else {
        Action::Impossible {
            why: "the probe asks nothing: httpGet, tcpSocket, grpc or exec".into(),
        }
    }
}

/// Adds answers up to verdicts.
#[derive(Debug, Clone)]
pub(crate) struct Tracker {
    success_threshold: u32,
    failure_threshold: u32,
    streak: u32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Tracker {
    /// No answers so far; `verdict` is what is believed until enough of them say otherwise.
    pub(crate) fn new(plan: &Plan, verdict: Option<bool>) -> Self {
        Self {
            success_threshold: plan.success_threshold,
            failure_threshold: plan.failure_threshold,
            streak: 0,
            last: None,
            verdict,
        }
    }

    /// Counts an answer; `Some` when it changes the verdict.
    pub(crate) fn record(&mut self, good: bool) -> Option<bool> {
        self.streak = if self.last == Some(good) {
            self.streak.saturating_add(1)
        } else {
            1
        };
        self.last = Some(good);
        let needed = if good {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        if self.streak < needed || self.verdict == Some(good) {
            return None;
        }
        self.verdict = Some(good);
        Some(good)
    }
}

/// So many silences in a row are not counted against a container while its machine has no processor to spare.
const EXCUSES_MAX: u32 = 3;
/// The agent itself woke later than this: the machine was not run, or not enough.
const LATE: Duration = Duration::from_millis(200);
/// Something waited for a processor for more than this share of the time.
const WAITED_SHARE: f64 = 0.6;

/// Whether a machine had no processor to spare while a question stayed without an answer until its `timeout`: it took `took` to notice,
/// and meanwhile something `waited` for a processor for so long.
fn starved(timeout: Duration, took: Duration, waited: Duration) -> bool {
    took > timeout + LATE || waited > took.mul_f64(WAITED_SHARE)
}

/// Silences that were not counted, since the last answer.
#[derive(Debug, Default)]
struct Excuses {
    taken: u32,
}

impl Excuses {
    /// Whether this one is excused.
    fn take(&mut self, starved: bool, good: bool) -> bool {
        if good {
            self.taken = 0;
        }
        let excused = starved && self.taken < EXCUSES_MAX;
        self.taken += u32::from(excused);
        excused
    }
}

/// What a probe has to say to its pod's worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The container.
    pub(crate) container: String,
    /// Which instance of it: its restart count.
    pub(crate) instance: u32,
    /// Which probe.
    pub(crate) kind: Kind,
    /// A verdict, when this answer changed it.
    pub(crate) verdict: Option<bool>,
    /// Why the answer was a failure.
    pub(crate) failure: Option<String>,
    /// Whether the failure says nothing about the container: the machine had no processor to spare.
    pub(crate) excused: bool,
    /// The grace of the kill that a verdict may cause.
    pub(crate) grace: Option<Duration>,
}

/// Asks one question; the caller bounds its time.
pub(crate) trait Prober: Send + Sync + 'static {
    /// For how long something on this machine has waited for a processor, since it booted; `None` where its kernel does not say.
    fn processor_waited(&self) -> Option<Duration>;

    /// `Err` says why the answer is a failure.
    fn ask(
        &self,
        action: &Action,
        address: Ipv4Addr,
        container: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// One instance of a container, as a probe sees it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) container: String,
    /// Its restart count.
    pub(crate) instance: u32,
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
    /// How long it runs already.
    pub(crate) age: Duration,
    /// What the API says of its readiness, for an adopted container.
    pub(crate) ready: bool,
}

/// Probes until dropped, or until a startup probe has succeeded. `started` is false while a startup probe is still to succeed.
pub(crate) async fn watch_container<P: Prober>(
    prober: &P,
    plan: Plan,
    target: Target,
    mut started: watch::Receiver<bool>,
    reports: mpsc::Sender<Report>,
) {
    let begun = Instant::now();
    if plan.kind != Kind::Startup && started.wait_for(|&started| started).await.is_err() {
        return;
    }
    tokio::time::sleep_until(begun + plan.initial_delay.saturating_sub(target.age)).await;
    let initial = match plan.kind {
        Kind::Liveness => Some(true),
        Kind::Readiness => Some(target.ready),
        Kind::Startup => None,
    };
    let mut tracker = Tracker::new(&plan, initial);
    let mut excuses = Excuses::default();
    let mut failing = false;
    let mut ticks = tokio::time::interval(plan.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ask = prober.ask(
            &plan.action,
            target.address,
            &target.container,
            plan.timeout,
        );
        let (asked, waited) = (Instant::now(), prober.processor_waited());
        let answered = tokio::time::timeout(plan.timeout, ask).await;
        let silent = answered.is_err();
        let mut answer = answered
            .unwrap_or_else(|_| Err(format!("no answer within {} s", plan.timeout.as_secs())));
        let strained = plan.kind == Kind::Liveness && silent && {
            let waited = waited.zip(prober.processor_waited());
            let waited = waited.map_or(Duration::ZERO, |(then, now)| now.saturating_sub(then));
            starved(plan.timeout, asked.elapsed(), waited)
        };
        let excused = excuses.take(strained, answer.is_ok());
        if let (true, Err(why)) = (excused, &mut answer) {
            let (taken, most) = (excuses.taken, EXCUSES_MAX);
            *why += &format!(
                "; not counted, since this node had no processor to spare ({taken} of at most {most} in a row)"
            );
        }
        let verdict = if excused {
            None
        } else {
            tracker.record(answer.is_ok())
        };
        // A success that follows a failure is news, even where the verdict stays.
        let recovered = std::mem::replace(&mut failing, answer.is_err()) && answer.is_ok();
        if verdict.is_none() && answer.is_ok() && !recovered {
            continue;
        }
        let report = Report {
            container: target.container.clone(),
            instance: target.instance,
            kind: plan.kind,
            verdict,
            failure: answer.err(),
            excused,
            grace: plan.grace,
        };
        if reports.send(report).await.is_err() || (plan.kind == Kind::Startup && verdict.is_some())
        {
            return;
        }
    }
}

/// Between two looks whether a container listens.
const LISTEN_LOOK: Duration = Duration::from_millis(100);
/// Patience of one look at one port.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(1);
/// A container that does not listen for so long is ready all the same: a declared port is only a remark in Kubernetes.
const LISTEN_PATIENCE: Duration = Duration::from_secs(20);

/// The TCP ports that a container declares.
pub(crate) fn listening_ports(container: &Container) -> Vec<u16> {
    let tcp =
        |protocol: &Option<String>| protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let declared = container
        .ports
        .iter()
        .flatten()
        .filter(|port| tcp(&port.protocol));
    declared
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect()
}

/// Whether a container is ready from its first moment: it has no readiness probe, and no port that could tell.
pub(crate) fn ready_at_once(container: &Container) -> bool {
    container.readiness_probe.is_none() && listening_ports(container).is_empty()
}

/// So many answers in a row that are not much slower than the quickest so far show that a program has loaded what it needs.
const STEADY_ANSWERS: u32 = 3;
/// An answer may take so much longer than twice the quickest and still be as quick.
const JITTER: Duration = Duration::from_millis(50);

/// How a new container's answers become quicker.
#[derive(Debug, Default)]
struct WarmUp {
    quickest: Option<Duration>,
    steady: u32,
}

impl WarmUp {
    /// Counts an answer that took so long; whether there were enough of one speed.
    fn is_steady(&mut self, took: Duration) -> bool {
        let quickest = self.quickest.map_or(took, |quickest| quickest.min(took));
        let slower_before = self
            .quickest
            .is_some_and(|before| before > 2 * took + JITTER);
        self.quickest = Some(quickest);
        self.steady = match (took <= 2 * quickest + JITTER, slower_before) {
            (true, false) => self.steady + 1,
            // Much quicker than all before: those are not its speed.
            (true, true) => 1,
            (false, _) => 0,
        };
        self.steady >= STEADY_ANSWERS
    }
}

/// Patience with the first answers.
const FIRST_ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What a container without a readiness probe is asked before it is ready: what its liveness probe asks by HTTP.
pub(crate) fn first_question(container: &Container) -> Option<Action> {
    let liveness = plans(container)
        .into_iter()
        .find(|plan| plan.kind == Kind::Liveness)?;
    matches!(liveness.action, Action::Http { .. }).then_some(liveness.action)
}

/// Reports a container without a readiness probe as ready when every port that it declares accepts and it has answered `question` a few
/// times at one speed, or patience is over. A program's first answers take longest, since it loads what it needs for them: no client
/// shall wait for that. What the answers say is of no consequence, that is for the probe itself to judge, when its time has come.
pub(crate) async fn wait_listening<P: Prober>(
    prober: &P,
    ports: &[u16],
    question: Option<Action>,
    target: Target,
    reports: mpsc::Sender<Report>,
) {
    let patience = tokio::time::sleep(LISTEN_PATIENCE.saturating_sub(target.age));
    let listening = async {
        for &port in ports {
            let action = Action::Tcp { host: None, port };
            loop {
                let ask = prober.ask(&action, target.address, &target.container, LISTEN_TIMEOUT);
                if let Ok(Ok(())) = tokio::time::timeout(LISTEN_TIMEOUT, ask).await {
                    break;
                }
                tokio::time::sleep(LISTEN_LOOK).await;
            }
        }
        if let Some(question) = question {
            let mut pace = WarmUp::default();
            let steady = async {
                loop {
                    let asked = Instant::now();
                    let ask = prober.ask(
                        &question,
                        target.address,
                        &target.container,
                        FIRST_ANSWER_PATIENCE,
                    );
                    // What it says is of no consequence here.
                    let _ = ask.await;
                    if pace.is_steady(asked.elapsed()) {
                        break;
                    }
                }
            };
            // Steady or not, it has had its time.
            let _ = tokio::time::timeout(FIRST_ANSWER_PATIENCE, steady).await;
        }
    };
    tokio::select! {
        () = listening => {}
        () = patience => tracing::info!(container = target.container, "a declared port does not accept; it counts as ready"),
    }
    let (container, instance) = (target.container, target.instance);
    let report = Report {
        container,
        instance,
        kind: Kind::Readiness,
        verdict: Some(true),
        failure: None,
        excused: false,
        grace: None,
    };
    // Nobody to hear it: the pod is gone.
    let _ = reports.send(report).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn grpc_probes_ask_the_health_service() {
        let plans = plans(&container(
            json!({"name":"c","startupProbe":{"grpc":{"port":50051,"service":"web"}},"livenessProbe":{"grpc":{"port":1,"mode":"TLS"}}}),
        ));
        let actions: Vec<&Action> = plans.iter().map(|plan| &plan.action).collect();
        let grpc = |tls, port, service: &str| Action::Grpc {
            tls,
            port,
            service: service.into(),
        };
        assert_eq!(actions, [&grpc(false, 50051, "web"), &grpc(true, 1, "")]);
    }

    #[test]
    fn defaults_and_named_ports() {
        let plans = plans(&container(
            json!({"name":"c","ports":[{"name":"http","containerPort":8080}],
            "livenessProbe":{"httpGet":{"path":"live","port":"http"}},
            "readinessProbe":{"tcpSocket":{"port":"nope"},"periodSeconds":2,"failureThreshold":1}}),
        ));
        assert_eq!(
            plans[0].action,
            Action::Http {
                tls: false,
                host: None,
                port: 8080,
                path: "/live".into(),
                headers: vec![]
            }
        );
        assert_eq!(
            (
                plans[0].timeout.as_secs(),
                plans[0].period.as_secs(),
                plans[0].failure_threshold
            ),
            (1, 10, 3)
        );
        assert_eq!(
            plans[1].action,
            Action::Impossible {
                why: "couldn't find port nope".into()
            }
        );
        assert_eq!(
            (plans[1].period.as_secs(), plans[1].failure_threshold),
            (2, 1)
        );
    }

    #[test]
    fn verdicts_need_their_streak() {
        let plan = &plans(&container(
            json!({"name":"c","readinessProbe":{"exec":{},"successThreshold":2}}),
        ))[0];
        let mut tracker = Tracker::new(plan, Some(false));
        let verdicts: Vec<_> = [
            true, false, true, true, true, false, false, true, false, false, false, false,
        ]
        .into_iter()
        .map(|good| tracker.record(good))
        .collect();
        assert_eq!(verdicts[3], Some(true));
        assert_eq!(verdicts[10], Some(false));
        assert_eq!(verdicts.iter().flatten().count(), 2);
    }

    #[test]
    fn a_program_is_warm_when_its_answers_are_of_one_speed() {
        let answers = |took: &[u64]| {
            let mut warm_up = WarmUp::default();
            let steady = |ms: &u64| warm_up.is_steady(Duration::from_millis(*ms));
            took.iter().map(steady).collect::<Vec<bool>>()
        };
        assert_eq!(answers(&[900, 40, 30, 35]), [false, false, false, true]);
        assert_eq!(answers(&[30, 30, 30]), [false, false, true]);
        assert_eq!(
            answers(&[30, 300, 30, 30, 30]),
            [false, false, false, false, true]
        );
        // Slow by nature.
        assert_eq!(answers(&[1500, 1500, 1500]), [false, false, true]);
    }

    #[test]
    fn silence_on_a_starved_machine_is_excused_a_few_times() {
        let second = Duration::from_secs(1);
        let ms = Duration::from_millis;
        for (took, waited, wanted) in [
            (ms(1005), ms(100), false),
            (ms(1005), ms(500), false),
            (ms(1005), ms(700), true),
            (ms(1500), ms(0), true),
        ] {
            assert_eq!(starved(second, took, waited), wanted, "{took:?} {waited:?}");
        }
        let mut excuses = Excuses::default();
        let excused: Vec<bool> = [
            (true, false),
            (true, false),
            (false, false),
            (true, false),
            (true, false),
            (false, true),
            (true, false),
        ]
        .into_iter()
        .map(|(starved, good)| excuses.take(starved, good))
        .collect();
        assert_eq!(excused, [true, true, false, true, false, false, true]);
    }

    /// Answers from a list; `None` never answers.
    struct Script(Mutex<Vec<Option<Result<(), String>>>>);

    impl Prober for Script {
        fn processor_waited(&self) -> Option<Duration> {
            None
        }

        async fn ask(&self, _: &Action, _: Ipv4Addr, _: &str, _: Duration) -> Result<(), String> {
            let answer = self.0.lock().unwrap().pop().unwrap_or(Some(Ok(())));
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
    }

    /// Runs a probe with times of a millisecond until it has made `count` reports.
    async fn reports(
        kind: Kind,
        mut answers: Vec<Option<Result<(), String>>>,
        count: usize,
    ) -> Vec<(Option<bool>, bool)> {
        let mut plan = plans(&container(
            json!({"name":"c","livenessProbe":{"tcpSocket":{"port":80}}}),
        ))
        .remove(0);
        (plan.kind, plan.period, plan.timeout) =
            (kind, Duration::from_millis(1), Duration::from_millis(1));
        answers.reverse();
        let prober = Script(Mutex::new(answers));
        let (_keep, started) = watch::channel(true);
        let (send, mut receive) = mpsc::channel(8);
        let target = Target {
            container: "c".into(),
            instance: 0,
            address: Ipv4Addr::LOCALHOST,
            age: Duration::ZERO,
            ready: false,
        };
        let watching = watch_container(&prober, plan, target, started, send);
        let collect = async {
            let mut all = Vec::new();
            for _ in 0..count {
                let report = receive.recv().await.expect("the probe goes on");
                all.push((report.verdict, report.failure.is_some()));
            }
            all
        };
        tokio::select! {
            all = collect => all,
            () = watching => unreachable!("this probe goes on"),
        }
    }

    #[tokio::test]
    async fn a_container_without_a_readiness_probe_is_ready_when_all_its_ports_accept() {
        let declares = container(
            json!({"name":"c","ports":[{"containerPort":80},{"containerPort":53,"protocol":"UDP"},{"containerPort":443}]}),
        );
        assert_eq!(listening_ports(&declares), [80, 443]);
        assert!(!ready_at_once(&declares) && ready_at_once(&container(json!({"name":"c"}))));
        let refused = || Some(Err("refused".to_owned()));
        let prober = Script(Mutex::new(vec![
            refused(),
            Some(Ok(())),
            refused(),
            Some(Ok(())),
            refused(),
        ]));
        let (send, mut receive) = mpsc::channel(8);
        let target = Target {
            container: "c".into(),
            instance: 3,
            address: Ipv4Addr::LOCALHOST,
            age: Duration::ZERO,
            ready: false,
        };
        let question = first_question(&container(
            json!({"name":"c","livenessProbe":{"httpGet":{"port":80}}}),
        ));
        assert!(question.is_some());
        assert_eq!(
            first_question(&container(
                json!({"name":"c","livenessProbe":{"tcpSocket":{"port":80}}})
            )),
            None
        );
        wait_listening(&prober, &[80, 443], question, target, send).await;
        assert!(
            prober.0.lock().unwrap().is_empty(),
            "it was asked until both accepted, and then a few times more, whatever it said"
        );
        let report = receive.recv().await.unwrap();
        assert_eq!(
            (report.kind, report.verdict, report.instance),
            (Kind::Readiness, Some(true), 3)
        );
    }

    #[tokio::test]
    async fn silences_are_failures_and_three_a_verdict() {
        let got = reports(Kind::Liveness, vec![None, Some(Err("x".into())), None], 3).await;
        assert_eq!(got, [(None, true), (None, true), (Some(false), true)]);
        let got = reports(
            Kind::Liveness,
            vec![Some(Ok(())), None, Some(Ok(())), Some(Ok(())), None],
            3,
        )
        .await;
        assert_eq!(
            got,
            [(None, true), (None, false), (None, true)],
            "recovery is told once"
        );
        let got = reports(
            Kind::Readiness,
            vec![
                Some(Err("x".into())),
                Some(Ok(())),
                Some(Ok(())),
                Some(Err("y".into())),
            ],
            3,
        )
        .await;
        assert_eq!(got, [(None, true), (Some(true), false), (None, true)]);
    }
}
