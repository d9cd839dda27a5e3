//! The container's end of `attach`, in the helper that lives with it: whoever is attached gets its output as it comes, and may write to
//! its standard input.
//!
//! The helper listens on a socket beside the container's records, so that a container keeps its input while no agent is there. A
//! connection's first byte says what it is for: [`OUTPUT`], [`INPUT`] (output as well; the end of what it sends is the end of the input,
//! if the container wants it once), or [`SIZE`], which four bytes follow: columns and rows of the terminal. Output is sent in frames: one
//! byte of the stream, four of the length, bytes. Without `stdinOnce` the input never ends, whoever comes and goes; with it, the first
//! one who was attached to it ends it. Invariants: nothing here waits; what a container does not read stays with whoever sends it, and who
//! is [`BEHIND_BYTES_MAX`] behind is hung up on.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::termios::Winsize;

use super::open::receive_descriptor;

/// The socket's name in an instance's directory.
pub(super) const SOCKET: &str = "attach";
/// The name of the socket through which libcontainer hands over a terminal.
pub(super) const CONSOLE: &str = "console";
/// First byte of a connection that reads.
pub(super) const OUTPUT: u8 = b'o';
/// First byte of a connection that writes, too.
pub(super) const INPUT: u8 = b'i';
/// First byte of a connection that sets the terminal's size.
pub(super) const SIZE: u8 = b's';
/// Before each piece of output.
pub(super) const HEADER_BYTES: usize = 5;
/// Streams, as in a frame.
pub(super) const STDOUT: u8 = 1;
/// As [`STDOUT`].
pub(super) const STDERR: u8 = 2;

/// Connections at a time.
const CLIENTS_MAX: usize = 16;
/// How much output may wait for one of them.
const BEHIND_BYTES_MAX: usize = 256 << 10;
/// How much input is taken before the container reads it.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// How long the last output may take, when the container has ended; and a terminal, which was sent before.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Who is attached to a container.
#[derive(Default)]
pub(super) struct Attached {
    listener: Option<UnixListener>,
    input: Option<Input>,
    terminal: Option<File>,
    /// Whether the input ends with the first who was attached to it.
    once: bool,
    clients: Vec<Client>,
}

/// A container's standard input.
struct Input {
    to: File,
    /// What it has not read yet.
    pending: Vec<u8>,
    /// Nothing more comes.
    over: bool,
}

struct Client {
    socket: UnixStream,
    role: Option<u8>,
    size: Vec<u8>,
    /// What it has not read yet.
    behind: Vec<u8>,
    /// Whether it may send something yet.
    sends: bool,
    gone: bool,
}

impl Attached {
    /// Listens beside the records in this directory.
    pub(super) fn listen(directory: &Path, once: bool) -> io::Result<Self> {
        Ok(Self {
            listener: Some(listen(directory, SOCKET)?),
            once,
            ..Self::default()
        })
    }

    /// The input is written here, which does not block.
    pub(super) fn set_input(&mut self, to: File) {
        self.input = Some(Input {
            to,
            pending: Vec::new(),
            over: false,
        });
    }

    /// The terminal whose size can be set.
    pub(super) fn set_terminal(&mut self, terminal: File) {
        self.terminal = Some(terminal);
    }

    /// Whether anybody can attach.
    pub(super) fn is_open(&self) -> bool {
        self.listener.is_some()
    }

    /// Adds what is to be waited for: the clients first.
    pub(super) fn watch<'a>(&'a self, waited: &mut Vec<PollFd<'a>>) {
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.hears(client));
            flags.set(PollFlags::OUT, !client.behind.is_empty());
            waited.push(PollFd::new(&client.socket, flags));
        }
        if let Some(listener) = &self.listener
            && self.clients.len() < CLIENTS_MAX
        {
            waited.push(PollFd::new(listener, PollFlags::IN));
        }
        if let Some(input) = &self.input
            && !input.pending.is_empty()
        {
            waited.push(PollFd::new(&input.to, PollFlags::OUT));
        }
    }

    /// Which clients have hung up, by what was waited for from [`Attached::watch`] on.
    pub(super) fn hung_up(&self, waited: &[PollFd<'_>]) -> Vec<bool> {
        waited
            .iter()
            .take(self.clients.len())
            .map(|one| one.revents().intersects(PollFlags::HUP | PollFlags::ERR))
            .collect()
    }

    /// Passes a piece of output on.
    pub(super) fn tell(&mut self, stream: u8, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        for client in &mut self.clients {
            if matches!(client.role, Some(OUTPUT | INPUT)) {
                client.behind.push(stream);
                client.behind.extend_from_slice(&length.to_be_bytes());
                client.behind.extend_from_slice(bytes);
                client.gone |= !client.flush() || client.behind.len() > BEHIND_BYTES_MAX;
            }
        }
    }

    /// Does what can be done without waiting; `hung_up` is by client.
    pub(super) fn attend(&mut self, hung_up: &[bool]) {
        self.feed();
        for (number, mut client) in std::mem::take(&mut self.clients).into_iter().enumerate() {
            let left = hung_up.get(number).copied().unwrap_or(false);
            self.hear(&mut client, left);
            let stays = !left && !client.gone && client.flush();
            self.keep(client, stays);
        }
        while let Some(client) = self.accept() {
            self.keep(client, true);
        }
        self.feed();
    }

    /// Hands out what is left, for a moment.
    pub(super) fn finish(self) {
        for mut client in self.clients {
            let waits = client.socket.set_nonblocking(false).is_ok()
                && client.socket.set_write_timeout(Some(LAST_WAIT)).is_ok();
            if waits {
                let _ = client.socket.write_all(&client.behind);
            }
        }
    }

    fn keep(&mut self, client: Client, stays: bool) {
        if stays {
            self.clients.push(client);
        } else if client.sends && client.role == Some(INPUT) {
            self.input_ends();
        }
    }

    fn accept(&mut self) -> Option<Client> {
        let listener = self.listener.as_ref()?;
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        let (socket, _) = listener.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        let mut client = Client {
            socket,
            role: None,
            size: Vec::new(),
            behind: Vec::new(),
            sends: true,
            gone: false,
        };
        self.hear(&mut client, false);
        Some(client)
    }

    fn hears(&self, client: &Client) -> bool {
        let has_room = self
            .input
            .as_ref()
            .is_none_or(|input| input.pending.len() < INPUT_BYTES_MAX);
        client.sends && (client.role != Some(INPUT) || has_room)
    }

    /// Takes what a client has sent; all of it, if it has left: that is what the kernel holds and no more.
    fn hear(&mut self, client: &mut Client, left: bool) {
        let mut buffer = [0; 4096];
        while client.sends && !client.gone && (left || self.hears(client)) {
            match client.socket.read(&mut buffer) {
                Ok(0) => {
                    client.sends = false;
                    if client.role == Some(INPUT) {
                        self.input_ends();
                    }
                }
                Ok(count) => self.take(client, &buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => client.gone = true,
            }
        }
    }

    fn take(&mut self, client: &mut Client, bytes: &[u8]) {
        let (role, bytes) = match (client.role, bytes) {
            (Some(role), bytes) => (role, bytes),
            (None, [role, bytes @ ..]) => (*role, bytes),
            (None, []) => return,
        };
        client.role = Some(role);
        match role {
            OUTPUT => {}
            INPUT => {
                if let Some(input) = self.input.as_mut().filter(|input| !input.over) {
                    input.pending.extend_from_slice(bytes);
                }
            }
            SIZE => {
                client.size.extend_from_slice(bytes);
                if let [column, other, row, rest, ..] = client.size[..] {
                    let size = Winsize {
                        ws_col: u16::from_be_bytes([column, other]),
                        ws_row: u16::from_be_bytes([row, rest]),
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    if let Some(terminal) = &self.terminal {
                        let _ = rustix::termios::tcsetwinsize(terminal, size);
                    }
                    client.gone = true;
                }
            }
            _ => client.gone = true,
        }
    }

    /// One who was attached to the input has gone. A terminal has no end: its user says so by a character.
    fn input_ends(&mut self) {
        if let Some(input) = &mut self.input
            && self.once
            && self.terminal.is_none()
        {
            input.over = true;
        }
    }

    /// Writes what the container takes now.
    fn feed(&mut self) {
        let Some(input) = &mut self.input else { return };
        while !input.pending.is_empty() {
            match input.to.write(&input.pending) {
                Ok(count) => drop(input.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It has closed its input.
                Err(_) => {
                    self.input = None;
                    return;
                }
            }
        }
        if input.over {
            self.input = None;
        }
    }
}

impl Client {
    /// `false` when it is gone.
    fn flush(&mut self) -> bool {
        while !self.behind.is_empty() {
            match self.socket.write(&self.behind) {
                Ok(0) => return false,
                Ok(count) => drop(self.behind.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// A file's name that is short enough for a socket: its directory is named by a descriptor, which is to be held meanwhile.
pub(super) fn short(directory: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    let held = File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd())).join(name);
    Ok((held, path))
}

/// Listens without waiting, for root only.
pub(super) fn listen(directory: &Path, name: &str) -> io::Result<UnixListener> {
    let (_held, path) = short(directory, name)?;
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The terminal that libcontainer has sent to this socket.
pub(super) fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(LAST_WAIT))?;
    let terminal = receive_descriptor(&stream)?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(terminal)
}

/// Sets the size of the terminal of a container that runs.
pub(super) fn resize(directory: &Path, columns: u16, rows: u16) -> io::Result<()> {
    let (_held, path) = short(directory, SOCKET)?;
    let mut socket = UnixStream::connect(path)?;
    let ([column, other], [row, rest]) = (columns.to_be_bytes(), rows.to_be_bytes());
    socket.write_all(&[SIZE, column, other, row, rest])
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        attached: Attached,
        /// What the container reads.
        stdin: File,
    }

    impl Scene {
        fn new(once: bool) -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let mut attached = Attached::listen(directory.path(), once).expect("it listens");
            let (stdin, to) =
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("a pipe");
            attached.set_input(File::from(to));
            Self {
                directory,
                attached,
                stdin: File::from(stdin),
            }
        }

        fn connect(&mut self, role: u8) -> UnixStream {
            let (_held, path) = short(self.directory.path(), SOCKET).expect("a path");
            let mut client = UnixStream::connect(path).expect("somebody listens");
            client.write_all(&[role]).expect("written");
            self.attached.attend(&[]);
            client
        }

        /// What the container finds: text, `None` at the end of its input, `""` if nothing is there yet.
        fn read(&mut self) -> Option<String> {
            let mut buffer = [0; 64];
            match self.stdin.read(&mut buffer) {
                Ok(0) => None,
                Ok(count) => Some(String::from_utf8_lossy(&buffer[..count]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Some(String::new()),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn an_input_that_is_wanted_once_ends_with_the_first_who_was_attached() {
        let mut scene = Scene::new(true);
        assert_eq!(scene.read().as_deref(), Some(""), "it waits for somebody");
        let reader = scene.connect(OUTPUT);
        drop(reader);
        scene.attached.attend(&[true]);
        assert_eq!(
            scene.read().as_deref(),
            Some(""),
            "who only reads ends nothing"
        );
        let mut writer = scene.connect(INPUT);
        writer.write_all(b"hello").expect("written");
        writer.shutdown(std::net::Shutdown::Write).expect("shut");
        scene.attached.attend(&[false]);
        assert_eq!(scene.read().as_deref(), Some("hello"));
        assert_eq!(scene.read(), None);
        scene.attached.tell(STDERR, b"bye");
        let mut frame = [0; 8];
        writer.read_exact(&mut frame).expect("it is told");
        assert_eq!(&frame, b"\x02\0\0\0\x03bye");
    }

    #[test]
    fn another_input_outlives_all_who_were_attached() {
        let mut scene = Scene::new(false);
        for text in ["one", "two"] {
            let mut writer = scene.connect(INPUT);
            writer.write_all(text.as_bytes()).expect("written");
            drop(writer);
            scene.attached.attend(&[true]);
            assert_eq!(scene.read().as_deref(), Some(text));
            assert_eq!(scene.read().as_deref(), Some(""));
        }
        assert!(scene.attached.clients.is_empty());
    }

    #[test]
    fn what_is_not_read_is_bounded_on_both_sides() {
        let mut scene = Scene::new(true);
        let mut writer = scene.connect(INPUT);
        writer.set_nonblocking(true).expect("set");
        let mut sent = 0;
        while let Ok(count) = writer.write(&[b'x'; 4096]) {
            sent += count;
            scene.attached.attend(&[false]);
            assert!(sent < 16 << 20, "it is never full");
        }
        let held = scene
            .attached
            .input
            .as_ref()
            .map(|input| input.pending.len());
        assert!(held.is_some_and(|held| held < INPUT_BYTES_MAX + 4096));
        for _ in 0..64 {
            scene.attached.tell(STDOUT, &[b'y'; 32 << 10]);
        }
        scene.attached.attend(&[false]);
        assert!(scene.attached.clients.is_empty(), "it was hung up on");
    }

    #[test]
    fn a_terminal_gets_its_size() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = File::from(rustix::pty::openpt(flags).expect("a terminal"));
        let mut scene = Scene::new(true);
        let terminal = master.try_clone().expect("another descriptor");
        scene.attached.set_terminal(terminal);
        resize(scene.directory.path(), 101, 33).expect("sent");
        scene.attached.attend(&[]);
        let size = rustix::termios::tcgetwinsize(&master).expect("it has one");
        assert_eq!((size.ws_col, size.ws_row), (101, 33));
        scene.attached.attend(&[false]);
        assert!(scene.attached.clients.is_empty());
    }
}
