//! TLS, and users that must prove who they are.

use std::path::PathBuf;

use kinetide::internals::kafka::{
    ClientCertificate, Cluster, KafkaError, KafkaSettings, Mechanism, Password, Sasl,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use tempfile::TempDir;

use super::broker::{Brokers, Outside};

pub(super) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls")).join(name)
}

fn settings(brokers: &Brokers, mechanism: Option<Mechanism>, password: &str) -> KafkaSettings {
    KafkaSettings {
        bootstrap: brokers.secure().parse().unwrap(),
        tls: true,
        ca: Some(fixture("ca.pem")),
        client: None,
        sasl: mechanism.map(|mechanism| Sasl::User {
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
    let clients = Clients::new();
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required user_reader=\"secret\";";
    let more = format!(
        "listeners=PLAINTEXT://127.0.0.1:{{client}},CONTROLLER://127.0.0.1:{{controller}},TLS://localhost:{{secure}},\
         MUTUAL://localhost:{{mutual}}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{{client}},TLS://localhost:{{secure}},\
         MUTUAL://localhost:{{mutual}}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SASL_SSL,MUTUAL:SSL\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         listener.name.tls.plain.sasl.jaas.config={plain}\n\
         listener.name.tls.scram-sha-256.sasl.jaas.config={scram}\n\
         listener.name.tls.scram-sha-512.sasl.jaas.config={scram}\n\
         ssl.keystore.type=PEM\nssl.keystore.location={}\n\
         listener.name.mutual.ssl.client.auth=required\n\
         listener.name.mutual.ssl.truststore.type=PEM\n\
         listener.name.mutual.ssl.truststore.location={}\n",
        keys.path().display(),
        clients.ca.display()
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
    certificates_are_shown(&brokers, &clients).await;
}

/// A CA whose clients the brokers let in, one of its clients, and one of another CA.
struct Clients {
    _folder: TempDir,
    ca: PathBuf,
    one: ClientCertificate,
    stranger: ClientCertificate,
}

impl Clients {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let [(ca, one), (_, stranger)] = ["ours", "other"].map(|name| {
            let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
            authority.distinguished_name.push(DnType::CommonName, name);
            authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
            let mut client = CertificateParams::new(Vec::<String>::new()).unwrap();
            client.distinguished_name.push(DnType::CommonName, "reader");
            client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            let certificate = client.signed_by(&key, &authority).unwrap();
            let written = |kind: &str, text: String| {
                let path = folder.path().join(format!("{name}-{kind}.pem"));
                std::fs::write(&path, text).unwrap();
                path
            };
            let client = ClientCertificate {
                certificate: written("certificate", certificate.pem()),
                key: written("key", key.serialize_pem()),
            };
            (written("ca", authority.pem()), client)
        });
        Self { _folder: folder, ca, one, stranger }
    }
}

async fn certificates_are_shown(brokers: &Brokers, clients: &Clients) {
    let asked = async |client: Option<ClientCertificate>| {
        let settings = KafkaSettings {
            bootstrap: brokers.mutual().parse().unwrap(),
            client,
            ..settings(brokers, None, "")
        };
        Cluster::new(settings).topic_named("secured").await
    };
    assert_eq!(asked(Some(clients.one.clone())).await.unwrap().partitions.len(), 1);
    for (client, says) in [
        (None, "set --kafka-cert and --kafka-key"),
        (Some(clients.stranger.clone()), "check that it trusts the certificate"),
    ] {
        let problem = asked(client).await.unwrap_err().to_string();
        assert!(problem.contains(says), "{problem}");
    }
    // Files that do not go together, or hold something else: the key's text is never shown.
    let key = std::fs::read_to_string(&clients.stranger.key).unwrap();
    let of_another = ClientCertificate { key: clients.stranger.key.clone(), ..clients.one.clone() };
    let no_key = ClientCertificate { key: clients.ca.clone(), ..clients.one.clone() };
    let no_certificate = ClientCertificate { certificate: clients.one.key.clone(), ..clients.one.clone() };
    for (client, says) in [
        (of_another, "cannot be used together"),
        (no_key, "holds no private key"),
        (no_certificate, "holds no certificate"),
    ] {
        let refused = asked(Some(client)).await;
        let Err(KafkaError::Refused { problem, .. }) = refused else { panic!("{says}: {refused:?}") };
        assert!(problem.contains(says) && !problem.contains(key.lines().nth(1).unwrap()), "{problem}");
    }
}
