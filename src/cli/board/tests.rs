use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::MutexGuard;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::lines::{LINES_MAX, Size, lines};
use super::state::{Now, State};
use super::text::columns;
use super::*;
use crate::scenario::live::state::tests::{begun, busy};
use crate::scenario::live::{Facts, LiveRun, Seen};

const NOW: Now = Now {
    command: Duration::from_secs(140),
    run_ms: 70_400,
};

fn running(scenario: &str) -> State {
    let mut state = State::new();
    scenario.clone_into(&mut state.title);
    state.run = Some(busy(scenario));
    state
}

fn drawn(state: &State, columns: usize, rows: usize) -> String {
    let drawn = lines(state, NOW, Size { columns, rows });
    assert!(drawn.len() <= LINES_MAX.min(rows.saturating_sub(1)).max(1));
    for line in &drawn {
        assert!(super::text::columns(line) < columns.max(2), "{line}");
        assert!(!line.is_empty() && !line.chars().any(char::is_control));
    }
    drawn.join("\n")
}

#[test]
fn a_run_has_its_streams_nodes_workloads_and_faults() {
    let state = running("failover");
    insta::assert_snapshot!("run_40", drawn(&state, 40, 24));
    insta::assert_snapshot!("run_80", drawn(&state, 80, 24));
    insta::assert_snapshot!("run_120", drawn(&state, 120, 24));
}

#[test]
fn a_short_terminal_keeps_what_matters_most() {
    let state = running("failover");
    insta::assert_snapshot!("run_short", drawn(&state, 80, 6));
    for (columns, rows) in [(1, 1), (2, 3), (10, 2), (17, 5), (300, 100)] {
        drawn(&state, columns, rows);
    }
}

#[test]
fn wide_and_hostile_names_stay_in_their_line() {
    let mut state = running("フェイル\u{1b}[2J\u{202e}over");
    let run = state.run.as_mut().expect("it runs");
    let nodes = (0..30).map(|number| (format!("節点\r{number}"), number % 7 != 3));
    run.take(Seen::Facts(Box::new(Facts {
        nodes: nodes.collect(),
        workloads: BTreeMap::from([("web\u{7}\n".to_owned(), (0, 3))]),
    })));
    run.tell(Duration::from_secs(69), "\u{1b}]0;title\u{7}日本語の長い行");
    state.note("w1: oom: \u{9b}31m killed");
    for columns in [40, 80, 120] {
        insta::assert_snapshot!(format!("hostile_{columns}"), drawn(&state, columns, 24));
    }
}

#[test]
fn machines_are_shown_while_they_boot() {
    let mut state = State::new();
    state.title = "failover".to_owned();
    state.step("booting 3 machines");
    state.detail = "box flightcage-os".to_owned();
    for name in ["c1", "w1", "w2"] {
        state
            .machines
            .insert(name.to_owned(), "connecting by SSH".to_owned());
    }
    insta::assert_snapshot!("boot_80", drawn(&state, 80, 24));
    for number in 0..20 {
        state
            .machines
            .insert(format!("x{number:02}"), "booting".to_owned());
    }
    insta::assert_snapshot!("boot_many_40", drawn(&state, 40, 24));
}

/// A pseudo-terminal: what a program writes to, and what a person sees.
struct Pty {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Pty {
    fn open(columns: u16, rows: u16) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it is ours");
        let path = ptsname(&ours, Vec::new()).expect("it has a name");
        let path = path.to_str().expect("its name is a path");
        let theirs = File::options().read(true).write(true).open(path);
        let theirs = theirs.expect("its other end opens").into();
        let pty = Self { ours, theirs };
        pty.resize(columns, rows);
        pty
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.theirs, size).expect("it has a size");
    }

    fn terminal(&self) -> OwnedFd {
        self.theirs.try_clone().expect("a second handle")
    }
}

/// A terminal that knows what a board may use, refuses everything else, and breaks lines anew when it becomes narrower.
struct Emulator {
    columns: usize,
    lines: Vec<Vec<char>>,
    line: usize,
    column: usize,
    rest: Vec<u8>,
}

impl Emulator {
    fn new(columns: usize, before: &str) -> Self {
        Self {
            columns,
            lines: vec![before.chars().collect(), Vec::new()],
            line: 1,
            column: 0,
            rest: Vec::new(),
        }
    }

    fn rows_of(&self, line: usize) -> usize {
        self.lines[line].len().div_ceil(self.columns).max(1)
    }

    /// Up by rows as they are seen: a broken line has several.
    fn up(&mut self, rows: usize) {
        let mut row = self
            .column
            .min(self.lines[self.line].len().saturating_sub(1))
            / self.columns;
        for _ in 0..rows {
            if row > 0 {
                row -= 1;
            } else {
                self.line = self
                    .line
                    .checked_sub(1)
                    .expect("the board never leaves its place");
                row = self.rows_of(self.line) - 1;
            }
        }
        self.column = row * self.columns;
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        // A sequence that has only begun waits for its rest.
        let begun = text.rfind('\u{1b}').filter(|&at| {
            let rest = text[at + 1..].trim_start_matches('[');
            rest.bytes().all(|byte| byte.is_ascii_digit())
        });
        let text = text[..begun.unwrap_or(text.len())].to_owned();
        self.rest.drain(..text.len());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\r' => self.column -= self.column % self.columns,
                '\n' => {
                    self.line += 1;
                    if self.line == self.lines.len() {
                        self.lines.push(Vec::new());
                    }
                    self.column = 0;
                }
                '\u{1b}' => {
                    assert_eq!(characters.next(), Some('['));
                    let mut number = String::new();
                    let command = loop {
                        let next = characters.next().expect("a whole sequence");
                        if next.is_ascii_digit() {
                            number.push(next);
                        } else {
                            break next;
                        }
                    };
                    let number = number.parse::<usize>().unwrap_or(0);
                    match (command, number) {
                        ('A', rows) => self.up(rows),
                        ('B', rows) => {
                            self.line = (self.line + rows).min(self.lines.len() - 1);
                            self.column = 0;
                        }
                        ('K', 2) => self.lines[self.line].clear(),
                        ('K', 0) => self.lines[self.line].truncate(self.column),
                        ('J', 0) => {
                            self.lines.truncate(self.line + 1);
                            self.lines[self.line].truncate(self.column);
                        }
                        other => panic!("a board does not write {other:?}"),
                    }
                }
                control if control.is_control() => panic!("{control:?} on the terminal"),
                other => {
                    let line = &mut self.lines[self.line];
                    line.resize(line.len().max(self.column), ' ');
                    if self.column < line.len() {
                        line[self.column] = other;
                    } else {
                        line.push(other);
                    }
                    self.column += columns(&other.to_string());
                }
            }
        }
    }

    fn seen(&self) -> Vec<String> {
        let lines = self.lines.iter();
        let lines = lines.map(|line| line.iter().collect::<String>().trim_end().to_owned());
        let mut lines: Vec<String> = lines.collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }
}

/// Reads until what is seen satisfies `done`. A board draws for ever, so that what never comes is given up after many frames; one that
/// has ended draws no more, which the limit of a wait ends.
fn read_until(pty: &Pty, emulator: &mut Emulator, done: impl Fn(&[String]) -> bool) {
    const FRAMES_MAX: usize = 400;
    let limit = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    let mut bytes = [0; 1 << 16];
    for _ in 0..FRAMES_MAX {
        if done(&emulator.seen()) {
            return;
        }
        let mut wait = [PollFd::new(&pty.ours, PollFlags::IN)];
        let ready = poll(&mut wait, Some(&limit)).expect("the terminal is open");
        assert!(ready > 0, "nothing more is drawn: {:?}", emulator.seen());
        let read = rustix::io::read(&pty.ours, &mut bytes).expect("the terminal is open");
        emulator.feed(&bytes[..read]);
    }
    panic!("it never came: {:?}", emulator.seen());
}

/// Holds the board between two frames, all of which have been seen: what a resize does to one that is under way is another matter.
fn between_frames<'a>(
    state: &'a Shared,
    pty: &Pty,
    emulator: &mut Emulator,
) -> MutexGuard<'a, State> {
    let silence = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let held = state.lock().expect("nobody panics");
    let mut bytes = [0; 1 << 16];
    while poll(&mut [PollFd::new(&pty.ours, PollFlags::IN)], Some(&silence)).expect("it is open")
        > 0
    {
        let read = rustix::io::read(&pty.ours, &mut bytes).expect("the terminal is open");
        emulator.feed(&bytes[..read]);
    }
    held
}

#[test]
fn a_terminal_is_left_as_it_was_through_resizes_and_an_early_end() {
    const PROMPT: &str = "$ flightcage run failover.toml";
    let pty = Pty::open(100, 30);
    let mut emulator = Emulator::new(100, PROMPT);
    let state: Shared = Arc::new(Mutex::new(running("failover")));
    let board = Board::new(pty.terminal(), Arc::clone(&state));
    board.show();
    read_until(&pty, &mut emulator, |seen| {
        seen.len() > 8 && seen.iter().any(|line| line.contains("web.reused"))
    });
    assert_eq!(emulator.seen()[0], PROMPT);
    assert!(emulator.seen().len() <= LINES_MAX + 1);

    // Narrower: what was drawn is broken into more rows, all of which go.
    let held = between_frames(&state, &pty, &mut emulator);
    pty.resize(37, 30);
    emulator.columns = 37;
    drop(held);
    read_until(&pty, &mut emulator, |seen| {
        seen.len() > 8 && seen.iter().skip(1).all(|line| columns(line) < 37)
    });
    assert_eq!(emulator.seen()[0], PROMPT);
    assert!(
        emulator.seen().len() <= LINES_MAX + 1,
        "{:?}",
        emulator.seen()
    );

    // Wider and short: fewer lines, and none of the old ones.
    let held = between_frames(&state, &pty, &mut emulator);
    pty.resize(120, 5);
    emulator.columns = 120;
    drop(held);
    read_until(&pty, &mut emulator, |seen| {
        seen.len() <= 5 && seen.iter().any(|line| columns(line) > 60)
    });
    assert_eq!(emulator.seen()[0], PROMPT);

    // Ctrl-C is echoed into it; then the run ends, and nothing is left.
    let held = between_frames(&state, &pty, &mut emulator);
    emulator.feed(b"^C");
    drop(held);
    drop(board);
    read_until(&pty, &mut emulator, |seen| seen == [PROMPT]);
    assert_eq!((emulator.line, emulator.column), (1, 0));
}

#[test]
fn a_board_shows_what_happens_meanwhile() {
    let pty = Pty::open(80, 24);
    let mut emulator = Emulator::new(80, "");
    let state: Shared = Arc::new(Mutex::new(State::new()));
    let board = Board::new(pty.terminal(), Arc::clone(&state));
    board.show();
    state.lock().expect("nobody panics").step("booting");
    read_until(&pty, &mut emulator, |seen| {
        seen.iter().any(|line| line.contains("booting"))
    });
    state.lock().expect("nobody panics").run = Some(LiveRun::new(begun("failover"), false));
    read_until(&pty, &mut emulator, |seen| {
        seen.iter().any(|line| line.contains("web.new"))
    });
    board.clear();
    board.show();
    read_until(&pty, &mut emulator, |seen| {
        seen.iter().any(|line| line.contains("web.new"))
    });
}

#[test]
fn clocks_are_short() {
    assert_eq!(clock(Duration::from_secs(65)), "1:05");
    assert_eq!(clock(Duration::from_secs(3_723)), "1:02:03");
}
