//! Reads `[matrix]`.

use crate::model::reader::{Table, Value};
use crate::scenario::matrix::Matrix;

/// Runs that one file may ask for.
const CELLS_MAX: usize = 1000;

pub(super) fn matrix(table: &Table<'_, '_>) -> Option<Matrix> {
    table.allow(&["seed", "sample"]);
    let seeds = table.require("seed").and_then(|value| seeds(&value));
    let sample_value = table.get("sample");
    let sample = sample_value.map(|value| value.integer(1..=CELLS_MAX as u64));
    let (seeds, sample) = (
        seeds?,
        sample.map_or(Some(None), |sample| {
            Some(Some(usize::try_from(sample?).ok()?))
        })?,
    );
    if let (Some(value), Some(sample)) = (sample_value, sample)
        && sample > seeds.len()
    {
        value.problem(
            format!("a sample of {sample} from {} cells", seeds.len()),
            None,
        );
    }
    Some(Matrix { seeds, sample })
}

/// A list, or a range whose ends both belong to it.
fn seeds(value: &Value<'_, '_>) -> Option<Vec<u64>> {
    let any = |value: &Value<'_, '_>| value.integer(0..=u64::MAX);
    let seeds = if let Some(table) = value.if_table() {
        table.allow(&["from", "to"]);
        let (from, to) = (table.require("from"), table.require("to"));
        let (from, to) = (
            from.and_then(|value| any(&value)),
            to.and_then(|value| any(&value)),
        );
        // One more than is allowed is enough to refuse it.
        (from?..=to?).take(CELLS_MAX + 1).collect()
    } else if let Some(values) = value.if_array() {
        let seeds: Vec<Option<u64>> = values.iter().map(any).collect();
        let seeds = seeds.into_iter().collect::<Option<Vec<u64>>>()?;
        for (index, value) in values
            .iter()
            .enumerate()
            .filter(|(index, _)| seeds[..*index].contains(&seeds[*index]))
        {
            value.problem(format!("`{}` is there twice", seeds[index]), None);
        }
        seeds
    } else {
        let help = "such as `seed = [1, 2, 3]` or `seed = { from = 1, to = 5 }`";
        value.problem(
            "the values of a matrix are a list or a range",
            Some(help.into()),
        );
        return None;
    };
    match seeds.len() {
        0 => value.problem(
            "no cell",
            Some("a range runs from the smaller to the larger".into()),
        ),
        1..=CELLS_MAX => {}
        _ => value.problem(format!("more than {CELLS_MAX} cells"), None),
    }
    Some(seeds)
}
