//! What every sink must do: one list of checks, for the twin in memory and for every adapter.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed check")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use crate::deliver::{Created, Sink};

type Lake = Arc<dyn Sink>;

/// What kinds of stores differ in.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    /// `p` and `p/q` may both be objects; in a folder one is a file and the other would make it a folder.
    pub flat: bool,
}

/// Every check; each uses its own keys, so that they may share one lake.
///
/// # Panics
/// When one of them fails.
pub async fn sink_conforms(lake: Lake, store: Store) {
    what_is_missing_is_none(&lake).await;
    what_is_created_is_read_back(&lake).await;
    the_first_one_stays(&lake).await;
    each_key_has_one_winner(&lake).await;
    an_object_is_whole_or_not_there(&lake).await;
    a_large_object_has_one_winner(&lake).await;
    if store.flat {
        a_key_may_be_the_beginning_of_another(&lake).await;
    }
}

async fn what_is_missing_is_none(lake: &Lake) {
    assert_eq!(lake.read("missing/a").await.unwrap(), None);
    assert!(!lake.exists("missing/a").await.unwrap());
}

async fn what_is_created_is_read_back(lake: &Lake) {
    let key = "landing/year=2026/month=01/day=15/hour=09/trades-shardId-0-1-2-r1.ndjson.gz";
    let body = Bytes::from_static(b"\x1f\x8b rows\n");
    assert_eq!(lake.create(key, body.clone()).await.unwrap(), Created::New);
    assert!(lake.exists(key).await.unwrap());
    assert_eq!(lake.read(key).await.unwrap(), Some(body));
    assert_eq!(lake.create("empty", Bytes::new()).await.unwrap(), Created::New);
    assert_eq!(lake.read("empty").await.unwrap(), Some(Bytes::new()));
}

async fn the_first_one_stays(lake: &Lake) {
    assert_eq!(lake.create("stays/a", "first".into()).await.unwrap(), Created::New);
    for body in ["first", "second", ""] {
        assert_eq!(lake.create("stays/a", body.into()).await.unwrap(), Created::Existed);
    }
    assert_eq!(lake.read("stays/a").await.unwrap(), Some("first".into()));
}

/// Eight writers, ten keys: ten times `New`, and what is there is what a winner wrote.
async fn each_key_has_one_winner(lake: &Lake) {
    let create = |writer: usize, key: usize| async move {
        let (name, body) = (format!("race/{key}"), format!("{writer} wrote {key}"));
        loop {
            // A store may refuse while others write the same key. Who asks again hears what came of it.
            if let Ok(created) = lake.create(&name, body.clone().into()).await {
                return (name, body, created);
            }
        }
    };
    let races = (0..8).flat_map(|writer| (0..10).map(move |key| create(writer, key)));
    let won: BTreeMap<String, String> = join_all(races)
        .await
        .into_iter()
        .filter(|(.., created)| *created == Created::New)
        .map(|(name, body, _)| (name, body))
        .collect();
    assert_eq!(won.len(), 10);
    for (name, body) in won {
        assert_eq!(lake.read(&name).await.unwrap(), Some(body.into()), "{name}");
    }
}

/// Who looks while a large object is being written sees all of it or nothing.
async fn an_object_is_whole_or_not_there(lake: &Lake) {
    let body: Bytes = (0u32..2_000_000).flat_map(u32::to_le_bytes).collect();
    let watch = async {
        loop {
            if let Some(seen) = lake.read("whole").await.unwrap() {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    let (created, seen) = tokio::join!(lake.create("whole", body.clone()), watch);
    assert_eq!(created.unwrap(), Created::New);
    assert!(seen == body, "{} of {} bytes seen", seen.len(), body.len());
}

/// Two writers of an object that goes to S3 in parts. The winner's stays, also for who comes later.
async fn a_large_object_has_one_winner(lake: &Lake) {
    let body = |writer: u8| Bytes::from(vec![writer; (17 << 20) + usize::from(writer)]);
    let create = |writer: u8| async move {
        loop {
            if let Ok(created) = lake.create("large", body(writer)).await {
                return created;
            }
        }
    };
    let (first, second) = tokio::join!(create(1), create(2));
    let winner = match (first, second) {
        (Created::New, Created::Existed) => 1,
        (Created::Existed, Created::New) => 2,
        both => panic!("{both:?}"),
    };
    assert_eq!(lake.create("large", body(3)).await.unwrap(), Created::Existed);
    assert!(lake.read("large").await.unwrap() == Some(body(winner)));
}

async fn a_key_may_be_the_beginning_of_another(lake: &Lake) {
    for key in ["p", "p/q", "o/p", "o"] {
        assert_eq!(lake.create(key, key.into()).await.unwrap(), Created::New);
    }
    for key in ["p", "p/q", "o/p", "o"] {
        assert_eq!(lake.read(key).await.unwrap(), Some(key.into()));
    }
}
