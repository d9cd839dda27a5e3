//! This machine's wall clock, for the host: a machine whose memory is restored still has the time at which it was saved.
//!
//! A thread of its own, which blocks in the kernel: the host learns the time with as little in between as can be. See
//! [`crate::model::clock`] for what is said.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::model::clock::{Answer, Ask, MAX_LINE_BYTES, PORT};

/// Where the kernel names virtio-serial ports. The box has no udev, which would make links from it.
const PORTS: &str = "/sys/class/virtio-ports";
/// Where the kernel takes randomness, and where it takes the memory image of a hibernated machine.
const RANDOM: &str = "/dev/urandom";
const HIBERNATION: &str = "/dev/snapshot";
/// How often, and after which pause, the port is looked for.
const LOOKS: usize = 50;
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Pause while the host holds no end of the port.
const NOBODY_THERE: Duration = Duration::from_secs(1);

/// Starts the thread. A machine without the port (not one of our QEMU's) has no use for it.
pub(crate) fn start() {
    let serving = std::thread::Builder::new()
        .name("clock".into())
        .spawn(|| match open() {
            Ok(Some(port)) => serve(port),
            Ok(None) => tracing::debug!("there is no clock port"),
            Err(error) => tracing::warn!(%error, "the clock port cannot be opened"),
        });
    if let Err(error) = serving {
        tracing::warn!(%error, "the thread of the clock port cannot be started");
    }
}

fn open() -> io::Result<Option<File>> {
    if !Path::new(PORTS).exists() {
        // Nobody but udev would load it.
        let loaded = std::process::Command::new("modprobe")
            .args(["-q", "virtio_console"])
            .status();
        tracing::debug!(?loaded, "load virtio_console");
    }
    for _ in 0..LOOKS {
        if let Some(device) = find(Path::new(PORTS))? {
            return Ok(Some(
                OpenOptions::new().read(true).write(true).open(device)?,
            ));
        }
        // The driver and the hypervisor agree on the ports after the driver is loaded.
        std::thread::park_timeout(LOOK_AGAIN);
    }
    Ok(None)
}

fn find(ports: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(ports) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if std::fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT)
        {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

fn serve(port: File) {
    let mut lines = BufReader::new(&port);
    loop {
        let mut line = String::new();
        match lines.by_ref().take(MAX_LINE_BYTES).read_line(&mut line) {
            // The host's end is closed, or a line was not text: the next may be.
            Ok(0) => std::thread::park_timeout(NOBODY_THERE),
            Err(error) => {
                tracing::debug!(%error, "read the clock port");
                std::thread::park_timeout(NOBODY_THERE);
            }
            Ok(_) => {
                // What a machine had half read when it was saved is no question.
                let Ok(ask) = serde_json::from_str::<Ask>(&line) else {
                    continue;
                };
                let error = obey(&ask).err().map(|error| error.to_string());
                let answer = Answer {
                    id: ask.id,
                    wall_ns: wall_ns(),
                    error,
                };
                let mut text = serde_json::to_string(&answer).expect("numbers and a text are JSON");
                text.push('\n');
                if let Err(error) = (&port).write_all(text.as_bytes()) {
                    tracing::debug!(%error, "write to the clock port");
                }
            }
        }
    }
}

fn obey(ask: &Ask) -> io::Result<()> {
    if let Some(seed) = &ask.seed {
        reseed(seed.as_bytes())?;
    }
    if ask.sync {
        rustix::fs::sync();
    }
    if ask.step_ns != 0 {
        step(ask.step_ns)
    } else {
        Ok(())
    }
}

/// Mixes a seed into the kernel's pool and makes its generator take it up now; by itself it would within a minute (`crng_has_old_seed` in
/// Linux' `drivers/char/random.c`).
fn reseed(seed: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(RANDOM)?
        .write_all(seed)?;
    // The call that asks for it, RNDRESEEDCRNG, needs unsafe code. Whoever opens this is about to write a saved memory, before which the
    // generator is reseeded, too (`random_pm_notification`); nothing is written, and nothing else happens.
    let announced = OpenOptions::new().write(true).open(HIBERNATION);
    announced.map(drop).map_err(|error| {
        io::Error::other(format!(
            "the seed is taken up within a minute only: {HIBERNATION}: {error}"
        ))
    })
}

fn wall_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

fn step(by_ns: i64) -> io::Result<()> {
    let to = wall_ns().saturating_add(by_ns);
    let time = Timespec {
        tv_sec: to.div_euclid(1_000_000_000),
        tv_nsec: to.rem_euclid(1_000_000_000),
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let ports = tempfile::tempdir().expect("a temporary directory can be made");
        assert_eq!(
            find(&ports.path().join("none")).expect("absent is fine"),
            None
        );
        for (device, name) in [
            ("vport1p1", "org.example.other\n"),
            ("vport1p2", "org.flightcage.clock\n"),
        ] {
            let directory = ports.path().join(device);
            std::fs::create_dir(&directory).expect("it is ours");
            std::fs::write(directory.join("name"), name).expect("it is ours");
        }
        assert_eq!(
            find(ports.path()).expect("it can be read"),
            Some("/dev/vport1p2".into())
        );
    }
}
