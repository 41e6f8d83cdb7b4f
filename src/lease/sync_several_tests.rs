//! One of several streams of an application, and its leases.

use super::super::super::stream_set::StreamSet;
use super::super::super::streams::Streams;
use super::*;

/// Leases without the whole name of their stream would be taken for those of an application of one stream.
#[tokio::test(start_paused = true)]
async fn among_several_a_stream_gets_no_leases_until_it_says_which_one_it_is() {
    let scene = Scene::new(Checkpoint::TrimHorizon);
    scene.lists(&[Some(&resharded())]);
    let table: Arc<dyn LeaseTable> = Arc::<MemoryLeaseTable>::clone(&scene.table);
    let troubles = watched::troubles(INTERVAL, INTERVAL);
    let sync = ShardSync::new(table, scene.sync.stream.clone(), true, &troubles, INTERVAL);
    let unnamed = |looked| matches!(looked, Err(SyncError::NotWhole(_)));
    assert!(unnamed(sync.look(Vec::new()).await), "it says nothing");
    scene.is_stream(":trades:");
    assert!(unnamed(sync.look(Vec::new()).await) && unnamed(sync.look(Vec::new()).await), "only its name");
    assert_eq!((sync.id(), scene.table.rows()), (None, Vec::new()));
    scene.is_stream("1:trades:1000");
    sync.look(Vec::new()).await.unwrap();
    let rows = scene.table.rows();
    assert!(!rows.is_empty());
    assert!(rows.iter().all(|row| row.key.as_str().starts_with("1:trades:1000:shardId-")), "{rows:?}");
}

/// Whoever is given a lease of a stream that it has not found out about waits for that stream, and for no other.
#[tokio::test(start_paused = true)]
async fn only_a_stream_that_may_be_that_of_a_lease_is_waited_for() {
    let scene = Scene::new(Checkpoint::TrimHorizon);
    let table: Arc<dyn LeaseTable> = Arc::<MemoryLeaseTable>::clone(&scene.table);
    let named = |name: &str| StreamLeases { name: name.into(), ..scene.sync.stream.clone() };
    let set = vec![named("trades"), named("arn:aws:kinesis:eu-north-1:111122223333:stream/orders")];
    let troubles = watched::troubles(INTERVAL, INTERVAL);
    let streams = Streams::new(StreamSet::Several(set), table, troubles, INTERVAL);
    let lease = |of: &str| LeaseKey::parse(&format!("{of}:shardId-000000000000"));
    let waits = ["1:trades:5", "2:trades:6", "111122223333:orders:5"];
    let waits_not = ["1:orders:5", "1:quotes:5"];
    assert!(waits.iter().all(|of| streams.may_come_to_know(&lease(of))));
    assert!(!waits_not.iter().any(|of| streams.may_come_to_know(&lease(of))));
    assert_eq!((streams.are_known(), streams.in_words().as_deref()), (false, Some("")));

    scene.is_stream("1:trades:5");
    streams.all()[0].identify().await.unwrap();
    assert!(!streams.may_come_to_know(&lease("2:trades:6")), "it is another one");
    assert!(streams.of(&lease("1:trades:5")).is_some() && streams.of(&lease("2:trades:6")).is_none());
    assert_eq!((streams.are_known(), streams.in_words().as_deref()), (false, Some("1:trades:5")));
}

/// However the worker has come to lead no more: perhaps while its streams changed.
#[tokio::test(start_paused = true)]
async fn who_has_not_led_meanwhile_looks_at_the_stream_anew() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    scene.lists(&[Some(&resharded())]);
    scene.look().await.unwrap();
    scene.look().await.unwrap();
    let calls = scene.calls();
    scene.look().await.unwrap();
    assert_eq!(scene.calls(), calls, "in step");
    scene.sync.stand_by().await;
    assert_eq!(scene.sync.pause().await, INTERVAL);
    scene.look().await.unwrap();
    assert_eq!(scene.calls(), calls + 1);
}

/// The same trouble, before and after another worker led for a moment.
#[tokio::test(start_paused = true)]
async fn trouble_with_a_listing_goes_on_where_it_was() {
    let mut scene = Scene::new(Checkpoint::TrimHorizon);
    scene.lists(&[None]);
    assert!(scene.look().await.is_err());
    let for_ms = |scene: &Scene| scene.sync.troubles.snapshot().first().map(|trouble| trouble.for_ms);
    advance(INTERVAL).await;
    assert_eq!(for_ms(&scene), Some(60_000));
    scene.sync.stand_by().await;
    assert_eq!(for_ms(&scene), None, "it makes no such calls");
    advance(INTERVAL).await;
    assert!(scene.look().await.is_err());
    assert_eq!(for_ms(&scene), Some(120_000));
    scene.sync.is_gone();
    assert!(scene.look().await.is_err());
    assert_eq!(for_ms(&scene), Some(0));
}
