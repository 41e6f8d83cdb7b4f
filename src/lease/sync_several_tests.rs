//! One of several streams of an application, and its leases.

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
