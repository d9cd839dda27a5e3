//! What browsers are told: the facts, what is under way and what came of the last orders.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::time::Instant;

use super::facts::Facts;
use super::look::LookError;
use crate::cli::board::{clock, lock};

/// Lines about orders that are kept.
const TOLD_MAX: usize = 40;

/// State that several look at. The lock is never held while anything is awaited.
pub(super) type Shared = Arc<Mutex<State>>;

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct State {
    begun: Instant,
    title: String,
    /// The cluster has been looked at.
    looked: bool,
    pub(super) facts: Facts,
    /// What became of orders, the newest last.
    told: VecDeque<String>,
    /// Orders that are carried out, by their number.
    under_way: BTreeMap<u64, String>,
    next_order: u64,
    /// Nothing follows.
    over: bool,
    /// Counts what changed.
    changes: u64,
}

impl State {
    pub(super) fn new(title: &str) -> Self {
        Self {
            begun: Instant::now(),
            title: title.to_owned(),
            looked: false,
            facts: Facts::default(),
            told: VecDeque::new(),
            under_way: BTreeMap::new(),
            next_order: 0,
            over: false,
            changes: 0,
        }
    }

    /// Takes what was seen, or why nothing was: then what was known stays.
    pub(super) fn take(&mut self, seen: Result<Facts, LookError>) {
        let facts = match seen {
            Ok(facts) => facts,
            Err(LookError::Gone) => {
                self.over = true;
                self.changes += 1;
                return;
            }
            Err(LookError::Failed(why)) => Facts {
                gaps: vec![why],
                ..self.facts.clone()
            },
        };
        if !self.looked || facts != self.facts {
            self.changes += 1;
        }
        self.looked = true;
        self.facts = facts;
    }

    pub(super) fn tell(&mut self, what: &str) {
        self.changes += 1;
        let at = clock(self.begun.elapsed());
        self.told.push_back(format!("{at}  {what}"));
        while self.told.len() > TOLD_MAX {
            self.told.pop_front();
        }
    }

    /// All of it as JSON in one line, with its number, unless that was told already.
    pub(super) fn news(&self, told: Option<u64>) -> Option<(u64, String)> {
        if told == Some(self.changes) {
            return None;
        }
        let what = if self.over {
            "the cluster is not up any more"
        } else if self.looked {
            ""
        } else {
            "looking"
        };
        let under_way: Vec<&String> = self.under_way.values().collect();
        let news = json!({
            "title": self.title,
            "what": what,
            "clock": clock(self.begun.elapsed()),
            "facts": self.facts,
            "under_way": under_way,
            "told": self.told,
            "over": self.over,
        });
        Some((self.changes, news.to_string()))
    }
}

/// An order that is carried out, from its making to its end, whatever ends it.
pub(super) struct UnderWay {
    state: Shared,
    number: u64,
    words: String,
}

impl UnderWay {
    pub(super) fn begin(state: &Shared, words: String) -> Self {
        let mut locked = lock(state);
        let number = locked.next_order;
        locked.next_order += 1;
        locked.changes += 1;
        locked.under_way.insert(number, words.clone());
        drop(locked);
        Self {
            state: Arc::clone(state),
            number,
            words,
        }
    }

    /// It has come to its end.
    pub(super) fn end(self, outcome: &str) {
        lock(&self.state).tell(&format!("{}: {outcome}", self.words));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.under_way.remove(&self.number);
        state.changes += 1;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::facts::PodFacts;
    use super::*;

    fn news(state: &Shared) -> Value {
        let (_, news) = lock(state).news(None).expect("nothing was told");
        assert!(!news.contains('\n'), "an event is one line");
        serde_json::from_str(&news).expect("it is JSON")
    }

    fn shared() -> Shared {
        Arc::new(Mutex::new(State::new("test")))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_stays_when_nothing_is_seen() {
        let state = shared();
        assert_eq!(news(&state)["what"], "looking");
        let hostile = "</script><img src=x onerror=alert(1)>\ndata: {}\n\n";
        let facts = Facts {
            pods: vec![PodFacts {
                name: hostile.to_owned(),
                ..PodFacts::default()
            }],
            ..Facts::default()
        };
        lock(&state).take(Ok(facts.clone()));
        let (number, _) = lock(&state).news(None).expect("nothing was told");
        lock(&state).take(Ok(facts));
        assert_eq!(lock(&state).news(Some(number)), None, "nothing has changed");
        lock(&state).take(Err(LookError::Failed("silent".to_owned())));
        let told = news(&state);
        assert_eq!(told["facts"]["pods"][0]["name"], hostile);
        assert_eq!(told["facts"]["gaps"][0], "silent");
        lock(&state).take(Err(LookError::Gone));
        assert_eq!(news(&state)["over"], true);
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_is_under_way_until_it_ends_or_breaks_off() {
        let state = shared();
        let one = UnderWay::begin(&state, "freeze w1".to_owned());
        let other = UnderWay::begin(&state, "reset w2".to_owned());
        assert_eq!(news(&state)["under_way"][1], "reset w2");
        one.end("done");
        drop(other);
        let told = news(&state);
        assert_eq!(told["under_way"].as_array().map(Vec::len), Some(0));
        assert_eq!(told["told"][0], "0:00  freeze w1: done");
        for number in 0..100 {
            lock(&state).tell(&number.to_string());
        }
        let kept = news(&state)["told"].as_array().map(Vec::len);
        assert_eq!(kept, Some(TOLD_MAX));
    }
}
