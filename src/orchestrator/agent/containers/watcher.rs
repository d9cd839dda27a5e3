//! Notices that a container's state changed: a helper wrote, or died.
//!
//! A thread of its own, since inotify and process handles are waited for with one `poll`.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify;
use tokio::sync::{Notify, watch};

use super::records::{self, Layout, StateRecord};

/// Helpers that are watched. A node has addresses for no more pods.
const MAX_HELPERS: usize = 1024;

/// Ends its thread when dropped.
pub(crate) struct Watcher {
    layout: Layout,
}

impl Watcher {
    /// Starts watching. Every change counts `changes` up and notifies `changed`.
    pub(crate) fn start(
        layout: Layout,
        changes: watch::Sender<u64>,
        changed: Arc<Notify>,
    ) -> io::Result<Self> {
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, layout.events(), inotify::WatchFlags::CLOSE_WRITE)?;
        let watched = layout.clone();
        let run = move || {
            let mut helpers = running(&watched);
            while wait(&events, &helpers).is_ok() && !changes.is_closed() {
                changes.send_modify(|count| *count += 1);
                changed.notify_one();
                helpers = running(&watched);
            }
        };
        std::thread::Builder::new()
            .name("containers".to_owned())
            .spawn(run)?;
        Ok(Self { layout })
    }

    /// Makes the thread find helpers that were started since.
    pub(crate) fn look_again(&self) {
        let _ = fs::write(self.layout.events().join("agent"), b"");
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.look_again();
    }
}

/// Handles of all live helpers whose container runs.
fn running(layout: &Layout) -> Vec<OwnedFd> {
    let pods = fs::read_dir(layout.pods()).into_iter().flatten().flatten();
    let containers = pods.flat_map(|pod| {
        fs::read_dir(pod.path().join("containers"))
            .into_iter()
            .flatten()
            .flatten()
    });
    containers
        .filter_map(
            |container| match records::read(&container.path().join("state.json"))? {
                StateRecord::Running { helper, .. } => helper.open(),
                StateRecord::Exited { .. } => None,
            },
        )
        .take(MAX_HELPERS)
        .collect()
}

/// Waits for the next change and takes all events that are there.
fn wait(events: &OwnedFd, helpers: &[OwnedFd]) -> rustix::io::Result<()> {
    let mut waited: Vec<PollFd<'_>> = helpers
        .iter()
        .map(|helper| PollFd::new(helper, PollFlags::IN))
        .collect();
    waited.push(PollFd::new(events, PollFlags::IN));
    match poll(&mut waited, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    while reader.next().is_ok() {}
    Ok(())
}
