//! Which automatic snapshots go when those of all clusters together take too much of the disk.

use jiff::Timestamp;

use crate::model::names::ClusterName;

/// What the automatic snapshots of all clusters of a home may take together: about a dozen of a cluster of three small machines.
/// A user's named ones are not counted, since only the user removes them.
pub const MAX_AUTOMATIC_BYTES: u64 = 16 << 30;

/// An automatic snapshot, as far as its room is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Whose it is.
    pub cluster: ClusterName,
    /// Its name.
    pub name: String,
    /// What it takes on the disk.
    pub bytes: u64,
    /// When it was made or last restored.
    pub used: Timestamp,
}

/// Those that have to go so that the others take no more than `limit`: the ones that were not used for longest. The last one used stays.
#[must_use]
pub fn surplus(mut kept: Vec<Kept>, limit: u64) -> Vec<Kept> {
    kept.sort_by(|one, other| {
        (one.used, &one.cluster, &one.name).cmp(&(other.used, &other.cluster, &other.name))
    });
    let mut taken: u64 = kept.iter().map(|one| one.bytes).sum();
    let (mut oldest, mut gone) = (kept.into_iter(), Vec::new());
    while taken > limit && oldest.len() > 1 {
        let one = oldest.next().expect("there is more than one");
        taken -= one.bytes;
        gone.push(one);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_whosever_they_are() {
        let kept = |cluster: &str, bytes, used| Kept {
            cluster: cluster.parse().expect("a name"),
            name: "auto-1".into(),
            bytes,
            used: Timestamp::from_second(used).expect("a time"),
        };
        let all = vec![kept("b", 5, 30), kept("a", 5, 10), kept("c", 5, 20)];
        let check = |limit, expected: &[&str]| {
            let gone = surplus(all.clone(), limit);
            assert_eq!(
                gone.iter()
                    .map(|one| one.cluster.as_str())
                    .collect::<Vec<_>>(),
                expected,
                "{limit}"
            );
        };
        check(15, &[]);
        check(14, &["a"]);
        check(10, &["a"]);
        check(9, &["a", "c"]);
        // One that is too large by itself was asked for all the same.
        check(1, &["a", "c"]);
        assert_eq!(surplus(Vec::new(), 0), []);
    }
}
