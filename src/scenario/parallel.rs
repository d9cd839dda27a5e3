//! `parallel = ["a", "b"]`: a step that starts later steps together, and ends when all of them have ended. They do not also run in
//! the file's order.

use super::spec::{Action, Step};

/// When a step without a `when` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// At once.
    First,
    /// When the step with this index has ended.
    After(usize),
    /// When the step with this index begins.
    With(usize),
}

/// The turn of the step with this index.
pub(super) fn turn(steps: &[Step], index: usize) -> Turn {
    let starts = |index: usize| {
        let id = &steps.get(index)?.id;
        steps.iter().position(|step| names(step).contains(id))
    };
    if let Some(starter) = starts(index) {
        return Turn::With(starter);
    }
    let before = (0..index).rev().find(|before| starts(*before).is_none());
    before.map_or(Turn::First, Turn::After)
}

/// The step that starts the step of this id, if one does.
pub(super) fn starter<'s>(steps: &'s [Step], id: &str) -> Option<&'s str> {
    let mut starters = steps
        .iter()
        .filter(|step| names(step).iter().any(|named| named == id));
    starters.next().map(|step| step.id.as_str())
}

/// The steps that a step starts.
fn names(step: &Step) -> &[String] {
    match &step.action {
        Action::Parallel(names) => names,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: &str, starts: &[&str]) -> Step {
        Step {
            id: id.to_owned(),
            when: None,
            action: Action::Parallel(starts.iter().map(|id| (*id).to_owned()).collect()),
            drawn: None,
        }
    }

    #[test]
    fn what_is_started_together_is_not_waited_for_one_by_one() {
        let steps = [
            step("first", &[]),
            step("both", &["inner", "b"]),
            step("b", &[]),
            step("inner", &["c"]),
            step("c", &[]),
            step("last", &[]),
        ];
        let turns: Vec<Turn> = (0..steps.len()).map(|index| turn(&steps, index)).collect();
        assert_eq!(
            turns,
            [
                Turn::First,
                Turn::After(0),
                Turn::With(1),
                Turn::With(1),
                Turn::With(3),
                Turn::After(1),
            ]
        );
        assert_eq!(starter(&steps, "c"), Some("inner"));
        assert_eq!(starter(&steps, "last"), None);
    }
}
