//! Times by cron's five fields, in UTC, as CronJobs write them (github.com/robfig/cron, `ParseStandard`).

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// A time that does not come within so many days never comes (the 29th of February comes every eight years at least).
const DAYS_MAX: usize = 8 * 366;
const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something is due: bits of what is meant, field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Days of the month and of the week: both have to be meant if one of them is `*`, else one of them.
    both_days: bool,
}

impl Schedule {
    /// Reads a schedule; says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => {
                return Err(format!("unrecognized descriptor: {other}"));
            }
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!(
                "expected exactly 5 fields, found {}: [{}]",
                fields.len(),
                fields.join(" ")
            ));
        };
        let is_any = |field: &str| field.starts_with(['*', '?']);
        Ok(Self {
            minutes: bits(minutes, 0, 59, &[])?,
            hours: bits(hours, 0, 23, &[])?,
            days: bits(days, 1, 31, &[])?,
            months: bits(months, 1, 12, &MONTHS)?,
            weekdays: bits(weekdays, 0, 6, &WEEKDAYS)?,
            both_days: is_any(days) || is_any(weekdays),
        })
    }

    /// The first time after `at`.
    pub(crate) fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let mut date = date_of(at);
        for _ in 0..DAYS_MAX {
            let found = self.times(date).into_iter().find(|time| *time > at);
            if found.is_some() {
                return found;
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The last time after `after`, and at or before `at`.
    pub(crate) fn last_between(&self, after: Timestamp, at: Timestamp) -> Option<Timestamp> {
        let (mut date, first) = (date_of(at), date_of(after));
        for _ in 0..DAYS_MAX {
            let times = self.times(date).into_iter().rev();
            let found = times.into_iter().find(|time| *time <= at);
            if let Some(found) = found {
                return (found > after).then_some(found);
            }
            if date <= first {
                return None;
            }
            date = date.yesterday().ok()?;
        }
        None
    }

    /// All times of a day, in order.
    fn times(&self, date: Date) -> Vec<Timestamp> {
        if !self.means(date) {
            return Vec::new();
        }
        let mut times = Vec::new();
        for hour in (0..24_i8).filter(|hour| has(self.hours, *hour)) {
            for minute in (0..60_i8).filter(|minute| has(self.minutes, *minute)) {
                let time: DateTime = date.at(hour, minute, 0, 0);
                times.extend(TimeZone::UTC.to_timestamp(time).ok());
            }
        }
        times
    }

    fn means(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let days = if self.both_days {
            day && weekday
        } else {
            day || weekday
        };
        days && has(self.months, date.month())
    }
}

fn date_of(at: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(at).date()
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits >> number & 1 == 1)
}

/// A field: a list of `*`, numbers or ranges, each with a step or without.
fn bits(field: &str, least: u32, most: u32, names: &[&str]) -> Result<u64, String> {
    let mut bits = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step, least, &[])?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (least, most),
            Some((from, to)) => (number(from, least, names)?, number(to, least, names)?),
            None => {
                let from = number(range, least, names)?;
                (from, if step.is_some() { most } else { from })
            }
        };
        if from < least {
            return Err(format!(
                "beginning of range ({from}) below minimum ({least}): {part}"
            ));
        }
        if to > most {
            return Err(format!(
                "end of range ({to}) above maximum ({most}): {part}"
            ));
        }
        if from > to {
            return Err(format!(
                "beginning of range ({from}) beyond end of range ({to}): {part}"
            ));
        }
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        let mut at = from;
        while at <= to {
            bits |= 1_u64 << at;
            at = at.saturating_add(step);
        }
    }
    Ok(bits)
}

/// A number, or a name in place of it.
fn number(text: &str, least: u32, names: &[&str]) -> Result<u32, String> {
    let text = text.to_ascii_lowercase();
    let named = names.iter().zip(least..).find(|(name, _)| **name == text);
    if let Some((_, number)) = named {
        return Ok(number);
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| format!("failed to parse int from {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn next(schedule: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).expect("right");
        let next = schedule.next_after(at(after)).expect("it comes");
        next.to_string()
    }

    #[test]
    fn times_come_when_they_are_meant() {
        // 2026-11-30 is a Monday.
        for (schedule, after, expected) in [
            (
                "*/15 * * * *",
                "2026-11-30T09:14:59Z",
                "2026-11-30T09:15:00Z",
            ),
            (
                "*/15 * * * *",
                "2026-11-30T09:15:00Z",
                "2026-11-30T09:30:00Z",
            ),
            ("@hourly", "2026-11-30T23:30:00Z", "2026-12-01T00:00:00Z"),
            ("30 8 1 * *", "2026-11-30T09:00:00Z", "2026-12-01T08:30:00Z"),
            (
                "0 0 * * sun",
                "2026-11-30T09:00:00Z",
                "2026-12-06T00:00:00Z",
            ),
            // One of both is enough when both are given.
            ("0 0 15 * 3", "2026-11-30T09:00:00Z", "2026-12-02T00:00:00Z"),
            ("0 0 29 2 *", "2026-11-30T09:00:00Z", "2028-02-29T00:00:00Z"),
            (
                "5,10-12 4-6/2 * Jan-mar *",
                "2026-11-30T09:00:00Z",
                "2027-01-01T04:05:00Z",
            ),
        ] {
            assert_eq!(next(schedule, after), expected, "{schedule}");
        }
        let never = Schedule::parse("0 0 31 2 *").expect("right");
        assert_eq!(never.next_after(at("2026-11-30T09:00:00Z")), None);
    }

    #[test]
    fn the_last_time_is_found_between_two() {
        let daily = Schedule::parse("0 8 * * *").expect("right");
        let last = |after: &str, until: &str| daily.last_between(at(after), at(until));
        assert_eq!(
            last("2026-11-01T00:00:00Z", "2026-11-30T09:00:00Z"),
            Some(at("2026-11-30T08:00:00Z"))
        );
        assert_eq!(
            last("2026-11-01T00:00:00Z", "2026-11-30T07:00:00Z"),
            Some(at("2026-11-29T08:00:00Z"))
        );
        assert_eq!(last("2026-11-30T08:00:00Z", "2026-11-30T09:00:00Z"), None);
        assert_eq!(last("2026-11-30T08:30:00Z", "2026-11-30T09:00:00Z"), None);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for wrong in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "*/0 * * * *",
            "5-1 * * * *",
            "a * * * *",
            "@every 1h",
            "+1 * * * *",
            "TZ=UTC * * * *",
        ] {
            assert!(Schedule::parse(wrong).is_err(), "{wrong}");
        }
    }
}
