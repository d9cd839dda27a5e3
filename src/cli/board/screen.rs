//! A terminal as indicatif draws on it.
//!
//! indicatif fills each line with blanks to the terminal's width and lets the terminal wrap it. A terminal that becomes narrower
//! joins such lines and breaks them anew, and what was drawn can no longer be found. Here a line ends with "erase to its end" and a
//! line break; and when the terminal has become narrower, the rows that the lines take now are counted, so that all of them go.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use indicatif::TermLike;
use rustix::termios::tcgetwinsize;

use super::lines::Size;
use super::text::columns;

/// When the terminal does not say.
const USUAL: Size = Size {
    columns: 80,
    rows: 24,
};

/// A terminal. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Screen(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    terminal: OwnedFd,
    frame: Mutex<Frame>,
}

#[derive(Debug, Default)]
struct Frame {
    /// What is written at the next flush.
    bytes: String,
    /// Widths of the lines since the last move to the top.
    widths: Vec<usize>,
    /// The line that was written last has been ended, but not broken.
    ended: bool,
    /// How wide the terminal was when these lines were drawn.
    columns: usize,
    /// Everything below the top is erased already: what indicatif does to erase line by line is not done.
    erased: bool,
}

impl Screen {
    pub(super) fn new(terminal: OwnedFd) -> Self {
        Self(Arc::new(Inner {
            terminal,
            frame: Mutex::default(),
        }))
    }

    /// How large it is now.
    pub(super) fn size(&self) -> Size {
        let size = tcgetwinsize(&self.0.terminal);
        match size {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => Size {
                columns: usize::from(size.ws_col),
                rows: usize::from(size.ws_row),
            },
            _ => USUAL,
        }
    }

    fn with(&self, act: impl FnOnce(&mut Frame)) {
        act(&mut super::lock(&self.0.frame));
    }
}

impl Frame {
    /// Goes to the first line that was drawn, whatever the terminal has made of it.
    fn to_top(&mut self, lines: usize, columns: usize) {
        if std::mem::take(&mut self.erased) {
            return;
        }
        if self.columns != columns && !self.widths.is_empty() {
            let rows = rows_taken(&self.widths, columns);
            self.up(rows - 1);
            self.bytes.push_str("\r\u{1b}[J");
            self.erased = true;
        } else {
            self.up(lines);
        }
        self.columns = columns;
        self.widths.clear();
        self.ended = false;
    }

    fn up(&mut self, rows: usize) {
        if rows > 0 {
            self.bytes.push_str(&format!("\u{1b}[{rows}A"));
        }
    }

    fn write(&mut self, text: &str) {
        self.erased = false;
        if text == "\r" {
            self.bytes.push('\r');
        } else if text.trim_matches(' ').is_empty() {
            // What indicatif fills a line with.
            self.bytes.push_str("\u{1b}[K");
            self.ended = true;
        } else {
            if self.ended {
                self.bytes.push_str("\r\n");
            }
            self.ended = false;
            self.bytes.push_str(text);
            self.widths.push(columns(text));
        }
    }
}

/// Rows that lines of these widths take on a terminal that breaks them.
fn rows_taken(widths: &[usize], columns: usize) -> usize {
    let columns = columns.max(1);
    let rows = widths.iter().map(|width| width.div_ceil(columns).max(1));
    rows.sum()
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        u16::try_from(self.size().columns).unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        u16::try_from(self.size().rows).unwrap_or(u16::MAX)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        let columns = self.size().columns;
        self.with(|frame| frame.to_top(n, columns));
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.with(|frame| {
            if n > 0 && !frame.erased {
                frame.bytes.push_str(&format!("\u{1b}[{n}B"));
            }
        });
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.with(|frame| frame.bytes.push_str(&format!("\u{1b}[{n}C")));
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.with(|frame| frame.bytes.push_str(&format!("\u{1b}[{n}D")));
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.with(|frame| {
            frame.bytes.push_str(text);
            frame.bytes.push_str("\r\n");
        });
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.with(|frame| frame.write(text));
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.with(|frame| frame.bytes.push_str("\r\u{1b}[2K"));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut bytes = String::new();
        self.with(|frame| bytes = std::mem::take(&mut frame.bytes));
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() {
            match rustix::io::write(&self.0.terminal, rest) {
                Ok(written) => rest = &rest[written..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_a_narrower_terminal_breaks_are_counted() {
        assert_eq!(rows_taken(&[79, 40, 0, 80], 80), 4);
        assert_eq!(rows_taken(&[79, 40, 0, 80], 40), 2 + 1 + 1 + 2);
        assert_eq!(rows_taken(&[5], 0), 5);
    }
}
