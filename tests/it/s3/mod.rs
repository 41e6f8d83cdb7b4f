//! The sink on an S3 that refuses, conflicts, loses answers, falls silent and is left half-way; and what its requests
//! say.

pub(crate) mod server;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use kinetide::internals::deliver::{
    Backoff, Created, LakeUrl, ObjectSink, S3Settings, Sink, Sse, open_to_write, retry_until,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use server::{Mood, Op, S3, Seen};

const KEY: &str = "landing/year=2026/month=01/day=15/hour=09/trades-shardId-0-1-2.ndjson.gz";
const SMALL: &[u8] = b"\x1f\x8b rows\n";

/// Three parts: 8, 8 and 1 MiB.
fn large() -> Bytes {
    static LARGE: LazyLock<Bytes> = LazyLock::new(|| (0..17).flat_map(|n| vec![n; 1 << 20]).collect());
    LARGE.clone()
}

async fn lake(s3: &S3, settings: &S3Settings) -> ObjectSink {
    let url = LakeUrl::S3 { bucket: "lake".into(), prefix: "raw".into() };
    open_to_write(&url, Some("eu-north-1"), Some(&s3.url), settings).await.unwrap()
}

fn quick(request_timeout: Duration) -> S3Settings {
    S3Settings { request_timeout, ..S3Settings::default() }
}

/// As a delivery does it: until it works. Answers what came of it, and how often it failed before.
async fn deliver(lake: &ObjectSink, body: &Bytes) -> (Created, u32) {
    let mut failed = 0;
    let create = || lake.create(KEY, body.clone());
    (retry_until(Backoff { seed: 7 }, create, |_, tries, _| failed = tries).await, failed)
}

fn header<'a>(seen: &'a Seen, name: &str) -> Option<&'a str> {
    seen.headers.get(name).map(|value| value.to_str().unwrap())
}

#[track_caller]
fn signed(seen: &Seen, name: &str) {
    let authorization = header(seen, "authorization").unwrap();
    let signed = authorization.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
    assert!(signed.split(';').any(|signed| signed == name), "{name} is not in {signed}");
}

#[tokio::test]
async fn a_small_object_says_that_it_is_create_only_checked_and_encrypted() {
    let s3 = S3::start(&[]).await;
    let kms_key = "arn:aws:kms:eu-north-1:111122223333:key/1234abcd";
    let settings = S3Settings {
        sse: Some(Sse::Kms),
        kms_key: Some(kms_key.to_owned()),
        bucket_key: true,
        ..S3Settings::default()
    };
    let lake = lake(&s3, &settings).await;
    assert_eq!(lake.create(KEY, Bytes::from_static(SMALL)).await.unwrap(), Created::New);
    let seen = s3.seen();
    let [put] = &seen[..] else { panic!("{seen:?}") };
    for (name, value) in [
        ("if-none-match", Some("*")),
        ("content-type", Some("application/x-ndjson")),
        ("content-encoding", None),
        ("x-amz-server-side-encryption", Some("aws:kms")),
        ("x-amz-server-side-encryption-aws-kms-key-id", Some(kms_key)),
        ("x-amz-server-side-encryption-bucket-key-enabled", Some("true")),
    ] {
        assert_eq!(header(put, name), value, "{name}");
    }
    signed(put, "if-none-match");
    // That it is right was checked by the server.
    signed(put, "x-amz-checksum-crc64nvme");
    assert_eq!(lake.read(KEY).await.unwrap().as_deref(), Some(SMALL));
}

#[tokio::test]
async fn a_large_object_goes_up_in_parts_and_only_its_completion_is_conditional() {
    let s3 = S3::start(&[]).await;
    let lake = lake(&s3, &S3Settings { sse: Some(Sse::Aes256), ..S3Settings::default() }).await;
    let body = large();
    assert_eq!(lake.create(KEY, body.clone()).await.unwrap(), Created::New);
    assert_eq!(lake.read(KEY).await.unwrap().unwrap(), body);
    assert_eq!(s3.ops(), [Op::Head, Op::Begin, Op::Part, Op::Part, Op::Part, Op::Complete, Op::Get]);
    for seen in s3.seen() {
        let begins = seen.op == Op::Begin;
        assert_eq!(header(&seen, "if-none-match").is_some(), seen.op == Op::Complete, "{seen:?}");
        assert_eq!(header(&seen, "x-amz-server-side-encryption"), begins.then_some("AES256"), "{seen:?}");
        assert_eq!(header(&seen, "x-amz-checksum-algorithm"), begins.then_some("CRC64NVME"), "{seen:?}");
        match seen.op {
            Op::Begin => assert_eq!(header(&seen, "content-type"), Some("application/x-ndjson")),
            Op::Complete => {
                signed(&seen, "if-none-match");
                assert_eq!(header(&seen, "if-none-match"), Some("*"));
            }
            _ => {}
        }
    }
    let mut parts: Vec<usize> =
        s3.seen().iter().filter(|seen| seen.op == Op::Part).map(|seen| seen.bytes >> 20).collect();
    parts.sort_unstable();
    assert_eq!(parts, [1, 8, 8]);
    // And once more: nothing is sent.
    assert_eq!(lake.create(KEY, body).await.unwrap(), Created::Existed);
    assert_eq!((s3.count(Op::Begin), s3.open_uploads()), (1, 0));
}

#[tokio::test]
async fn a_prefix_is_the_beginning_of_keys_as_it_was_given() {
    for prefix in ["raw data/ü~x", "50%/#{a}", ""] {
        let s3 = S3::start(&[]).await;
        let url: LakeUrl = format!("s3://lake/{prefix}").parse().unwrap();
        let lake = open_to_write(&url, None, Some(&s3.url), &S3Settings::default()).await.unwrap();
        for (key, body) in [(KEY, Bytes::from_static(SMALL)), ("landing/large", large())] {
            assert_eq!(lake.create(key, body.clone()).await.unwrap(), Created::New);
            assert_eq!(lake.read(key).await.unwrap(), Some(body));
        }
        let start = if prefix.is_empty() { "/lake/".to_owned() } else { format!("/lake/{prefix}/") };
        let mut expected = [format!("{start}{KEY}"), format!("{start}landing/large")];
        expected.sort();
        assert_eq!(s3.keys(), expected);
    }
}

#[tokio::test]
async fn a_store_shows_at_the_start_that_it_never_replaces_an_object() {
    let s3 = S3::probed(&[]).await;
    let sink = lake(&s3, &S3Settings::default()).await;
    for start in 1..=2 {
        sink.probe().await.unwrap();
        sink.settled().await;
        assert_eq!(s3.keys(), ["/lake/raw/_kinetide/probe"], "nothing is deleted");
        assert_eq!((s3.count(Op::Complete), s3.open_uploads()), (start, 0));
    }
    // One that does not know the condition, at once or at the completion of a large object.
    for (op, way) in [(Op::Put, "twice: "), (Op::Complete, "twice in parts: ")] {
        let s3 = S3::probed(&[(op, Mood::Replace), (op, Mood::Replace)]).await;
        let problem = lake(&s3, &S3Settings::default()).await.probe().await.unwrap_err().to_string();
        assert!(problem.contains(way) && problem.contains("If-None-Match"), "{problem}");
    }
    let missing = (Op::Put, Mood::Refuse(404, "NoSuchBucket"));
    let s3 = S3::probed(&[missing, missing]).await;
    let problem = lake(&s3, &S3Settings::default()).await.probe().await.unwrap_err().to_string();
    assert_eq!(problem, "could not create _kinetide/probe: NoSuchBucket; check --lake, --region");
}

#[tokio::test]
async fn of_two_writers_of_a_large_object_one_creates_it() {
    let s3 = S3::start(&[]).await;
    let (one, other) = (lake(&s3, &S3Settings::default()).await, lake(&s3, &S3Settings::default()).await);
    let (body, another) = (large(), Bytes::from(vec![77; 17 << 20]));
    let (first, second) = tokio::join!(one.create(KEY, body.clone()), other.create(KEY, another.clone()));
    let both = [first.unwrap(), second.unwrap()];
    assert_eq!(both.iter().filter(|created| **created == Created::New).count(), 1, "{both:?}");
    let there = one.read(KEY).await.unwrap().unwrap();
    assert_eq!(there, if both[0] == Created::New { body } else { another });
    assert_eq!((s3.count(Op::Begin), s3.count(Op::Complete)), (2, 2), "both came to their end");
    one.settled().await;
    other.settled().await;
    assert_eq!((s3.count(Op::Abort), s3.open_uploads()), (1, 0), "the loser's parts are gone");
}

/// 412 counts only when the object can be seen; 409 never does, and is tried again.
#[tokio::test]
async fn a_refusal_is_no_proof_of_an_object() {
    let conflict = Mood::Refuse(409, "ConditionalRequestConflict");
    let exists = Mood::Refuse(412, "PreconditionFailed");
    for (body, op) in [(Bytes::from_static(SMALL), Op::Put), (large(), Op::Complete)] {
        for mood in [conflict, exists] {
            let s3 = S3::start(&[(op, mood), (op, mood)]).await;
            let lake = lake(&s3, &S3Settings::default()).await;
            assert_eq!(deliver(&lake, &body).await, (Created::New, 2), "{op:?} {mood:?}");
            assert_eq!(lake.read(KEY).await.unwrap().unwrap(), body);
            assert_eq!(lake.create(KEY, body.clone()).await.unwrap(), Created::Existed);
            lake.settled().await;
            assert_eq!(s3.open_uploads(), 0);
            // A conflict at completion asks for a whole new upload.
            let uploads = if op == Op::Put { (0, 0) } else { (3, 2) };
            assert_eq!((s3.count(Op::Begin), s3.count(Op::Abort)), uploads);
        }
    }
}

#[tokio::test]
async fn slow_down_and_internal_errors_are_waited_out() {
    let (slow, broken) = (Mood::Refuse(503, "SlowDown"), Mood::Refuse(500, "InternalError"));
    let s3 = S3::start(&[(Op::Put, slow), (Op::Put, broken), (Op::Head, slow), (Op::Get, slow)]).await;
    let lake_of_small = lake(&s3, &S3Settings::default()).await;
    assert_eq!(deliver(&lake_of_small, &Bytes::from_static(SMALL)).await, (Created::New, 0));
    assert!(lake_of_small.exists(KEY).await.unwrap());
    assert!(lake_of_small.read(KEY).await.unwrap().is_some());

    let script = [
        [(Op::Begin, slow), (Op::Complete, broken), (Op::Complete, slow)].to_vec(),
        // More than one call tries by itself: the part is tried again, not the upload.
        vec![(Op::Part, slow); 8],
    ];
    let s3 = S3::start(&script.concat()).await;
    let lake = lake(&s3, &S3Settings::default()).await;
    assert_eq!(deliver(&lake, &large()).await, (Created::New, 0));
    assert_eq!((s3.count(Op::Begin), s3.count(Op::Part), s3.count(Op::Complete)), (2, 11, 3));
    assert_eq!(s3.count(Op::Abort), 0);
}

#[tokio::test]
async fn an_answer_that_is_lost_is_looked_up() {
    for mood in [Mood::LoseAnswer, Mood::DoAndFail] {
        let s3 = S3::start(&[(Op::Put, mood)]).await;
        let small = lake(&s3, &S3Settings::default()).await;
        assert_eq!(deliver(&small, &Bytes::from_static(SMALL)).await.0, Created::Existed, "{mood:?}");

        // The upload is gone when the completion is sent again: 412 if S3 looks at the key first, else 404.
        let s3 = S3::start(&[(Op::Complete, mood), (Op::Complete, Mood::Refuse(404, "NoSuchUpload"))]).await;
        let lake = lake(&s3, &S3Settings::default()).await;
        let body = large();
        assert_eq!(deliver(&lake, &body).await, (Created::Existed, 0), "{mood:?}");
        assert_eq!((s3.count(Op::Begin), s3.count(Op::Complete)), (1, 2));
        assert_eq!(lake.read(KEY).await.unwrap().unwrap(), body);

        let s3 = S3::start(&[(Op::Begin, mood), (Op::Part, mood), (Op::Part, mood)]).await;
        let lake = self::lake(&s3, &S3Settings::default()).await;
        assert_eq!(deliver(&lake, &body).await, (Created::New, 0), "{mood:?}");
        assert_eq!(lake.read(KEY).await.unwrap().unwrap(), body);
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_not_waited_for() {
    let s3 = S3::start(&[(Op::Put, Mood::Silence)]).await;
    let small = lake(&s3, &quick(Duration::from_millis(300))).await;
    let began = Instant::now();
    let error = small.create(KEY, Bytes::from_static(SMALL)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "{error}: {}", error.source);
    assert_eq!(deliver(&small, &Bytes::from_static(SMALL)).await, (Created::New, 0));

    let silence = [Op::Head, Op::Begin, Op::Part, Op::Complete].map(|op| (op, Mood::Silence));
    let s3 = S3::start(&silence).await;
    let lake = lake(&s3, &quick(Duration::from_secs(2))).await;
    assert_eq!(deliver(&lake, &large()).await.0, Created::New);
    assert_eq!(s3.count(Op::Complete), 2);
}

#[tokio::test]
async fn what_is_given_up_half_way_is_aborted() {
    // For good: a part that is forbidden, a completion that does not come to an answer.
    let forbidden = Mood::Refuse(403, "AccessDenied");
    for script in [&[(Op::Part, forbidden)][..], &[(Op::Complete, forbidden)]] {
        let s3 = S3::start(script).await;
        let lake = lake(&s3, &S3Settings::default()).await;
        let error = lake.create(KEY, large()).await.unwrap_err();
        assert!(error.source.to_string().contains("AccessDenied"), "{}", error.source);
        lake.settled().await;
        assert_eq!((s3.count(Op::Abort), s3.open_uploads()), (1, 0), "{script:?}");
    }

    // Dropped, as by a lost lease.
    for op in [Op::Part, Op::Complete] {
        let s3 = S3::start(&[(op, Mood::Silence)]).await;
        let lake = lake(&s3, &S3Settings::default()).await;
        let hangs = async {
            while s3.count(op) == 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            created = lake.create(KEY, large()) => panic!("{created:?}"),
            () = hangs => assert_eq!(s3.open_uploads(), 1),
        }
        lake.settled().await;
        assert_eq!((s3.count(Op::Abort), s3.open_uploads()), (1, 0), "{op:?}");
        assert!(!lake.exists(KEY).await.unwrap());
        assert_eq!(lake.create(KEY, large()).await.unwrap(), Created::New, "the next owner's");
    }

    // By a task that was told to end and has not noticed it yet: this runtime has one thread.
    let s3 = S3::start(&[(Op::Part, Mood::Silence)]).await;
    let left = Arc::new(lake(&s3, &S3Settings::default()).await);
    let mut tasks = JoinSet::new();
    let sink = Arc::clone(&left);
    tasks.spawn(async move { sink.create(KEY, large()).await.map(drop) });
    while s3.count(Op::Part) == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    tasks.abort_all();
    left.settled().await;
    assert_eq!((s3.count(Op::Abort), s3.open_uploads()), (1, 0));

    // An abort that fails is not the end of anything.
    let s3 = S3::start(&[(Op::Part, forbidden), (Op::Abort, forbidden)]).await;
    let lake = lake(&s3, &S3Settings::default()).await;
    s3.then(Op::Abort, forbidden);
    assert_eq!(deliver(&lake, &large()).await, (Created::New, 1));
    lake.settled().await;
    assert_eq!(s3.open_uploads(), 1, "left to the lifecycle rule");
}

/// The lease is over for a while when the server has seen so many requests of a kind: what is under way ends without an
/// object, and whoever has moved it away meanwhile does not find it again.
#[tokio::test]
async fn an_upload_goes_no_further_than_its_lease() {
    let slow_down = (Op::Part, Mood::Refuse(503, "SlowDown"));
    for (op, times, script) in
        [(Op::Begin, 1, &[][..]), (Op::Part, 1, &[]), (Op::Part, 3, &[]), (Op::Part, 1, &[slow_down; 6])]
    {
        let s3 = Arc::new(S3::start(script).await);
        let lake = lake(&s3, &S3Settings::default()).await;
        let seen = Arc::clone(&s3);
        let may = Arc::new(move || seen.count(op) < times);
        let error = lake.create_while(KEY, large(), may).await.unwrap_err();
        assert!(error.source.to_string().contains("the lease is not valid"), "{}", error.source);
        lake.settled().await;
        let counts = [Op::Complete, Op::Abort].map(|op| s3.count(op));
        assert_eq!((counts, s3.open_uploads()), ([0, 1], 0), "{op:?} {times}");
        assert!(!lake.exists(KEY).await.unwrap());
        assert_eq!(deliver(&lake, &large()).await.0, Created::New, "the next owner's");
    }

    let s3 = S3::start(&[]).await;
    let lake = lake(&s3, &S3Settings::default()).await;
    for body in [Bytes::from_static(SMALL), large()] {
        assert!(lake.create_while(KEY, body, Arc::new(|| false)).await.is_err());
    }
    assert!(s3.ops().iter().all(|op| *op == Op::Head), "{:?}", s3.ops());
}
