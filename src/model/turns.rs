//! One at a time for each thing: whoever comes later finds it done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Whose turn it is, by key.
#[derive(Debug, Default)]
pub struct Turns(Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn at `key`; it ends when the guard is dropped.
    pub async fn take(&self, key: &str) -> OwnedMutexGuard<()> {
        self.at(key).lock_owned().await
    }

    fn at(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_waited_for_by_its_own_key_alone() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        assert!(turns.take("b").now_or_never().is_some());
        let second = turns.take("a");
        tokio::pin!(second);
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        second.await;
    }
}
