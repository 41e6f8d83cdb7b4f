use super::*;

fn given(streams: &[&str], file: Option<&str>) -> Result<StreamsConfig, String> {
    let folder = tempfile::tempdir().unwrap();
    let settings = file.map(|text| {
        let path = folder.path().join("settings.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let given = Given {
        kind: Kind::Kinesis,
        tables: Vec::new(),
        topics: Vec::new(),
        brokers: false,
        streams: streams.iter().map(ToString::to_string).collect(),
        settings,
        role: None,
        transform: "json".into(),
        landing: None,
        errors: "errors".into(),
        initial_position: "latest".into(),
        retrieval: RetrievalSetting::Polling,
        consumer_name: None,
        firehose: false,
    };
    given.checked().map_err(|error| error.to_string())
}

#[test]
fn streams_come_from_flags_or_from_the_file() {
    let one = given(&["trades"], Some("[columns]\n")).unwrap();
    assert!(!one.several && one.file.is_none());
    let two = given(&["trades", "orders"], None).unwrap();
    assert!(two.several && two.file.is_none());
    let landings = |config: &StreamsConfig| -> Vec<String> {
        config.streams.iter().map(|stream| stream.landing().unwrap().layout.landing.clone()).collect()
    };
    assert_eq!(landings(&two), ["landing/trades", "landing/orders"]);
    let file = "[[streams]]\nstream = \"trades\"\ntransform = \"crypto-transactions\"\n\
         [[streams]]\nstream = \"orders\"\nlanding = \"orders\"\ninitial_position = \"trim-horizon\"\n";
    let tables = given(&[], Some(file)).unwrap();
    assert!(tables.several && tables.file.is_some());
    assert_eq!(landings(&tables), ["landing/transactions", "orders"]);
    assert_eq!(tables.streams[0].initial, Checkpoint::Latest);
    assert_eq!(tables.streams[1].initial, Checkpoint::TrimHorizon);
    let single = given(&[], Some("[[streams]]\nstream = \"trades\"\n")).unwrap();
    assert!(single.several, "it may grow");
    assert!(single.application(None).is_ok() && tables.application(None).is_err());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let eu = "arn:aws:kinesis:eu-north-1:111122223333:stream/trades";
    let us = "arn:aws:kinesis:us-east-1:111122223333:stream/trades";
    for (streams, file, words) in [
        (&[][..], None, "--stream \"\": is missing"),
        (&["trades"][..], Some("[[streams]]\nstream = \"orders\"\n"), "must be left out"),
        (&["trades", "trades"], None, "is there twice"),
        (&[eu, us], None, "has the name of"),
        (&[], Some("[[streams]]\nstream = \"a b\"\n"), "--stream \"a b\""),
        (&[], Some("[[streams]]\nstream = \"a\"\nkind = \"sqs\"\n"), "line 3"),
        (&[], Some("[[streams]]\nlanding = \"a\"\n"), "must name its stream with `stream`"),
        (
            &[],
            Some("[[streams]]\ntable = \"Trades\"\n"),
            "(\"Trades\") that must name its stream with `stream`",
        ),
        (
            &[],
            Some("[[streams]]\nkind = \"dynamodb-streams\"\nstream = \"a\"\n"),
            "must name its stream with `table`, and with nothing else",
        ),
        (
            &[],
            Some("[[streams]]\nkind = \"kafka\"\nstream = \"a\"\n"),
            "must name its stream with `topic`, and with nothing else",
        ),
        (&[], Some("[[streams]]\nstream = \"a\"\nlandign = \"b\"\n"), "unknown field `landign`"),
    ] {
        let problem = given(streams, file).unwrap_err();
        assert!(problem.contains(words), "{problem}");
    }
    let apart = format!(
        "[[streams]]\nstream = \"{eu}\"\nlanding = \"eu\"\nerrors = \"bad/eu\"\n\
         [[streams]]\nstream = \"{us}\"\nlanding = \"us\"\nerrors = \"bad/us\"\n"
    );
    assert_eq!(given(&[], Some(&apart)).unwrap().streams.len(), 2);
    let crypto = apart.replace("landing", "transform = \"crypto-transactions\"\nlanding");
    assert_eq!(given(&[], Some(&crypto)).unwrap().streams.len(), 2);
    let problem = given(&[], Some(&format!("{ALERTS}{crypto}"))).unwrap_err();
    assert!(problem.contains("copies for alerts would meet in one folder"), "{problem}");
}

const ALERTS: &str = "[alerts]\nhigh_risk = true\n";

#[test]
fn alerts_are_of_the_streams_that_have_the_rows() {
    let alerts = |config: &StreamsConfig| -> Vec<bool> {
        config.streams.iter().map(|stream| stream.landing().unwrap().layout.alerts).collect()
    };
    let tables = "[[streams]]\nstream = \"trades\"\ntransform = \"crypto-transactions\"\n\
         [[streams]]\nstream = \"orders\"\n";
    let (off, on) = (given(&[], Some(tables)).unwrap(), format!("{ALERTS}{tables}"));
    let on = given(&[], Some(&on)).unwrap();
    assert_eq!((alerts(&off), alerts(&on)), (vec![false; 2], vec![true, false]));
    assert!(off.streams[0] != on.streams[0] && off.streams[1] == on.streams[1], "a change is noticed");
    for (text, words) in [
        (ALERTS, "needs a stream with --transform crypto-transactions"),
        ("[alerts]\nhigh_risk = 1\n", "line 2"),
        ("[alerts]\nrisk = true\n", "unknown field `risk`"),
    ] {
        let problem = given(&["trades"], Some(text)).unwrap_err();
        assert!(problem.contains(words), "{problem}");
    }
    assert!(given(&["trades"], Some("[alerts]\nhigh_risk = false\n")).is_ok());
}
