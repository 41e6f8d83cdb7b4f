//! TLS, and users that must prove who they are.

use std::path::PathBuf;

use kinetide::internals::kafka::{Cluster, KafkaError, KafkaSettings, Mechanism, Password, Sasl};
use serde_json::json;

use super::broker::{Brokers, Outside};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls")).join(name)
}

fn settings(brokers: &Brokers, mechanism: Option<Mechanism>, password: &str) -> KafkaSettings {
    KafkaSettings {
        bootstrap: brokers.secure().parse().unwrap(),
        tls: true,
        ca: Some(fixture("ca.pem")),
        sasl: mechanism.map(|mechanism| Sasl {
            mechanism,
            user: "reader".to_owned(),
            password: Password::new(password),
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_reached_by_tls_and_users_prove_who_they_are() {
    let Some(outside) = Outside::given("TLS and users of Kafka") else { return };
    let keys = tempfile::NamedTempFile::with_suffix(".pem").unwrap();
    let pem = ["server.key", "server.pem"].map(|name| std::fs::read_to_string(fixture(name)).unwrap());
    std::fs::write(keys.path(), pem.concat()).unwrap();
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required user_reader=\"secret\";";
    let more = format!(
        "listeners=PLAINTEXT://127.0.0.1:{{client}},CONTROLLER://127.0.0.1:{{controller}},TLS://localhost:{{secure}}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{{client}},TLS://localhost:{{secure}}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SASL_SSL\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         listener.name.tls.plain.sasl.jaas.config={plain}\n\
         listener.name.tls.scram-sha-256.sasl.jaas.config={scram}\n\
         listener.name.tls.scram-sha-512.sasl.jaas.config={scram}\n\
         ssl.keystore.type=PEM\nssl.keystore.location={}\n",
        keys.path().display()
    );
    let users =
        ["SCRAM-SHA-256=[name=reader,password=secret]", "SCRAM-SHA-512=[name=reader,password=secret]"];
    let brokers = Brokers::start(outside, 1, &more, &users).await;
    brokers.peer().create("secured", 1, json!({}), 1);
    let asked = async |settings: KafkaSettings| Cluster::new(settings).topic_named("secured").await;
    let all = [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512];
    for mechanism in all {
        let topic = asked(settings(&brokers, Some(mechanism), "secret")).await;
        assert_eq!(topic.unwrap().partitions.len(), 1, "{mechanism:?}");
        let refused = asked(settings(&brokers, Some(mechanism), "wrong")).await;
        let Err(KafkaError::Refused { problem, .. }) = refused else { panic!("{mechanism:?}: {refused:?}") };
        assert!(problem.contains("does not let this user in") && !problem.contains("wrong"), "{problem}");
    }
    // Who says nothing is not answered.
    assert!(asked(settings(&brokers, None, "")).await.is_err());
    let by_name = settings(&brokers, Some(Mechanism::ScramSha512), "secret");
    let others = KafkaSettings { ca: None, ..by_name.clone() };
    let refused = asked(others).await;
    assert!(matches!(refused, Err(KafkaError::Refused { .. })), "a certificate of nobody: {refused:?}");
    let plain = KafkaSettings { tls: false, ca: None, ..by_name };
    assert!(asked(plain).await.is_err(), "TLS is not spoken");
}
