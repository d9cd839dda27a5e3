//! The timeline as a picture of its own: SVG for a README or a slide.

use std::fmt::Write as _;

use super::lane::{Lane, lanes};
use super::lanes::requests::rules;
use super::svg::{escape, number};
use super::{STYLE, StoredRun, sentence, tables};
use crate::scenario::page::history::whole;

const WIDTH: u32 = 1200;
/// Where the lanes' names stand.
const GUTTER: u32 = 230;
/// Above the lanes: verdict and sentence, then the axis.
const HEAD: u32 = 66;
const AXIS: u32 = 26;

/// What it is drawn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shade {
    /// White.
    Light,
    /// Nearly black.
    Dark,
}

/// The picture of a run.
#[must_use]
pub fn picture(run: &StoredRun, shade: Shade) -> String {
    let lanes = lanes(run);
    let height = HEAD + AXIS + lanes.iter().map(|lane| lane.height + 1).sum::<u32>() + 10;
    let class = match shade {
        Shade::Light => "light",
        Shade::Dark => "dark",
    };
    let verdict = run.report.verdict;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"{class}\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui,sans-serif\" font-size=\"12\">\
         <style><![CDATA[{STYLE}.name{{fill:var(--text)}}.muted{{fill:var(--muted)!important}}.edge{{stroke:var(--line)}}]]></style>\
         <rect width=\"100%\" height=\"100%\" fill=\"var(--page)\"/>\
         <text x=\"12\" y=\"28\" font-size=\"19\" font-weight=\"650\" fill=\"var(--{})\">{} {}</text>\
         <text x=\"{GUTTER}\" y=\"28\" font-size=\"19\" fill=\"var(--text)\">{}</text>\
         <text x=\"{GUTTER}\" y=\"50\" font-size=\"13\" fill=\"var(--muted)\">{}</text><g class=\"tl\">",
        verdict.word().to_lowercase(),
        tables::mark(verdict),
        verdict.word(),
        escape(&run.report.title()),
        escape(&sentence::of(run)),
    );
    axis(&mut out, run);
    let mut y = HEAD + AXIS;
    let mut group = "";
    for lane in &lanes {
        draw(
            &mut out,
            run,
            lane,
            y,
            lane.group != group || lane.stream.is_some(),
        );
        group = lane.group;
        y += lane.height + 1;
    }
    out.push_str("</g></svg>");
    out
}

fn axis(out: &mut String, run: &StoredRun) {
    let _ = write!(
        out,
        "<svg x=\"{GUTTER}\" y=\"{HEAD}\" width=\"{}\" height=\"{AXIS}\"><g class=\"ticks\">",
        WIDTH - GUTTER
    );
    for ms in run.axis.ticks(10.0) {
        let anchor = if ms <= run.axis.from_ms {
            " style=\"text-anchor:start\""
        } else {
            ""
        };
        let _ = write!(
            out,
            "<svg x=\"{}%\" overflow=\"visible\"><path d=\"M0 17v9\"/><text y=\"12\"{anchor}>{} s</text></svg>",
            run.axis.percent(ms),
            number(ms / 1000.0)
        );
    }
    out.push_str("</g></svg>");
}

fn draw(out: &mut String, run: &StoredRun, lane: &Lane, y: u32, ruled: bool) {
    if ruled {
        let _ = write!(
            out,
            "<line class=\"edge\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{y}.5\" y2=\"{y}.5\"/>"
        );
    }
    let middle = y + if lane.stream.is_some() {
        26
    } else {
        lane.height / 2 + 5
    };
    let _ = write!(
        out,
        "<text class=\"name\" x=\"12\" y=\"{middle}\">{}</text><text class=\"muted\" x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
        escape(&short(&lane.label)),
        GUTTER - 10,
        escape(&lane.total)
    );
    let width = WIDTH - GUTTER;
    let _ = write!(
        out,
        "<svg class=\"g-{}\" x=\"{GUTTER}\" y=\"{}\" width=\"{width}\" height=\"{}\">",
        lane.group,
        y + 1,
        lane.height
    );
    for fault in &run.report.faults {
        if let Some(onset_ms) = fault.onset_ms.map(whole) {
            let end_ms = fault.healed_ms.map_or(run.axis.to_ms, whole);
            let _ = write!(
                out,
                "<rect class=\"tint\" x=\"{}%\" width=\"{}%\" height=\"100%\"/>",
                run.axis.percent(onset_ms),
                run.axis.width(onset_ms, end_ms)
            );
        }
    }
    out.push_str(&lane.body);
    let load = lane
        .stream
        .as_deref()
        .and_then(|stream| stream.split_once('.'));
    for (y, text) in load.map(|(load, _)| rules(run, load)).unwrap_or_default() {
        let _ = write!(
            out,
            "<text class=\"rule\" x=\"3\" y=\"{}\" dy=\"-2\">{}</text>",
            number(y),
            escape(&text)
        );
    }
    out.push_str("</svg>");
}

/// A name that fits into the gutter: its middle is left out.
fn short(name: &str) -> String {
    const MOST: usize = 24;
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= MOST {
        return name.to_owned();
    }
    let begin: String = characters[..12].iter().collect();
    let end: String = characters[characters.len() - 11..].iter().collect();
    format!("{begin}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::page::fixture::{Plan, write};

    #[test]
    fn a_picture_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &Plan::default()).unwrap();
        let run = StoredRun::read(folder.path()).unwrap();
        let (light, dark) = (picture(&run, Shade::Light), picture(&run, Shade::Dark));
        assert!(light.starts_with("<svg") && light.ends_with("</svg>"));
        assert_eq!(light.replacen("class=\"light\"", "class=\"dark\"", 1), dark);
        assert!(light.contains("node.power_off w1") && !light.contains("<script"));
        assert_eq!(
            short("flappy-silex-7c9d8f6b5-abcdef"),
            "flappy-silex…f6b5-abcdef"
        );
    }
}
