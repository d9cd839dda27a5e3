//! `net`: the links between machines by hand, and what a change does, measured.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::cluster::{connect, interrupted};
use super::failure::Failure;
use super::machines::require_nodes_of;
use super::terminal::{complain, say};
use crate::cluster::client::DaemonClient;
use crate::cluster::daemon::{CaptureRequest, LinkChange, LinkEffect, LinkHeal, LinkState};
use crate::machines::fabric::{LinkRule, Links, Measured, Port};
use crate::model::names::ClusterName;
use crate::model::units::{parse_bit_rate, parse_duration, parse_share};

/// The tag of rules that were set here.
const BY_HAND: &str = "by-hand";

/// Arguments of `net`.
#[derive(Debug, Args)]
pub(super) struct Net {
    #[command(subcommand)]
    verb: NetVerb,
}

#[derive(Debug, Subcommand)]
enum NetVerb {
    /// Let nothing pass between two machines, or between a machine and all others.
    Cut {
        #[command(flatten)]
        ends: Ends,
        /// Heal by itself after this, for instance `30s`.
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        lasts: Option<Duration>,
    },
    /// Make links slow, lossy or narrow. Replaces what an earlier `cut` or `shape` did to them.
    Shape {
        #[command(flatten)]
        ends: Ends,
        #[command(flatten)]
        shape: Shape,
        /// Heal by itself after this, for instance `30s`.
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        lasts: Option<Duration>,
        /// Decides which frames are lost, doubled, overtaken.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Make links perfect again: all of them, those of a machine, or those between two.
    Heal {
        /// One end.
        from: Option<Port>,
        /// The other end.
        to: Option<Port>,
    },
    /// Show every directed link: the rules that act on it and what has passed.
    Show {
        /// As one JSON list, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Write passing frames to a file that Wireshark and tcpdump open (pcapng), until Ctrl-C.
    Capture(Capture),
}

/// A link, or all links of a machine.
#[derive(Debug, Args)]
struct Ends {
    /// One end: a machine, or `host` for the host's gateway.
    from: Port,
    /// The other end; without it: all others and the host's gateway.
    to: Option<Port>,
    /// Only from the first to the second.
    #[arg(long)]
    one_way: bool,
}

impl From<Ends> for Links {
    fn from(ends: Ends) -> Self {
        Self::Between {
            from: Some(ends.from),
            to: ends.to,
            both_directions: !ends.one_way,
        }
    }
}

#[derive(Debug, Args)]
struct Shape {
    /// Each frame arrives later, for instance `50ms`.
    #[arg(long, value_parser = parse_duration)]
    delay: Option<Duration>,
    /// The delay varies by so much to either side.
    #[arg(long, value_parser = parse_duration, requires = "delay")]
    jitter: Option<Duration>,
    /// The share of frames that is lost, for instance `1%`.
    #[arg(long, value_parser = parse_share)]
    loss: Option<f64>,
    /// The share of frames that arrives twice.
    #[arg(long, value_parser = parse_share)]
    duplicate: Option<f64>,
    /// The share of frames that is held back 10 ms, so that others overtake it.
    #[arg(long, value_parser = parse_share)]
    reorder: Option<f64>,
    /// What passes at most, for instance `1mbit/s`.
    #[arg(long, value_parser = parse_bit_rate)]
    rate: Option<u64>,
}

impl From<Shape> for LinkRule {
    fn from(shape: Shape) -> Self {
        Self {
            cut: false,
            delay: shape.delay.unwrap_or_default(),
            jitter: shape.jitter.unwrap_or_default(),
            loss: shape.loss.unwrap_or_default(),
            duplicate: shape.duplicate.unwrap_or_default(),
            reorder: shape.reorder.unwrap_or_default(),
            rate: shape.rate,
        }
    }
}

#[derive(Debug, Args)]
struct Capture {
    /// What this machine (or `host`) sends and receives.
    #[arg(long, required_unless_present = "from", conflicts_with_all = ["from", "to"])]
    node: Option<Port>,
    /// What arrives on the link from here …
    #[arg(long, requires = "to")]
    from: Option<Port>,
    /// … to here.
    #[arg(long, requires = "from")]
    to: Option<Port>,
    /// The file.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// End after this, for instance `10s`.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    lasts: Option<Duration>,
}

impl Net {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        match self.verb {
            NetVerb::Cut { ends, lasts } => {
                change(name, ends.into(), LinkRule::cut(), lasts, 1).await
            }
            NetVerb::Shape {
                ends,
                shape,
                lasts,
                seed,
            } => change(name, ends.into(), shape.into(), lasts, seed).await,
            NetVerb::Heal { from, to } => {
                heal(&connect(name).await?.daemon, from, to).await?;
                Ok(ExitCode::SUCCESS)
            }
            NetVerb::Show { json } => show(&connect(name).await?.daemon.links().await?, json),
            NetVerb::Capture(capture) => capture.run(&connect(name).await?.daemon).await,
        }
    }
}

/// Makes links perfect again: all of them, those of a machine, or those between two.
pub(super) async fn heal(
    daemon: &DaemonClient,
    from: Option<Port>,
    to: Option<Port>,
) -> Result<(), Failure> {
    let both_directions = from.is_some();
    let links = Links::Between {
        from,
        to,
        both_directions,
    };
    require_nodes_of(daemon, &links).await?;
    daemon.heal_links(&LinkHeal { links, tag: None }).await?;
    Ok(())
}

/// A rule that says something, and says it right.
pub(super) fn require_rule(rule: &LinkRule) -> Result<(), Failure> {
    if *rule == LinkRule::default() {
        return Err(Failure::new("the links are to do nothing special")
            .hint("say what: --delay, --jitter, --loss, --duplicate, --reorder, --rate; `net heal` makes links perfect")
            .invalid());
    }
    rule.validate()
        .map_err(|error| Failure::from(error).invalid())
}

async fn change(
    name: ClusterName,
    links: Links,
    rule: LinkRule,
    lasts: Option<Duration>,
    seed: u64,
) -> Result<ExitCode, Failure> {
    require_rule(&rule)?;
    let daemon = connect(name).await?.daemon;
    let effects = set_rule(&daemon, links, rule, lasts, seed).await?;
    effects_in_words(&rule, &effects)
        .iter()
        .for_each(|line| say(line));
    require_measured(&effects)?;
    Ok(ExitCode::SUCCESS)
}

/// Sets a rule by hand and returns what it does, as measured.
pub(super) async fn set_rule(
    daemon: &DaemonClient,
    links: Links,
    rule: LinkRule,
    lasts: Option<Duration>,
    seed: u64,
) -> Result<Vec<LinkEffect>, Failure> {
    require_nodes_of(daemon, &links).await?;
    let change = LinkChange {
        links,
        rule,
        lasts,
        tag: BY_HAND.into(),
        seed,
    };
    Ok(daemon.change_links(&change).await?)
}

/// One line a link.
pub(super) fn effects_in_words(rule: &LinkRule, effects: &[LinkEffect]) -> Vec<String> {
    let line = |effect: &LinkEffect| {
        format!(
            "{} -> {}: {}",
            effect.from,
            effect.to,
            in_words(rule, &effect.measured)
        )
    };
    effects.iter().map(line).collect()
}

/// A rule that does not act as it says is a failure, though it is set.
pub(super) fn require_measured(effects: &[LinkEffect]) -> Result<(), Failure> {
    let unseen = effects.iter().find(|effect| !effect.verified);
    unseen.map_or(Ok(()), |first| {
        Err(Failure::new(format!(
            "the rule was set, but was not measured on {} -> {}",
            first.from, first.to
        )))
    })
}

/// What was measured, as much of it as the rule is about.
pub(super) fn in_words(rule: &LinkRule, measured: &Measured) -> String {
    let share = |count: u32, of: u32| {
        format!(
            "{:.2} % ({count} of {of})",
            100.0 * f64::from(count) / f64::from(of.max(1))
        )
    };
    if measured.arrived == 0 {
        return format!("nothing passes (0 of {} probes)", measured.sent);
    }
    let mut parts = Vec::new();
    if !rule.delay.is_zero() {
        parts.push(format!(
            "delay {:.1} ms mean, {:.1} ms p99",
            measured.delay_mean_ms, measured.delay_p99_ms
        ));
    }
    if rule.loss > 0.0 {
        parts.push(format!(
            "loss {}",
            share(measured.sent - measured.arrived, measured.sent)
        ));
    }
    if rule.duplicate > 0.0 {
        parts.push(format!(
            "duplicate {}",
            share(measured.duplicated, measured.arrived)
        ));
    }
    if rule.reorder > 0.0 {
        parts.push(format!(
            "overtaken {}",
            share(measured.overtaken, measured.arrived)
        ));
    }
    if rule.rate.is_some()
        && let Some(rate) = measured.rate
    {
        parts.push(format!("rate {:.3} mbit/s", rate / 1e6));
    }
    format!(
        "{} (measured with {} probes)",
        parts.join(", "),
        measured.sent
    )
}

fn show(links: &[LinkState], json: bool) -> Result<ExitCode, Failure> {
    if json {
        say(&serde_json::to_string_pretty(links)?);
        return Ok(ExitCode::SUCCESS);
    }
    for link in links {
        let rules: Vec<String> = link
            .rules
            .iter()
            .map(|(tag, rule)| format!("{rule} [{tag}]"))
            .collect();
        let counted = link.counters.map_or_else(String::new, |counters| {
            let dropped = counters.dropped_by_rule + counters.dropped_by_rate;
            format!(
                " {:>9} frames passed, {dropped:>6} dropped by rules ",
                counters.passed
            )
        });
        let (from, to) = (link.from.to_string(), link.to.to_string());
        let acting = if rules.is_empty() {
            "perfect".to_owned()
        } else {
            rules.join(" + ")
        };
        say(&format!("{from:>10} -> {to:<10}{counted} {acting}"));
    }
    Ok(ExitCode::SUCCESS)
}

impl Capture {
    async fn run(self, daemon: &DaemonClient) -> Result<ExitCode, Failure> {
        let path = self.output.display().to_string();
        let failed = |error: std::io::Error| {
            Failure::new(format!("write the capture `{path}`")).because(error)
        };
        let for_ms = self
            .lasts
            .map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        let links = Links::Between {
            from: self.node.clone().or_else(|| self.from.clone()),
            to: self.to.clone(),
            both_directions: self.node.is_some(),
        };
        require_nodes_of(daemon, &links).await?;
        let request = CaptureRequest {
            port: self.node,
            from: self.from,
            to: self.to,
            for_ms,
        };
        let mut frames = daemon.capture(&request).await?;
        let mut file = std::fs::File::create(&self.output).map_err(failed)?;
        if self.lasts.is_none() {
            complain("capturing; Ctrl-C ends it");
        }
        let mut tally = Tally::default();
        loop {
            let chunk = tokio::select! {
                chunk = frames.chunk() => chunk.map_err(|error| Failure::new("read the capture").because(error))?,
                () = interrupted() => None,
            };
            let Some(chunk) = chunk else { break };
            tally.take(&chunk);
            file.write_all(&chunk).map_err(failed)?;
        }
        // What came last may be half a block, which readers stumble over.
        file.set_len(tally.whole_bytes)
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        say(&format!("{} frames in {path}", tally.frames));
        Ok(ExitCode::SUCCESS)
    }
}

/// Counts the blocks of a pcapng stream that comes in pieces.
#[derive(Debug, Default)]
struct Tally {
    pending: Vec<u8>,
    frames: u64,
    whole_bytes: u64,
}

impl Tally {
    fn take(&mut self, chunk: &[u8]) {
        self.pending.extend_from_slice(chunk);
        let mut at = 0;
        while let Some(head) = self.pending.get(at..at + 8) {
            let word = |from: usize| {
                u32::from_le_bytes(head[from..from + 4].try_into().expect("four bytes"))
            };
            let length = word(4) as usize;
            if length < 12 || self.pending.len() < at + length {
                break;
            }
            self.frames += u64::from(word(0) == 6);
            at += length;
        }
        self.whole_bytes += at as u64;
        self.pending.drain(..at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_the_stream_is_cut() {
        let block = |kind: u32, contents: usize| {
            let length = u32::try_from(contents + 12).expect("small");
            [
                &kind.to_le_bytes()[..],
                &length.to_le_bytes(),
                &vec![0; contents],
                &length.to_le_bytes(),
            ]
            .concat()
        };
        let stream = [
            block(0x0a0d_0d0a, 16),
            block(1, 8),
            block(6, 80),
            block(5, 12),
            block(6, 1514 + 22),
            block(6, 40),
        ]
        .concat();
        let cut = stream.len() - 7;
        for piece in [1, 7, 64, 100_000] {
            let mut tally = Tally::default();
            stream[..cut]
                .chunks(piece)
                .for_each(|chunk| tally.take(chunk));
            assert_eq!(
                (tally.frames, tally.whole_bytes),
                (2, (stream.len() - 52) as u64),
                "{piece}"
            );
        }
    }
}
