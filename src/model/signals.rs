//! Linux' signals by name and number, as images and manifests write them.

/// Names of the first 31, in order.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Other names of some.
const ALIASES: [(&str, u8); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
/// SIGTERM: what stops a container whose image says nothing.
pub const TERM: u8 = 15;
/// The first real-time signal that the C library leaves to programs.
const RTMIN: u8 = 34;
/// The last signal.
const RTMAX: u8 = 64;

/// The number of a signal: `SIGQUIT`, `quit`, `3`, `SIGRTMIN+3`, `RTMAX-1`. `None` if there is no such signal.
pub fn number(name: &str) -> Option<u8> {
    let name = name.trim().to_ascii_uppercase();
    if let Ok(number) = name.parse::<u8>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let bare = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |text: &str, sign: char| -> Option<u8> {
        if text.is_empty() {
            return Some(0);
        }
        let digits = text.strip_prefix(sign)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        return RTMIN
            .checked_add(offset(rest, '+')?)
            .filter(|number| *number <= RTMAX);
    }
    if let Some(rest) = bare.strip_prefix("RTMAX") {
        return RTMAX
            .checked_sub(offset(rest, '-')?)
            .filter(|number| *number >= RTMIN);
    }
    let known = NAMES
        .iter()
        .position(|known| *known == bare)
        .and_then(|at| u8::try_from(at + 1).ok());
    known.or_else(|| {
        let alias = ALIASES.iter().find(|(alias, _)| *alias == bare);
        alias.map(|(_, number)| *number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_is_known_by_name_and_number() {
        for signal in 1..=31_u8 {
            let name = NAMES[usize::from(signal) - 1];
            for text in [
                name.to_owned(),
                format!("SIG{name}"),
                format!("sig{name}").to_lowercase(),
                signal.to_string(),
            ] {
                assert_eq!(number(&text), Some(signal), "{text}");
            }
        }
        for signal in RTMIN..=RTMAX {
            for text in [
                format!("SIGRTMIN+{}", signal - RTMIN),
                format!("rtmax-{}", RTMAX - signal),
                signal.to_string(),
            ] {
                assert_eq!(number(&text), Some(signal), "{text}");
            }
        }
        for (name, expected) in [("SIGRTMIN", 34), ("RTMAX", 64), ("SIGPOLL", 29), ("32", 32)] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for wrong in [
            "",
            "SIG",
            "SIGFOO",
            "0",
            "65",
            "-1",
            "+",
            "RTMIN+31",
            "RTMAX-31",
            "RTMIN-1",
            "RTMIN+",
            "RTMIN++1",
            "RTMIN+x",
            "SIGSIGTERM",
            "256",
        ] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }
}
