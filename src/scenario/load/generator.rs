//! The schedules: one task a stream sends at intended times, one task a request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Answer, Connection, HTTP_2_ALPN, HttpRequest, Keep, Moments, Question};
use super::schedule::{Schedule, seed_of};
use super::via::through;
use super::{Class, LATE_MS, Pause, Record};
use crate::scenario::live::{LiveSender, Seen};
use crate::scenario::requests::{LoadSink, StreamSink};
use crate::scenario::spec::{HttpVersion, Load, StreamKind};

/// Idle connections that a `reused` stream keeps.
const IDLE_MAX: usize = 64;
/// How often the control echo looks whether the prober itself is awake.
const ECHO_PERIOD: Duration = Duration::from_millis(20);

/// Requests stay at hand for so much longer than a baseline looks back.
const KEPT_BEYOND: Duration = Duration::from_secs(5);
/// Looked so often, in requests, whether old ones can go.
const FORGET_EVERY: usize = 1024;

/// What a running load has recorded so far.
#[derive(Debug, Default)]
pub struct Shared {
    records: Mutex<Vec<Record>>,
    /// How long requests stay at hand, in milliseconds; all of them if it does not say.
    kept_ms: Option<f64>,
    pauses: Mutex<Vec<Pause>>,
    connections: AtomicU64,
}

impl Shared {
    /// A copy of the records that are at hand, by intended time.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records = self
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        records.sort_by(|a, b| a.intended_ms.total_cmp(&b.intended_ms));
        records
    }

    /// When the prober itself was asleep, as its control echo saw: all pauses beyond [`LATE_MS`].
    #[must_use]
    pub fn pauses(&self) -> Vec<Pause> {
        self.pauses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn keep(&self, record: Record) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let newest_ms = record.intended_ms;
        records.push(record);
        if let Some(kept_ms) = self.kept_ms
            && records.len().is_multiple_of(FORGET_EVERY)
        {
            records.retain(|record| newest_ms - record.intended_ms <= kept_ms);
        }
    }
}

/// A load that runs; dropping it aborts it.
pub struct Running {
    /// What it has recorded so far.
    pub shared: Arc<Shared>,
    stop: CancellationToken,
    streams: Vec<AbortOnDropHandle<()>>,
    _echo: AbortOnDropHandle<()>,
}

impl Running {
    /// Ends the schedules. What was sent goes on.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends the schedules, waits for every request's end (at most one deadline), and returns all records.
    pub async fn finish(self) -> Vec<Record> {
        self.stop();
        for stream in self.streams {
            // A stream task ends by itself; that it panicked would show as missing requests.
            drop(stream.await);
        }
        self.shared.records()
    }
}

/// Starts all streams of a load. Times are recorded relative to `epoch`, the start of the run; all requests stay at hand.
#[must_use]
pub fn start(load: &Load, request: HttpRequest, epoch: Instant) -> Running {
    start_streams(load, request, epoch, None, &LiveSender::default(), 0)
}

/// Starts all streams of a load whose requests go to `sink`, and to whoever looks; only those that its baseline looks at stay at hand.
/// The seed decides the times of Poisson arrival.
#[must_use]
pub fn start_kept(
    load: &Load,
    request: HttpRequest,
    epoch: Instant,
    sink: &LoadSink,
    live: &LiveSender,
    seed: u64,
) -> Running {
    start_streams(load, request, epoch, Some(sink), live, seed)
}

fn start_streams(
    load: &Load,
    request: HttpRequest,
    epoch: Instant,
    sink: Option<&LoadSink>,
    live: &LiveSender,
    seed: u64,
) -> Running {
    let request = as_load_wants(load, request);
    let kept = load.baseline.window + load.deadline + KEPT_BEYOND;
    let shared = Arc::new(Shared {
        kept_ms: sink.map(|_| kept.as_secs_f64() * 1000.0),
        ..Shared::default()
    });
    let stop = CancellationToken::new();
    let stages = load.rates();
    let first_rate = stages.first().map_or(load.rate, |stage| stage.rate);
    let period = Duration::from_secs_f64(1.0 / first_rate);
    let begin = Instant::now() + period;
    let name: Arc<str> = sink.map(LoadSink::load).unwrap_or_default().into();
    let streams = load.streams.iter().enumerate().map(|(index, &kind)| {
        let stream = Arc::new(Stream {
            kind,
            load: load.clone(),
            request: request.clone(),
            epoch,
            shared: Arc::clone(&shared),
            idle: Mutex::default(),
            sink: sink.and_then(|sink| sink.stream(kind)),
            live: live.clone(),
            name: Arc::clone(&name),
        });
        // The streams' schedules are interleaved, so that they do not disturb each other.
        let offset = period.mul_f64(
            f64::from(u32::try_from(index).unwrap_or(0))
                / f64::from(u32::try_from(load.streams.len()).unwrap_or(1)),
        );
        let seed = seed_of(seed, &name, kind.name());
        let schedule = Schedule::new(&stages, load.arrival, seed);
        let run = stream.run(begin + offset, schedule, stop.clone());
        AbortOnDropHandle::new(tokio::spawn(run))
    });
    let streams = streams.collect();
    let echo = AbortOnDropHandle::new(tokio::spawn(echo(Arc::clone(&shared), epoch)));
    Running {
        shared,
        stop,
        streams,
        _echo: echo,
    }
}

/// Speaks what the load speaks, by the way it names.
fn as_load_wants(load: &Load, mut request: HttpRequest) -> HttpRequest {
    if load.http == HttpVersion::Two {
        let mut tls = (*request.tls).clone();
        tls.alpn_protocols = vec![HTTP_2_ALPN.to_vec()];
        request.tls = Arc::new(tls);
    }
    if let Some(address) = load.via {
        request.dial = through(address);
    }
    request
}

struct Stream {
    kind: StreamKind,
    load: Load,
    request: HttpRequest,
    epoch: Instant,
    shared: Arc<Shared>,
    idle: Mutex<Vec<Connection>>,
    sink: Option<StreamSink>,
    live: LiveSender,
    name: Arc<str>,
}

impl Stream {
    async fn run(self: Arc<Self>, begin: Instant, schedule: Schedule, stop: CancellationToken) {
        // Bounded: a request lives for at most its deadline, so there are never more than rate × deadline of them.
        let mut requests = JoinSet::new();
        for (number, due) in (0_u64..).zip(schedule) {
            let intended = begin + due;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep_until(intended) => {}
            }
            requests.spawn(Arc::clone(&self).send(number, intended));
            while requests.try_join_next().is_some() {}
        }
        while requests.join_next().await.is_some() {}
        if let Some(sink) = &self.sink {
            sink.end().await;
        }
    }

    async fn send(self: Arc<Self>, number: u64, intended: Instant) {
        let sent = Instant::now();
        let mut moments = Moments::default();
        let mut connection_number = None;
        let asked = timeout_at(
            intended + self.load.deadline,
            self.ask(&mut moments, &mut connection_number),
        )
        .await;
        let end = Instant::now();
        if let (Err(_), Some(number)) = (&asked, connection_number) {
            self.forget(number);
        }
        let asked = asked.unwrap_or_else(|_| Err(moments.class_at_deadline()));
        let since = |at: Instant| at.saturating_duration_since(self.epoch).as_secs_f64() * 1000.0;
        let (class, answer) = match asked {
            Ok(answer) => {
                let good = &self.load.good;
                let class = good.class(answer.status, &answer.headers, &answer.body);
                (class, Some(answer))
            }
            Err(class) => (class, None),
        };
        let header = |name: &Option<String>| {
            let value = answer.as_ref()?.headers.get(name.as_ref()?)?;
            value.to_str().ok().map(str::to_owned)
        };
        let record = Record {
            stream: self.kind,
            intended_ms: since(intended),
            sent_ms: since(sent),
            connected_ms: moments.connected.map(since),
            first_byte_ms: moments.first_byte.map(since),
            end_ms: since(end),
            connection: connection_number,
            status: answer.as_ref().map(|answer| answer.status),
            version: header(&self.load.version_header),
            endpoint: header(&self.load.endpoint_header),
            class,
        };
        self.live
            .tell(|| Seen::Request(Arc::clone(&self.name), Box::new(record.clone())));
        if let Some(sink) = &self.sink {
            sink.keep(number, record.clone()).await;
        }
        self.shared.keep(record);
    }

    async fn ask(&self, moments: &mut Moments, number: &mut Option<u64>) -> Result<Answer, Class> {
        let taken = if self.kind == StreamKind::Reused {
            self.take_idle().await
        } else {
            None
        };
        let was_open = taken.is_some();
        let mut connection = if let Some(connection) = taken {
            let now = Some(Instant::now());
            (moments.tcp, moments.connected) = (now, now);
            connection
        } else {
            self.open(moments, number).await?
        };
        *number = Some(connection.number);
        let keep = if self.kind == StreamKind::Reused {
            Keep::Open
        } else {
            Keep::Close
        };
        let question = Question {
            url: &self.load.url,
            asked: &self.load.asked,
            keep,
            reads_body: self.load.good.reads_body(),
        };
        let mut answer = connection.ask(&question, moments).await;
        // No second try: the server had said before that the connection ends, and nothing of the request was sent on it.
        if was_open && answer.is_err() && moments.unsent {
            self.forget(connection.number);
            *moments = Moments::default();
            connection = self.open(moments, number).await?;
            answer = connection.ask(&question, moments).await;
        }
        let answer = answer?;
        if keep == Keep::Open && connection.share().is_none() {
            // Not awaited here: it would count as latency. A connection that the peer is closing is found out when it is taken.
            self.give_back(connection);
        }
        Ok(answer)
    }

    /// Opens a connection, which later requests may use at the same time if its protocol allows that.
    async fn open(
        &self,
        moments: &mut Moments,
        number: &mut Option<u64>,
    ) -> Result<Connection, Class> {
        let next = self.shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        *number = Some(next);
        let opened = Connection::open(&self.request, self.load.http, next, moments).await?;
        if self.kind == StreamKind::Reused {
            self.lend(&opened);
        }
        Ok(opened)
    }

    /// The idle connection that was used last. One that the peer has closed is dropped: nothing was sent on it.
    async fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut connection = self.take_last()?;
            if connection.ready().await {
                return Some(connection);
            }
            self.forget(connection.number);
        }
    }

    /// The idle connection that was used last; one that several requests may use at a time stays with the others.
    fn take_last(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let last = idle.pop()?;
        let Some(again) = last.share() else {
            return Some(last);
        };
        idle.push(last);
        Some(again)
    }

    /// Lets later requests use a new connection at the same time, if its protocol allows that and there is none.
    fn lend(&self, connection: &Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.is_empty() {
            idle.extend(connection.share());
        }
    }

    /// Lets no other request use this connection.
    fn forget(&self, number: u64) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.number != number);
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

/// Wakes regularly and keeps by how much it was late.
async fn echo(shared: Arc<Shared>, epoch: Instant) {
    let since = |at: Instant| at.saturating_duration_since(epoch).as_secs_f64() * 1000.0;
    let mut ticks = interval(ECHO_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let pause = Pause {
            from_ms: since(last + ECHO_PERIOD),
            to_ms: since(now),
        };
        if pause.to_ms - pause.from_ms > LATE_MS {
            shared
                .pauses
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(pause);
        }
        last = now;
    }
}

#[cfg(test)]
mod http2_tests;
#[cfg(test)]
mod tests;
