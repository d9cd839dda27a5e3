//! The figures of two runs, stream by stream.

use super::super::expectations::{Unit, event_figures, latency_of};
use super::super::judge::case::Case;
use super::super::judge::watched::Watched;
use super::bootstrap::{self, Blocks, Drawn, QUANTILES};
use super::{By, Change, Figure};

/// The figures of every stream that both runs have.
pub(super) fn compare(a: &Case<'_>, b: &Case<'_>, tolerance: f64) -> Vec<Figure> {
    let mut figures = Vec::new();
    for load in a.scenario.loads.keys() {
        let streams = |case: &Case<'_>| -> Vec<String> {
            let names = case.streams(load).into_iter();
            names.map(str::to_owned).collect()
        };
        let both = streams(b);
        for stream in streams(a).iter().filter(|name| both.contains(name)) {
            let (of_a, of_b) = (watch(*a, load, stream), watch(*b, load, stream));
            if let (Some(of_a), Some(of_b)) = (of_a, of_b) {
                let name = format!("{load}.{stream}");
                figures.extend(of_requests(&name, &of_a, &of_b, tolerance));
                figures.extend(of_events(&name, &of_a, &of_b, tolerance));
                figures.extend(recoveries(a, b, load, stream, tolerance));
            }
        }
    }
    figures
}

/// A stream in its counted span, if it sent something.
fn watch<'a>(case: Case<'a>, load: &str, stream: &str) -> Option<Watched<'a>> {
    let counted = case.counted(load);
    let watched = case
        .watch(load, Some(stream), counted, counted.to_ms)
        .pop()?;
    (!watched.samples.is_empty()).then_some(watched)
}

/// What many requests say.
fn of_requests(name: &str, a: &Watched<'_>, b: &Watched<'_>, tolerance: f64) -> Vec<Figure> {
    let (blocks_a, blocks_b) = (Blocks::of(a), Blocks::of(b));
    let drawn = bootstrap::draw(&blocks_a, &blocks_b);
    let (of_a, of_b) = (blocks_a.measured(), blocks_b.measured());
    let figure = |key: &str, unit: Unit, value: &dyn Fn(&Drawn) -> f64| {
        let (low, high) = bootstrap::differences(&drawn, value);
        made(
            format!("{name}.{key}"),
            unit,
            (Some(value(&of_a)), Some(value(&of_b))),
            Some((low, high)),
            (By::Bootstrap, tolerance),
        )
    };
    let mut figures = vec![
        figure("failed", Unit::Share, &|drawn| drawn.failed),
        figure("down", Unit::Share, &|drawn| drawn.down),
    ];
    let (exact_a, exact_b) = (latency_of(a), latency_of(b));
    let exact = [
        (exact_a.p50, exact_b.p50),
        (exact_a.p90, exact_b.p90),
        (exact_a.p99, exact_b.p99),
        (exact_a.p999, exact_b.p999),
    ];
    for (index, ((key, _), (of_a, of_b))) in QUANTILES.iter().zip(exact).enumerate() {
        let drawn = figure(key, Unit::Millis, &|drawn| drawn.quantiles_ms[index]);
        figures.push(Figure {
            a: Some(of_a),
            b: Some(of_b),
            difference: Some(of_b - of_a),
            ..drawn
        });
    }
    figures
}

/// What single events say.
fn of_events(name: &str, a: &Watched<'_>, b: &Watched<'_>, tolerance: f64) -> Vec<Figure> {
    let pairs = event_figures(a).into_iter().zip(event_figures(b));
    pairs
        .map(|((key, unit, of_a), (_, _, of_b))| {
            made(
                format!("{name}.{key}"),
                unit,
                (Some(of_a.value), Some(of_b.value)),
                Some((of_b.low - of_a.high, of_b.high - of_a.low)),
                (By::Errors, tolerance),
            )
        })
        .collect()
}

/// From the faults that both runs have, by their steps' ids.
fn recoveries(a: &Case<'_>, b: &Case<'_>, load: &str, stream: &str, tolerance: f64) -> Vec<Figure> {
    let of = |case: &Case<'_>| {
        let load = case.evidence.load.get(load);
        load.and_then(|load| load.streams.get(stream))
            .map(|figures| figures.recovery_ms.clone())
            .unwrap_or_default()
    };
    let error = a.period_ms(load) + b.period_ms(load);
    let recovered_b = of(b);
    let both = of(a).into_iter().filter_map(|(step, of_a)| {
        let of_b = *recovered_b.get(&step)?;
        Some((step, of_a, of_b))
    });
    both.map(|(step, of_a, of_b)| {
        #[expect(clippy::cast_precision_loss, reason = "times of a run")]
        let (of_a, of_b) = (of_a.map(|ms| ms as f64), of_b.map(|ms| ms as f64));
        let interval = of_a.zip(of_b).map(|(a, b)| (b - a - error, b - a + error));
        made(
            format!("{load}.{stream}.recovery.{step}"),
            Unit::Millis,
            (of_a, of_b),
            interval,
            (By::Errors, tolerance),
        )
    })
    .collect()
}

fn made(
    name: String,
    unit: Unit,
    (a, b): (Option<f64>, Option<f64>),
    interval: Option<(f64, f64)>,
    (by, tolerance): (By, f64),
) -> Figure {
    let tolerated = a.unwrap_or(0.0).abs() * tolerance;
    let change = match (a, b, interval) {
        (Some(_), None, _) => Change::Worse,
        (None, Some(_), _) => Change::Better,
        (_, _, Some((low, _))) if low > tolerated => Change::Worse,
        (_, _, Some((_, high))) if high < -tolerated => Change::Better,
        _ => Change::Undecided,
    };
    Figure {
        name,
        unit: unit.into(),
        difference: a.zip(b).map(|(a, b)| b - a),
        a,
        b,
        low: interval.map(|(low, _)| low),
        high: interval.map(|(_, high)| high),
        by,
        change,
    }
}
