//! How fast the balancer carries bytes and opens connections, beside haproxy in TCP mode, in the same run on loopback.
//!
//! Both are processes of one thread with one endpoint. The load and the endpoint are threads of this process, the same for both,
//! and for the direct path that says what the machine itself can do.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::{Balancer, Endpoint, ServicePortKey, forward};
use crate::transport::HostNetwork;

/// Rounds, in which the candidates take turns; the median counts.
const ROUNDS: usize = 5;
/// Bytes that one connection carries, and how many connections do so at a time.
const BYTES: usize = 512 << 20;
const STREAMS: usize = 4;
/// Connections opened one after another in a round.
const CONNECTS: usize = 1000;
/// What is written and read at once.
const CHUNK: usize = 128 << 10;
/// For a candidate to listen.
const START_LIMIT: Duration = Duration::from_secs(10);
const START_LOOK: Duration = Duration::from_millis(20);

/// First byte of a connection: the endpoint sends it back, and then whatever follows.
const ECHO: u8 = b'e';
/// First byte of a connection: the endpoint sends [`BYTES`].
const SOURCE: u8 = b's';

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A system call failed.
    #[error("measure the balancer")]
    Io(#[from] io::Error),
    /// A candidate did not start.
    #[error("`{name}` does not accept connections within {} s", START_LIMIT.as_secs())]
    Silent {
        /// Its program.
        name: String,
    },
}

/// One candidate's figures: medians of the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Megabytes a second, over all connections.
    pub megabytes_per_second: f64,
    /// From connect to the first byte back from the endpoint, milliseconds.
    pub connect_p50_ms: f64,
    /// The same, 99th percentile.
    pub connect_p99_ms: f64,
}

/// The comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Without anything in between.
    pub direct: Figures,
    /// Our balancer.
    pub flightcage: Figures,
    /// haproxy; absent if it is not installed.
    pub haproxy: Option<Figures>,
}

/// Measures. `binary` is this program, `directory` takes haproxy's configuration.
///
/// # Errors
/// When a candidate does not start or a connection breaks.
pub fn compare(binary: &Path, directory: &Path) -> Result<Comparison, BenchError> {
    let endpoint = serve_endpoint()?;
    let ours = free_address()?;
    let mut relay = Command::new(binary);
    relay.args(["bench", "relay", &ours.to_string(), &endpoint.to_string()]);
    let mut candidates = vec![
        ("direct", endpoint, None),
        ("flightcage", ours, Some(Running::start(relay, ours)?)),
    ];
    if Command::new("haproxy")
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
    {
        let theirs = free_address()?;
        let configuration = directory.join("haproxy.cfg");
        let text = format!(
            "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
             timeout server 60s\nfrontend f\n  bind {theirs}\n  default_backend b\nbackend b\n  server s {endpoint}\n"
        );
        std::fs::write(&configuration, text)?;
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(&configuration);
        candidates.push(("haproxy", theirs, Some(Running::start(haproxy, theirs)?)));
    }
    let mut measured: Vec<Vec<Figures>> = vec![Vec::new(); candidates.len()];
    for _ in 0..ROUNDS {
        for (figures, (_, addr, _)) in measured.iter_mut().zip(&candidates) {
            figures.push(measure(*addr)?);
        }
    }
    let mut medians = measured.iter().map(|figures| median(figures));
    let (direct, flightcage) = (medians.next(), medians.next());
    Ok(Comparison {
        direct: direct.expect("the direct path is always measured"),
        flightcage: flightcage.expect("the balancer is always measured"),
        haproxy: medians.next(),
    })
}

/// Serves one endpoint on `listen` for ever, as a node's proxy serves a Service: the child process of [`compare`].
///
/// # Errors
/// When the address is taken.
pub async fn relay(listen: SocketAddr, endpoint: SocketAddr) -> io::Result<()> {
    let balancer = Balancer::new(Arc::new(HostNetwork));
    let key = ServicePortKey {
        namespace: "bench".to_owned(),
        name: "endpoint".to_owned(),
        port: endpoint.port(),
    };
    balancer.set_endpoints(
        &key,
        &[Endpoint {
            addr: endpoint,
            node: None,
        }],
    );
    let listener = tokio::net::TcpListener::bind(listen).await?;
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        let (balancer, key) = (balancer.clone(), key.clone());
        // What a client's reset breaks is the client's affair.
        tokio::spawn(async move { forward(client, &balancer, &key).await });
    }
}

/// A candidate's process, which ends with this.
struct Running(Child);

impl Running {
    fn start(mut command: Command, addr: SocketAddr) -> Result<Self, BenchError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let running = Self(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        );
        let until = Instant::now() + START_LIMIT;
        while TcpStream::connect(addr).is_err() {
            if Instant::now() >= until {
                return Err(BenchError::Silent { name });
            }
            thread::park_timeout(START_LOOK);
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn serve_endpoint() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection ends when its client has had enough.
            thread::spawn(move || answer(stream));
        }
    });
    Ok(addr)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if first == [SOURCE] {
        let chunk = vec![0x5a; CHUNK];
        for _ in 0..BYTES / CHUNK {
            stream.write_all(&chunk)?;
        }
        return Ok(());
    }
    stream.write_all(&first)?;
    io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
}

fn measure(addr: SocketAddr) -> Result<Figures, BenchError> {
    let begun = Instant::now();
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| thread::spawn(move || drain(addr)))
        .collect();
    for stream in streams {
        stream.join().expect("reading does not panic")?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut connects = Vec::with_capacity(CONNECTS);
    for _ in 0..CONNECTS {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.write_all(&[ECHO])?;
        stream.read_exact(&mut [0])?;
        connects.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    connects.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "two gigabytes")]
    let megabytes = (STREAMS * BYTES) as f64 / 1e6;
    Ok(Figures {
        megabytes_per_second: megabytes / seconds,
        connect_p50_ms: connects[CONNECTS / 2],
        connect_p99_ms: connects[CONNECTS * 99 / 100],
    })
}

fn drain(addr: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(&[SOURCE])?;
    let mut chunk = vec![0; CHUNK];
    let mut left = BYTES;
    while left > 0 {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left -= count,
        }
    }
    Ok(())
}

fn median(rounds: &[Figures]) -> Figures {
    let of = |field: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures {
        megabytes_per_second: of(|figures| figures.megabytes_per_second),
        connect_p50_ms: of(|figures| figures.connect_p50_ms),
        connect_p99_ms: of(|figures| figures.connect_p99_ms),
    }
}
