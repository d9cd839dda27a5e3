//! Which versions answered in each second, as shares of the answers.

use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::svg::{Drawing, Span, duration};

const HEIGHT: f64 = 20.0;
/// At most so many columns, however long the run is.
const COLUMNS_MAX: f64 = 400.0;

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let versions = &run.requests.versions;
    if versions.len() < 2 {
        return Vec::new();
    }
    let width_ms = ((run.axis.to_ms / COLUMNS_MAX / 1000.0).ceil() * 1000.0).max(1000.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 400 columns"
    )]
    let column_of = |ms: f64| (ms / width_ms) as usize;
    let mut columns = vec![vec![0_u32; versions.len()]; column_of(run.axis.to_ms) + 1];
    for request in run
        .requests
        .streams
        .values()
        .flat_map(|stream| &stream.requests)
    {
        if request.version != 0 {
            columns[column_of(request.intended_ms())][usize::from(request.version)] += 1;
        }
    }
    // Named in the order of their names, whichever answered first.
    let mut order: Vec<usize> = (1..versions.len()).collect();
    order.sort_by_key(|&version| &versions[version]);
    let mut drawing = Drawing::default();
    let mut begin = 0;
    while begin < columns.len() {
        let same = |column: &Vec<u32>| shares(column) == shares(&columns[begin]);
        let end = begin
            + columns[begin..]
                .iter()
                .take_while(|column| same(column))
                .count();
        draw(
            run,
            &mut drawing,
            &order,
            &columns[begin..end],
            begin,
            width_ms,
        );
        begin = end;
    }
    let sums: Vec<String> = order
        .iter()
        .map(|&version| {
            let answers: u32 = columns.iter().map(|column| column[version]).sum();
            format!("{} {answers}", versions[version])
        })
        .collect();
    vec![Lane {
        id: "lane-versions".to_owned(),
        group: "load",
        label: "versions".to_owned(),
        total: order
            .iter()
            .map(|&version| versions[version].as_str())
            .collect::<Vec<_>>()
            .join(" → "),
        height: 26,
        body: drawing.body,
        spoken: format!("answers by version: {}", sums.join(", ")),
        stream: None,
    }]
}

/// Shares in per mille.
fn shares(column: &[u32]) -> Vec<u32> {
    let all: u32 = column.iter().sum();
    column
        .iter()
        .map(|count| if all == 0 { 0 } else { count * 1000 / all })
        .collect()
}

fn draw(
    run: &StoredRun,
    drawing: &mut Drawing,
    order: &[usize],
    columns: &[Vec<u32>],
    begin: usize,
    width_ms: f64,
) {
    let sums: Vec<u32> = (0..columns[0].len())
        .map(|version| columns.iter().map(|column| column[version]).sum())
        .collect();
    let all: u32 = sums.iter().sum();
    if all == 0 {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 400 columns")]
    let (from_ms, to_ms) = (
        begin as f64 * width_ms,
        (begin + columns.len()) as f64 * width_ms,
    );
    let mut y = 3.0;
    for (place, &version) in order.iter().enumerate() {
        let share = f64::from(sums[version]) / f64::from(all);
        if sums[version] == 0 {
            continue;
        }
        let name = &run.requests.versions[version];
        let told = format!(
            "{name}: {} of {all} answers ({:.0} %) from {} to {}",
            sums[version],
            share * 100.0,
            duration(from_ms),
            duration(to_ms)
        );
        let class = ["v0", "v1", "v2", "v3"][place.min(3)];
        let label = if share > 0.6 { name.as_str() } else { "" };
        let span = Span {
            class,
            from_ms,
            to_ms: to_ms.min(run.axis.to_ms),
            y,
            height: share * HEIGHT,
            told: &told,
            label,
        };
        drawing.span(&run.axis, &span);
        y += share * HEIGHT;
    }
}
