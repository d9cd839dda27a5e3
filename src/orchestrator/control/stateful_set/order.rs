//! Which pods of a StatefulSet are to be made and deleted now.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSetSpec;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) first: i32,
    pub(super) replicas: i32,
    /// All at once, instead of one after the other (`podManagementPolicy`).
    pub(super) parallel: bool,
    /// Ordinals from here on are updated, counted from the first; `None`: only what people delete.
    pub(super) partition: Option<i32>,
}

impl Wanted {
    pub(super) fn of(spec: &StatefulSetSpec) -> Self {
        let strategy = spec.update_strategy.as_ref();
        let on_delete = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let ordinals = spec.ordinals.as_ref();
        Self {
            first: ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0),
            replicas: spec.replicas.unwrap_or(1),
            parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
            partition: (!on_delete).then_some(partition),
        }
    }

    pub(super) fn ordinals(&self) -> std::ops::Range<i32> {
        self.first..self.first.saturating_add(self.replicas)
    }

    /// The template of a new pod.
    fn template(&self, ordinal: i32) -> Revision {
        match self.partition {
            Some(partition) if ordinal < self.first.saturating_add(partition) => Revision::Current,
            _ => Revision::Update,
        }
    }
}

/// Of which template a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revision {
    /// The one before the update.
    Current,
    /// The present one.
    Update,
    /// Another.
    Other,
}

impl Revision {
    pub(super) fn of(held: &str, current: &str, update: &str) -> Self {
        if held == update {
            Self::Update
        } else if held == current {
            Self::Current
        } else {
            Self::Other
        }
    }
}

/// What is known of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) revision: Revision,
    pub(super) terminating: bool,
    /// Its containers have ended for good.
    pub(super) ended: bool,
    /// It runs, and is ready.
    pub(super) healthy: bool,
    /// It has been ready for as long as is asked for.
    pub(super) available: bool,
}

impl Member {
    fn is_well(self) -> bool {
        self.healthy && self.available && !self.terminating
    }
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Create(i32, Revision),
    Delete(i32),
}

/// What to do now: first the ordinals that are missing, in order; then those that are too many, from the last; then the update,
/// from the last.
pub(super) fn next(wanted: &Wanted, members: &BTreeMap<i32, Member>) -> Vec<Step> {
    let mut steps = Vec::new();
    for ordinal in wanted.ordinals() {
        let waits = match members.get(&ordinal) {
            None => {
                steps.push(Step::Create(ordinal, wanted.template(ordinal)));
                true
            }
            Some(member) if member.ended && !member.terminating => {
                steps.push(Step::Delete(ordinal));
                true
            }
            Some(member) => !member.is_well(),
        };
        if waits && !wanted.parallel {
            return steps;
        }
    }
    let range = wanted.ordinals();
    for (ordinal, member) in members.iter().rev() {
        if range.contains(ordinal) {
            continue;
        }
        if member.terminating {
            if wanted.parallel {
                continue;
            }
            return steps;
        }
        steps.push(Step::Delete(*ordinal));
        if !wanted.parallel {
            return steps;
        }
    }
    steps.extend(update(wanted, members));
    steps
}

/// The last pod that is not of the present template, if all behind it are well.
fn update(wanted: &Wanted, members: &BTreeMap<i32, Member>) -> Option<Step> {
    let partition = wanted.partition?;
    let range = wanted.first.saturating_add(partition)..wanted.ordinals().end;
    for ordinal in range.rev() {
        // One that was only just asked for is waited for.
        let member = members.get(&ordinal)?;
        if member.revision != Revision::Update && !member.terminating {
            return (!member.ended).then_some(Step::Delete(ordinal));
        }
        if !member.is_well() {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        first: 0,
        replicas: 3,
        parallel: false,
        partition: Some(0),
    };

    /// `u` well and updated, `c` well and of the template before, `.` missing, `x` ended, `t` terminating, `p` not ready.
    fn members(letters: &str) -> BTreeMap<i32, Member> {
        let member = |letter: char| {
            let well = letter == 'u' || letter == 'c';
            Member {
                revision: if letter == 'c' {
                    Revision::Current
                } else {
                    Revision::Update
                },
                terminating: letter == 't',
                ended: letter == 'x',
                healthy: well,
                available: well,
            }
        };
        (0..)
            .zip(letters.chars())
            .filter(|(_, letter)| *letter != '.')
            .map(|(ordinal, letter)| (ordinal, member(letter)))
            .collect()
    }

    fn check(wanted: Wanted, letters: &str, expected: &[Step]) {
        assert_eq!(next(&wanted, &members(letters)), expected, "{letters}");
    }

    #[test]
    fn ordinals_start_in_order_and_stop_in_reverse() {
        use Revision::Update;
        use Step::{Create, Delete};
        check(WANTED, "...", &[Create(0, Update)]);
        check(WANTED, "p..", &[]);
        check(WANTED, "u..", &[Create(1, Update)]);
        check(WANTED, "u.u", &[Create(1, Update)]);
        check(WANTED, "uxu", &[Delete(1)]);
        check(WANTED, "utu", &[]);
        check(WANTED, "uuu", &[]);
        check(WANTED, "uuuuu", &[Delete(4)]);
        check(WANTED, "uuuut", &[]);
        check(WANTED, "upuuu", &[]);
        check(WANTED, "uuupp", &[Delete(4)]);
        check(WANTED, "uuuup", &[Delete(4)]);
    }

    #[test]
    fn side_by_side() {
        use Revision::Update;
        use Step::{Create, Delete};
        let parallel = Wanted {
            parallel: true,
            ..WANTED
        };
        let all = [Create(0, Update), Create(1, Update), Create(2, Update)];
        check(parallel, "...", &all);
        check(parallel, "p.p", &[Create(1, Update)]);
        check(parallel, "uuuup", &[Delete(4), Delete(3)]);
    }

    #[test]
    fn an_update_goes_from_the_last_to_the_partition_and_waits() {
        use Step::{Create, Delete};
        check(WANTED, "ccc", &[Delete(2)]);
        check(WANTED, "cct", &[]);
        check(WANTED, "cc.", &[Create(2, Revision::Update)]);
        check(WANTED, "ccp", &[]);
        check(WANTED, "ccu", &[Delete(1)]);
        check(WANTED, "cuu", &[Delete(0)]);
        let partition = Wanted {
            partition: Some(2),
            ..WANTED
        };
        check(partition, "ccc", &[Delete(2)]);
        check(partition, "ccu", &[]);
        check(partition, "c.u", &[Create(1, Revision::Current)]);
        let on_delete = Wanted {
            partition: None,
            ..WANTED
        };
        check(on_delete, "ccc", &[]);
        check(on_delete, "c.c", &[Create(1, Revision::Update)]);
    }

    #[test]
    fn ordinals_begin_where_they_are_asked_to() {
        let wanted = Wanted {
            first: 2,
            replicas: 1,
            ..WANTED
        };
        check(wanted, "...", &[Step::Create(2, Revision::Update)]);
        check(wanted, "u.u", &[Step::Delete(0)]);
    }
}
