//! Small pieces of SVG. Positions along time are percentages of the axis, so that a lane can be as wide as the window, and
//! zooming changes one width; everything across is in pixels.

use std::fmt::Write as _;

/// Text as it may stand in HTML, SVG and their attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML knows no other control characters, escaped or not.
            control if control.is_control() && !matches!(control, '\n' | '\t') => {
                out.push('\u{fffd}');
            }
            other => out.push(other),
        }
    }
    out
}

/// A number with at most three decimals, and none that say nothing.
#[must_use]
pub fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() || text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

/// A time or a length in milliseconds, for reading.
#[must_use]
pub fn duration(ms: f64) -> String {
    if ms < 0.0 {
        format!("−{}", duration(-ms))
    } else if ms < 10.0 {
        format!("{} ms", number((ms * 10.0).round() / 10.0))
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 10_000.0 {
        format!("{} s", number((ms / 10.0).round() / 100.0))
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

/// What the axis shows: a span of the run, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    /// Its left end.
    pub from_ms: f64,
    /// Its right end, later than the left one.
    pub to_ms: f64,
}

impl Axis {
    /// Where a time stands, from 0 to 1.
    #[must_use]
    pub fn share(&self, ms: f64) -> f64 {
        ((ms - self.from_ms) / (self.to_ms - self.from_ms)).clamp(0.0, 1.0)
    }

    /// Where a time stands, as a percentage.
    #[must_use]
    pub fn percent(&self, ms: f64) -> String {
        number(self.share(ms) * 100.0)
    }

    /// How wide a span is, as a percentage.
    #[must_use]
    pub fn width(&self, from_ms: f64, to_ms: f64) -> String {
        number(((self.share(to_ms) - self.share(from_ms)) * 100.0).max(0.0))
    }

    /// Round times for marks on the axis: about `wanted` of them.
    #[must_use]
    pub fn ticks(&self, wanted: f64) -> Vec<f64> {
        const STEPS_MS: [f64; 15] = [
            100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 10e3, 20e3, 30e3, 60e3, 120e3, 300e3, 600e3,
            1800e3, 3600e3,
        ];
        let rough = (self.to_ms - self.from_ms) / wanted;
        let step = STEPS_MS
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(3600e3);
        let mut ticks = Vec::new();
        let mut tick = (self.from_ms / step).ceil() * step;
        while tick <= self.to_ms && ticks.len() < 200 {
            ticks.push(tick);
            tick += step;
        }
        ticks
    }
}

/// A span of a lane as it is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Its style: a class of the style sheet.
    pub class: &'a str,
    /// Its beginning.
    pub from_ms: f64,
    /// Its end.
    pub to_ms: f64,
    /// Its upper edge within the lane.
    pub y: f64,
    /// Its height.
    pub height: f64,
    /// What the card says.
    pub told: &'a str,
    /// What stands in it, cut off at its end.
    pub label: &'a str,
}

/// What of a lane is drawn.
#[derive(Debug, Default)]
pub struct Drawing {
    /// The elements.
    pub body: String,
    /// How many of them can be pointed at.
    pub marks: usize,
}

impl Drawing {
    /// A bar from one time to another.
    pub fn span(&mut self, axis: &Axis, span: &Span<'_>) {
        self.marks += 1;
        let Span {
            class,
            from_ms,
            to_ms,
            y,
            height,
            told,
            label,
        } = *span;
        let (x, width) = (axis.percent(from_ms), axis.width(from_ms, to_ms));
        let _ = write!(
            self.body,
            "<g class=\"m {class}\" data-a=\"{}\" data-b=\"{}\"><title>{}</title><rect x=\"{x}%\" y=\"{}\" width=\"{width}%\" height=\"{}\"/>",
            number(from_ms),
            number(to_ms),
            escape(told),
            number(y),
            number(height)
        );
        if !label.is_empty() {
            let _ = write!(
                self.body,
                "<svg x=\"{x}%\" y=\"{}\" width=\"{width}%\" height=\"{}\"><text x=\"4\" y=\"{}\">{}</text></svg>",
                number(y),
                number(height),
                number(height / 2.0 + 3.5),
                escape(label)
            );
        }
        self.body.push_str("</g>");
    }

    /// A shape at a time. `shape` is an id of the page's symbols.
    pub fn mark(&mut self, axis: &Axis, at: &Span<'_>, shape: &str) {
        self.marks += 1;
        let _ = write!(
            self.body,
            "<g class=\"m {}\" data-a=\"{}\" data-b=\"{}\"><title>{}</title><svg x=\"{}%\" y=\"{}\" overflow=\"visible\"><path d=\"{shape}\"/></svg></g>",
            at.class,
            number(at.from_ms),
            number(at.to_ms),
            escape(at.told),
            axis.percent(f64::midpoint(at.from_ms, at.to_ms)),
            number(at.y)
        );
    }

    /// Words at a time.
    pub fn text(&mut self, axis: &Axis, class: &str, at_ms: f64, y: f64, dx: f64, text: &str) {
        let _ = write!(
            self.body,
            "<svg x=\"{}%\" y=\"{}\" overflow=\"visible\"><text class=\"{class}\" x=\"{}\">{}</text></svg>",
            axis.percent(at_ms),
            number(y),
            number(dx),
            escape(text)
        );
    }

    /// A path whose x runs from 0 to 1000 along the axis, in a box of that height.
    pub fn stretched(&mut self, class: &str, y: f64, height: f64, path: &str) {
        let _ = write!(
            self.body,
            "<svg class=\"{class}\" x=\"0\" y=\"{}\" width=\"100%\" height=\"{height}\" viewBox=\"0 0 1000 {height}\" preserveAspectRatio=\"none\"><path d=\"{path}\"/></svg>",
            number(y)
        );
    }
}

/// The shape of a class of failure, around (0, 0): told apart without colours.
#[must_use]
pub fn shape(class: &str) -> &'static str {
    match class {
        "refused" => "M-3.5-3.5l7 7M3.5-3.5l-7 7",
        "connect_timeout" => "M0-4L4 3.5H-4z",
        "reset" => "M0-4.5L4.5 0 0 4.5-4.5 0z",
        "read_timeout" => "M-3.5-3.5h7v7h-7z",
        "tls" => "M0-4.2L4-1.3 2.5 3.5h-5L-4-1.3z",
        "status" => "M-3.8 0a3.8 3.8 0 1 1 7.6 0 3.8 3.8 0 1 1-7.6 0z",
        "body" => "M0-4.2v8.4M-4.2 0h8.4",
        "deadline" => "M0 4L4-3.5H-4z",
        _ => "M-3 0a3 3 0 1 1 6 0 3 3 0 1 1-6 0z",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_inert() {
        assert_eq!(
            escape("</script><img onerror='x'>\u{8}&"),
            "&lt;/script&gt;&lt;img onerror=&#39;x&#39;&gt;\u{fffd}&amp;"
        );
    }

    #[test]
    fn numbers_and_durations_are_short() {
        let told: Vec<String> = [0.0, -0.0001, 1.5, 100.0, 33.333_33]
            .into_iter()
            .map(number)
            .collect();
        assert_eq!(told, ["0", "0", "1.5", "100", "33.333"]);
        let told: Vec<String> = [0.25, 83.4, 999.7, 2_741.0, 61_234.0, -5.0]
            .into_iter()
            .map(duration)
            .collect();
        assert_eq!(
            told,
            ["0.3 ms", "83 ms", "1 s", "2.74 s", "61.2 s", "−5 ms"]
        );
    }

    #[test]
    fn ticks_are_round() {
        let axis = Axis {
            from_ms: 1500.0,
            to_ms: 95_000.0,
        };
        assert_eq!(
            axis.ticks(10.0),
            [10e3, 20e3, 30e3, 40e3, 50e3, 60e3, 70e3, 80e3, 90e3]
        );
        assert_eq!(axis.percent(0.0), "0");
        assert_eq!(axis.width(1500.0, 95_000.0), "100");
    }
}
