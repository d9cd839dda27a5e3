//! The one suite every store passes.

use serde_json::{Value, json};

use super::embedded::{EmbeddedStore, Sealing};
use super::seal::Sealer;
use super::{Durability, Expected, Revision, Store, StoreError, Window};

fn sealing() -> Sealing {
    Sealing {
        sealer: Sealer::new(&[1; 32]).expect("32 bytes"),
        prefix: "/secret/".to_owned(),
    }
}

fn object(n: u64) -> Value {
    json!({"metadata": {"name": format!("o{n}")}, "n": n})
}

async fn create(store: &impl Store, key: &str, n: u64) -> Revision {
    store
        .put(key, object(n), Expected::Absent, Durability::Synced)
        .await
        .expect("created")
        .revision
}

async fn conforms(store: impl Store) {
    // Writes only over what was expected.
    let first = create(&store, "/a/1", 1).await;
    let again = store
        .put("/a/1", object(9), Expected::Absent, Durability::Synced)
        .await;
    assert!(
        matches!(again, Err(StoreError::Conflict { current: Some(current), .. }) if current == first)
    );
    let second = store
        .put("/a/1", object(2), Expected::At(first), Durability::Synced)
        .await
        .expect("updated");
    assert!(second.revision > first);
    assert_eq!(
        second.value["metadata"]["resourceVersion"],
        json!(second.revision.to_string())
    );
    let stale = store
        .put("/a/1", object(3), Expected::At(first), Durability::Synced)
        .await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let absent = store.delete("/a/none", first, Durability::Synced).await;
    assert!(matches!(
        absent,
        Err(StoreError::Conflict { current: None, .. })
    ));

    // Ranges keep to their prefix, page, and show the past.
    let third = create(&store, "/a/2", 2).await;
    create(&store, "/a/3", 3).await;
    let before = create(&store, "/ab/1", 4).await;
    let page = store
        .range(
            "/a/",
            Window {
                limit: Some(2),
                ..Window::default()
            },
        )
        .expect("page");
    assert_eq!(
        (page.entries.len(), page.remaining, page.revision),
        (2, 1, before)
    );
    store
        .delete(
            "/a/3",
            store.get("/a/3").expect("there").revision,
            Durability::Synced,
        )
        .await
        .expect("deleted");
    create(&store, "/a/4", 5).await;
    let rest = store
        .range(
            "/a/",
            Window {
                after: Some("/a/2"),
                at: Some(before),
                ..Window::default()
            },
        )
        .expect("the ring reaches back");
    assert_eq!(
        rest.entries
            .iter()
            .map(|entry| entry.key.to_string())
            .collect::<Vec<_>>(),
        ["/a/3"]
    );
    assert_eq!(rest.revision, before);

    // Events: all, once, in order, strictly after.
    let (events, upto) = store.events("/a/", first, 100).expect("kept");
    assert_eq!(events[0].revision, second.revision);
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0].revision < pair[1].revision)
    );
    assert_eq!(events.len(), 5);
    assert_eq!(upto, store.revision());
    let deleted = events
        .iter()
        .find(|event| event.value.is_none())
        .expect("a deletion");
    assert_eq!(deleted.previous.as_ref().expect("was there")["n"], json!(3));
    let (page, upto) = store.events("/a/", first, 2).expect("kept");
    assert_eq!((page.len(), upto), (2, third));

    // A subscriber learns of the newest revision.
    let mut subscriber = store.subscribe();
    subscriber.mark_unchanged();
    let last = create(&store, "/b/1", 6).await;
    subscriber.changed().await.expect("open");
    assert_eq!(*subscriber.borrow(), last);

    // What was compacted is gone, and said to be.
    store.compact(second.revision);
    assert!(matches!(
        store.events("/a/", first, 1),
        Err(StoreError::Compacted { .. })
    ));
    assert!(store.events("/a/", second.revision, 1).is_ok());
    let past = store.range(
        "/a/",
        Window {
            at: Some(first),
            ..Window::default()
        },
    );
    assert!(matches!(past, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn embedded_in_memory_conforms() {
    conforms(EmbeddedStore::in_memory(sealing()).expect("opened")).await;
}

#[tokio::test]
async fn embedded_on_disk_conforms() {
    let directory = tempfile::tempdir().expect("a directory");
    conforms(EmbeddedStore::open(&directory.path().join("store.redb"), sealing()).expect("opened"))
        .await;
}

#[tokio::test]
async fn the_ring_is_bounded_and_older_watches_are_told() {
    let store = EmbeddedStore::in_memory(sealing()).expect("opened");
    let first = create(&store, "/a/1", 1).await;
    let mut revision = first;
    for n in 0..=crate::orchestrator::limits::RING_EVENTS as u64 {
        let put = store.put(
            "/a/1",
            object(n),
            Expected::At(revision),
            Durability::Eventual,
        );
        revision = put.await.expect("updated").revision;
    }
    assert!(matches!(
        store.events("/a/", first, 1),
        Err(StoreError::Compacted { .. })
    ));
    let (events, _) = store
        .events("/a/", Revision(revision.0 - 1), 10)
        .expect("recent");
    assert_eq!(events.len(), 1);
}

#[tokio::test]
async fn concurrent_writers_of_one_key_do_not_overwrite_each_other() {
    let store = std::sync::Arc::new(EmbeddedStore::in_memory(sealing()).expect("opened"));
    create(&*store, "/a/counter", 0).await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            let mut done = 0;
            while done < 10 {
                let entry = store.get("/a/counter").expect("there");
                let n = entry.value["n"].as_u64().expect("a number");
                if store
                    .put(
                        "/a/counter",
                        object(n + 1),
                        Expected::At(entry.revision),
                        Durability::Synced,
                    )
                    .await
                    .is_ok()
                {
                    done += 1;
                }
            }
        });
    }
    writers.join_all().await;
    assert_eq!(
        store.get("/a/counter").expect("there").value["n"],
        json!(80)
    );
}

const CHILD: &str = "FLIGHTCAGE_STORE_CRASH_DIR";

/// Not a test of its own: the child of the next one, which is killed while it writes.
#[tokio::test]
async fn crash_child() {
    use std::io::Write as _;
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let path = std::path::Path::new(&directory);
    let store = EmbeddedStore::open(&path.join("store.redb"), sealing()).expect("opened");
    let mut acknowledged = std::fs::File::create(path.join("acknowledged")).expect("created");
    for n in 0..1_000_000 {
        let entry = store
            .put(
                &format!("/secret/{n:07}"),
                object(n),
                Expected::Absent,
                Durability::Synced,
            )
            .await;
        writeln!(acknowledged, "{}", entry.expect("written").revision).expect("noted");
    }
}

/// How often the store is killed; a thousand times when it matters.
const KILLS: &str = "FLIGHTCAGE_STORE_KILLS";

#[tokio::test]
async fn kill_9_loses_no_acknowledged_write() {
    let by_hand = std::env::var(KILLS).ok();
    let kills = by_hand
        .as_deref()
        .map_or(3, |text| text.parse().expect("a number"));
    let mut slowest = std::time::Duration::ZERO;
    for kill in 0..kills {
        // At another moment each time.
        slowest = slowest.max(kill_after(20 + kill * 7 % 50).await);
    }
    if by_hand.is_some() {
        use std::io::Write as _;
        writeln!(
            std::io::stderr(),
            "{kills} kills, no acknowledged write lost; the slowest start took {slowest:?}"
        )
        .expect("written");
    }
}

/// Returns how long the store took to start again.
async fn kill_after(writes: usize) -> std::time::Duration {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "orchestrator::store::conformance::crash_child",
            "--nocapture",
        ])
        .env(CHILD, directory.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let noted = directory.path().join("acknowledged");
    // Progress, not time: enough writes have been acknowledged.
    while std::fs::read_to_string(&noted)
        .unwrap_or_default()
        .lines()
        .count()
        < writes
    {
        assert!(
            child.try_wait().expect("the child's state").is_none(),
            "the child ended early"
        );
        tokio::task::yield_now().await;
    }
    child.kill().await.expect("killed");
    let text = std::fs::read_to_string(&noted).expect("read");
    let complete = text.rsplit_once('\n').expect("at least one line").0;
    let revisions: Vec<u64> = complete
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    let raw = std::fs::read(directory.path().join("store.redb")).expect("read");
    assert!(
        !raw.windows(10).any(|part| part == b"\"metadata\""),
        "sealed values are not readable on disk"
    );
    let begun = std::time::Instant::now();
    let store =
        EmbeddedStore::open(&directory.path().join("store.redb"), sealing()).expect("reopened");
    let took = begun.elapsed();
    for (n, revision) in revisions.iter().enumerate() {
        let entry = store
            .get(&format!("/secret/{n:07}"))
            .expect("an acknowledged write survives");
        assert_eq!(entry.revision, Revision(*revision));
    }
    assert!(
        store.revision() > Revision(*revisions.last().expect("some")),
        "no revision is given twice"
    );
    took
}
