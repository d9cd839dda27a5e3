//! The proxies of the nodes and the host's load balancer: production's [`Balancer`], which dials through the simulated network.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use tokio::task::JoinSet;

use super::Simulation;
use super::messages::{Event, Message};
use super::network::{CLIENT_END, Host, OUTSIDE, Purpose, SERVER, SimulatedDial};
use super::server::balancer_name;
use crate::balancer::report::{Orders, REPORT_INTERVAL_MS};
use crate::balancer::stream::follow;
use crate::balancer::{Balancer, Report, ServicePortKey, ServiceTable};

/// As in `balancer::stream` and `kubernetes::reflector`.
const BACKOFF_FIRST_MS: u64 = 200;
const BACKOFF_LAST_MS: u64 = 2000;
const SILENCE_LIMIT_MS: u64 = 4000;
const WATCH_LIMIT_MS: u64 = 5000;
/// As in `proxy`.
const API_WAIT_MS: u64 = 1000;
/// While something drains it is looked so often whether there is news; production is told.
const NEWS_EVERY_MS: u64 = 10;

/// Services, and Endpoints of that revision.
pub(super) type Rules = (Vec<Arc<Service>>, Vec<Arc<Endpoints>>, u64);

/// A balancer's process.
pub(super) struct Process {
    pub(super) host: Host,
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) life: u64,
    pub(super) balancer: Balancer,
    pub(super) table: ServiceTable,
    /// What a proxy keeps for the next one, of this boot.
    pub(super) kept: Option<Arc<Rules>>,
    knows_rules: bool,
    known: Orders,
    stream: Option<u64>,
    watch: Option<u64>,
    backoff_ms: u64,
    regular: u32,
    last: Option<Report>,
    /// Connections of clients; they end with the process.
    clients: JoinSet<()>,
}

pub(super) fn service_port() -> ServicePortKey {
    ServicePortKey {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        port: 80,
    }
}

impl Process {
    pub(super) fn new(simulation: &Simulation, host: Host) -> Self {
        let name = balancer_name(host);
        let dial = SimulatedDial {
            network: simulation.network.clone(),
            from: host,
            balancer: name.clone(),
        };
        Self {
            host,
            name,
            up: true,
            life: 1,
            balancer: Balancer::new(Arc::new(dial)),
            table: ServiceTable::default(),
            kept: None,
            knows_rules: false,
            known: Orders::default(),
            stream: None,
            watch: None,
            backoff_ms: BACKOFF_FIRST_MS,
            regular: 0,
            last: None,
            clients: JoinSet::new(),
        }
    }
}

impl Process {
    fn apply(&mut self, (services, endpoints, _): &Rules, revision: u64) {
        let services: Vec<&Service> = services.iter().map(AsRef::as_ref).collect();
        let endpoints: Vec<&Endpoints> = endpoints.iter().map(AsRef::as_ref).collect();
        self.knows_rules = true;
        self.table = ServiceTable::build(services, endpoints);
        self.balancer.apply(&self.table, revision);
    }
}

impl Simulation {
    pub(super) fn start_balancer(&mut self, index: usize) {
        let (host, life) = (self.balancers[index].host, self.balancers[index].life + 1);
        let kept = self.balancers[index].kept.take();
        self.balancers[index] = Process {
            life,
            kept,
            ..Process::new(self, host)
        };
        self.note(format!("{} starts", self.balancers[index].name));
        self.after(
            0,
            Event::Dial {
                host,
                purpose: Purpose::Reports(index),
                life,
            },
        );
        self.after(
            0,
            Event::Dial {
                host,
                purpose: Purpose::Endpoints(index),
                life,
            },
        );
        self.after(
            100,
            Event::Client {
                balancer: index,
                life,
            },
        );
        self.after(
            API_WAIT_MS,
            Event::Rules {
                balancer: index,
                life,
            },
        );
    }

    /// `proxy::follow` has waited for the API.
    pub(super) fn old_rules(&mut self, index: usize) {
        let process = &mut self.balancers[index];
        if !process.knows_rules
            && let Some(kept) = process.kept.clone()
        {
            process.apply(&kept, 0);
            self.note(format!(
                "{} goes by the rules of before",
                self.balancers[index].name
            ));
        }
    }

    pub(super) fn stop_balancer(&mut self, index: usize) {
        let process = &mut self.balancers[index];
        process.up = false;
        process.life += 1;
        process.clients.abort_all();
        process.balancer.apply(&ServiceTable::default(), 0);
        let name = process.name.clone();
        self.note(format!("{name} stops"));
        let mine = [Purpose::Reports(index), Purpose::Endpoints(index)];
        let mine = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.open[CLIENT_END] && mine.contains(&stream.purpose));
        let mine: Vec<u64> = mine.map(|(number, _)| *number).collect();
        for stream in mine {
            self.close(stream, CLIENT_END);
        }
    }

    pub(super) fn balancer_dialled(&mut self, index: usize, stream: u64, purpose: Purpose) {
        let process = &mut self.balancers[index];
        let life = process.life;
        if matches!(purpose, Purpose::Reports(_)) {
            process.stream = Some(stream);
            process.last = None;
            process.regular = 0;
            self.after(
                0,
                Event::Report {
                    balancer: index,
                    life,
                    stream,
                    regular: true,
                },
            );
        } else {
            process.watch = Some(stream);
        }
    }

    pub(super) fn balancer_lost(&mut self, index: usize, stream: u64) {
        let process = &mut self.balancers[index];
        let (host, life, backoff) = (process.host, process.life, process.backoff_ms);
        if process.stream == Some(stream) {
            process.stream = None;
            process.backoff_ms = (process.backoff_ms * 2).min(BACKOFF_LAST_MS);
            self.after(
                backoff,
                Event::Dial {
                    host,
                    purpose: Purpose::Reports(index),
                    life,
                },
            );
        } else if process.watch == Some(stream) {
            process.watch = None;
            self.after(
                BACKOFF_FIRST_MS,
                Event::Dial {
                    host,
                    purpose: Purpose::Endpoints(index),
                    life,
                },
            );
        }
    }

    pub(super) fn balancer_hears(&mut self, index: usize, message: Message) {
        let connected = {
            let network = self.network();
            !network.links[SERVER][self.balancers[index].host].cut
        };
        let process = &mut self.balancers[index];
        match message {
            Message::Orders(orders) => {
                let drains = !orders.draining.is_empty() && process.known.draining.is_empty();
                follow(&process.balancer, orders, &mut process.known);
                if let (Some(stream), true) = (process.stream, drains) {
                    let life = process.life;
                    self.after(
                        1,
                        Event::Report {
                            balancer: index,
                            life,
                            stream,
                            regular: false,
                        },
                    );
                }
            }
            Message::Endpoints(objects) => {
                process.apply(&objects, objects.2);
                if process.host != OUTSIDE {
                    process.kept = Some(objects);
                }
                let (life, stream, name) = (process.life, process.stream, process.name.clone());
                if !connected {
                    self.violated(format!(
                        "{name} changed its rules without the control plane"
                    ));
                }
                if let Some(stream) = stream {
                    self.after(
                        0,
                        Event::Report {
                            balancer: index,
                            life,
                            stream,
                            regular: false,
                        },
                    );
                }
            }
            _ => {}
        }
    }

    pub(super) fn report(&mut self, index: usize, stream: u64, regular: bool) {
        let process = &mut self.balancers[index];
        if process.stream != Some(stream) {
            return;
        }
        let life = process.life;
        if regular
            && self
                .streams
                .get(&stream)
                .is_some_and(|one| self.now_ms - one.heard_ms[CLIENT_END] > SILENCE_LIMIT_MS)
        {
            self.close(stream, CLIENT_END);
            self.balancer_lost(index, stream);
            return;
        }
        let report = process.balancer.report();
        let drains = !process.known.draining.is_empty();
        if regular || process.last.as_ref() != Some(&report) {
            process.last = Some(report.clone());
            process.regular += u32::from(regular);
            let ping = regular && process.regular.is_multiple_of(2);
            if process.regular > 4 {
                process.backoff_ms = BACKOFF_FIRST_MS;
            }
            self.send(stream, CLIENT_END, Message::Report(report));
            if ping {
                self.send(stream, CLIENT_END, Message::Ping(bytes::Bytes::new()));
            }
        }
        if regular {
            self.after(
                REPORT_INTERVAL_MS,
                Event::Report {
                    balancer: index,
                    life,
                    stream,
                    regular: true,
                },
            );
        } else if drains {
            self.after(
                NEWS_EVERY_MS,
                Event::Report {
                    balancer: index,
                    life,
                    stream,
                    regular: false,
                },
            );
        }
    }

    /// Somebody connects, and stays for a while.
    pub(super) fn client(&mut self, index: usize) {
        let (stay, next) = (self.random(1..1200), self.random(120..500));
        let process = &mut self.balancers[index];
        let life = process.life;
        let watch = process.watch;
        while process.clients.try_join_next().is_some() {}
        let (balancer, network) = (process.balancer.clone(), self.network.clone());
        process.clients.spawn(async move {
            let connected = balancer.connect(&service_port()).await;
            network.lock().expect("nobody panics").connects[usize::from(connected.is_err())] += 1;
            let Ok(connection) = connected else { return };
            tokio::select! {
                biased;
                () = connection.open.aborted() => {}
                () = connection.open.quiet_drain() => {}
                () = tokio::time::sleep(Duration::from_millis(stay)) => {}
            }
        });
        self.after(
            next,
            Event::Client {
                balancer: index,
                life,
            },
        );
        if let Some(watch) = watch
            && self
                .streams
                .get(&watch)
                .is_some_and(|one| self.now_ms - one.heard_ms[CLIENT_END] > WATCH_LIMIT_MS)
        {
            self.close(watch, CLIENT_END);
            self.balancer_lost(index, watch);
        }
    }
}
