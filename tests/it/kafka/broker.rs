//! Real brokers of Kafka, without ZooKeeper, and another client beside ours.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64_simd::STANDARD;
use kinetide::internals::kafka::{Cluster, KafkaError, KafkaSettings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

/// Where the jars of a broker are, and a Python that has `confluent-kafka`.
const JARS: &str = "KINETIDE_TEST_KAFKA";
const PYTHON: &str = "KINETIDE_TEST_KAFKA_PYTHON";
/// A broker is there within this time, on a busy host too.
const START: Duration = Duration::from_secs(120);

/// What the tests need from outside.
pub(crate) struct Outside {
    jars: PathBuf,
    python: PathBuf,
}

impl Outside {
    /// Nothing, and says so, where it is not given.
    #[expect(clippy::disallowed_methods, reason = "the tests have no settings of their own")]
    pub(crate) fn given(name: &str) -> Option<Self> {
        let folder = |variable: &str| match std::env::var(variable) {
            Ok(path) => Some(PathBuf::from(path)),
            Err(_) => {
                eprintln!("SKIPPED: {name} without {variable}");
                None
            }
        };
        Some(Self { jars: folder(JARS)?, python: folder(PYTHON)? })
    }

    pub(super) fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp"]);
        java.arg(self.jars.join("*"));
        java
    }
}

/// Brokers that are controllers too, on free ports of this machine.
pub(crate) struct Brokers {
    outside: Outside,
    folder: TempDir,
    ports: Vec<u16>,
    secure: Vec<u16>,
    mutual: Vec<u16>,
    running: Vec<Option<Child>>,
}

pub(super) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Brokers {
    /// So many, with these further settings, in which `{client}`, `{controller}`, `{secure}` and `{mutual}` stand for ports. `users`: what
    /// SCRAM is to know, as `kafka-storage format --add-scram` takes it.
    pub(crate) async fn start(outside: Outside, count: usize, more: &str, users: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(count * 4);
        let mut ports = ports.chunks(count);
        let [clients, controllers, secure, mutual] = std::array::from_fn(|_| ports.next().unwrap());
        let voters = controllers.iter().enumerate().map(|(n, port)| format!("{n}@127.0.0.1:{port}"));
        let voters = voters.collect::<Vec<_>>().join(",");
        let replicas = count.min(3);
        let id = "kinetide-TestClusterAA";
        let mut formatting = Vec::new();
        for (n, (client, controller)) in clients.iter().zip(controllers).enumerate() {
            let ports = [
                ("{client}", client),
                ("{controller}", controller),
                ("{secure}", &secure[n]),
                ("{mutual}", &mutual[n]),
            ];
            let named = |text: String, (name, port): (&str, &u16)| text.replace(name, &port.to_string());
            let more = ports.into_iter().fold(more.to_owned(), named);
            let data = folder.path().join(format!("data-{n}"));
            let file = folder.path().join(format!("{n}.properties"));
            let text = format!(
                "process.roles=broker,controller\nnode.id={n}\ncontroller.quorum.voters={voters}\n\
                 listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{client}\n\
                 controller.listener.names=CONTROLLER\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                 log.dirs={}\nlog.retention.ms=-1\nauto.create.topics.enable=false\n\
                 offsets.topic.replication.factor={replicas}\noffsets.topic.num.partitions=1\n\
                 transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr=1\n\
                 transaction.state.log.num.partitions=1\ngroup.initial.rebalance.delay.ms=0\n\
                 broker.session.timeout.ms=4000\nnum.network.threads=1\nnum.io.threads=2\n\
                 message.max.bytes=20000000\nreplica.fetch.max.bytes=20000000\n{more}\n",
                data.display()
            );
            std::fs::write(&file, text).unwrap();
            let mut format = outside.java();
            format.args(["kafka.tools.StorageTool", "format", "-t", id, "-c"]).arg(&file);
            for user in users {
                format.args(["--add-scram", user]);
            }
            formatting.push(format.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        }
        for mut format in formatting {
            assert!(format.wait().unwrap().success(), "the folder of a broker was not made");
        }
        let running = (0..count).map(|_| None).collect();
        let [ports, secure, mutual] = [clients, secure, mutual].map(<[u16]>::to_vec);
        let mut brokers = Self { outside, folder, ports, secure, mutual, running };
        (0..count).for_each(|n| brokers.run(n));
        brokers.are_there().await;
        brokers
    }

    /// A command of the shell that kills the broker of `KINETIDE_BROKER`, and ends when the broker is back: whoever
    /// calls it starts those that ended meanwhile ([`Self::run_ended`]), as a service manager does.
    pub(crate) fn restarting(&self) -> String {
        let text = format!(
            "#!/usr/bin/env bash\nset -euo pipefail\nport=${{KINETIDE_BROKER##*:}}\nfile={}/$port.pid\n\
             killed=$(<\"$file\")\nkill -9 \"$killed\"\n\
             while [[ $(<\"$file\") == \"$killed\" ]]; do sleep 0.1; done\n\
             until (exec 3<>\"/dev/tcp/127.0.0.1/$port\") 2>/dev/null; do sleep 0.1; done\n",
            self.folder.path().display()
        );
        let script = self.folder.path().join("restart-broker");
        std::fs::write(&script, text).unwrap();
        format!("bash {}", script.display())
    }

    /// Starts brokers again that were killed from outside.
    pub(crate) fn run_ended(&mut self) {
        for n in 0..self.running.len() {
            if self.running[n].as_mut().is_some_and(|broker| broker.try_wait().unwrap().is_some()) {
                self.run(n);
            }
        }
    }

    /// Starts a broker that does not run.
    pub(crate) fn run(&mut self, n: usize) {
        let log = std::fs::File::create(self.folder.path().join(format!("{n}.log"))).unwrap();
        let mut broker = self.outside.java();
        broker.arg("kafka.Kafka").arg(self.folder.path().join(format!("{n}.properties")));
        let broker = broker.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn();
        let broker = broker.unwrap();
        let pid = self.folder.path().join(format!("{}.pid", self.ports[n]));
        // In one step: somebody may be reading it.
        std::fs::write(pid.with_extension("new"), broker.id().to_string()).unwrap();
        std::fs::rename(pid.with_extension("new"), pid).unwrap();
        self.running[n] = Some(broker);
    }

    /// Ends a broker at once.
    pub(crate) fn kill(&mut self, n: usize) {
        if let Some(mut broker) = self.running[n].take() {
            broker.kill().unwrap();
            broker.wait().unwrap();
        }
    }

    /// Returns when a broker answers.
    pub(crate) async fn are_there(&self) {
        let cluster = self.cluster();
        let since = Instant::now();
        loop {
            match cluster.topic_named("nothing-has-this-name").await {
                Err(KafkaError::NoTopic(_)) => return,
                answer => {
                    assert!(since.elapsed() < START, "no broker answers: {answer:?}\n{}", self.logs());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn logs(&self) -> String {
        let log =
            |n| std::fs::read_to_string(self.folder.path().join(format!("{n}.log"))).unwrap_or_default();
        (0..self.running.len()).map(log).collect()
    }

    /// Where they are.
    pub(crate) fn bootstrap(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Where the first one listens for those who must say who they are.
    pub(crate) fn secure(&self) -> String {
        format!("localhost:{}", self.secure[0])
    }

    /// Where the first one listens for those who must show a certificate.
    pub(crate) fn mutual(&self) -> String {
        format!("localhost:{}", self.mutual[0])
    }

    /// A client of ours that knows nothing yet.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        Arc::new(Cluster::new(KafkaSettings::plain(self.bootstrap().parse().unwrap())))
    }

    /// The other client.
    pub(crate) fn peer(&self) -> Arc<Peer> {
        Arc::new(Peer::start(&self.outside.python, &self.bootstrap(), &[]))
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        (0..self.running.len()).for_each(|n| self.kill(n));
    }
}

/// A record to produce: partition, key, value (none: a tombstone), time in ms or 0.
pub(crate) type Sent<'a> = (i32, Option<&'a [u8]>, Option<&'a [u8]>, i64);

/// A record as the other client reads it: offset, key, value, time in ms.
pub(crate) type Read = (i64, Option<Vec<u8>>, Option<Vec<u8>>, i64);

/// `tests/kafka/peer.py` at work.
pub(crate) struct Peer(Mutex<(Child, ChildStdin, BufReader<ChildStdout>)>);

impl Peer {
    pub(crate) fn start(python: &Path, bootstrap: &str, settings: &[String]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/peer.py");
        let mut peer = Command::new(python);
        peer.arg(script).arg(bootstrap).args(settings).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut peer = peer.stderr(Stdio::null()).spawn().unwrap();
        let (stdin, stdout) = (peer.stdin.take().unwrap(), BufReader::new(peer.stdout.take().unwrap()));
        Self(Mutex::new((peer, stdin, stdout)))
    }

    pub(crate) fn ask(&self, request: &Value) -> Result<Value, String> {
        let mut peer = self.0.lock().unwrap();
        writeln!(peer.1, "{request}").unwrap();
        let mut line = String::new();
        peer.2.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).map_err(|_| format!("no answer: {line:?}"))?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["ok"].take()),
        }
    }

    pub(crate) fn create(&self, topic: &str, partitions: i32, config: Value, replicas: usize) {
        self.ask(&json!(["create", topic, partitions, config, replicas])).unwrap();
    }

    fn records(records: &[Sent<'_>]) -> Value {
        let text = |bytes: &Option<&[u8]>| bytes.map(|bytes| STANDARD.encode_to_string(bytes));
        records
            .iter()
            .map(|(partition, key, value, ms)| json!([partition, text(key), text(value), ms]))
            .collect()
    }

    pub(crate) fn produce(&self, topic: &str, records: &[Sent<'_>], codec: &str) -> Vec<i64> {
        let answer = self.ask(&json!(["produce", topic, Self::records(records), codec])).unwrap();
        serde_json::from_value(answer).unwrap()
    }

    pub(crate) fn transaction(&self, topic: &str, name: &str, records: &[Sent<'_>], end: &str) -> Vec<i64> {
        let answer = self.ask(&json!(["transaction", topic, name, Self::records(records), end])).unwrap();
        serde_json::from_value(answer).unwrap()
    }

    pub(crate) fn read(&self, topic: &str, partition: i32) -> Vec<Read> {
        let answer = self.ask(&json!(["read", topic, partition])).unwrap();
        let bytes = |value: &Value| value.as_str().map(|text| STANDARD.decode_to_vec(text).unwrap());
        let read = |record: &Value| {
            let number = |at: usize| record[at].as_i64().unwrap();
            (number(0), bytes(&record[1]), bytes(&record[2]), number(3))
        };
        answer.as_array().unwrap().iter().map(read).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let peer = self.0.get_mut().unwrap();
        peer.0.kill().unwrap();
        peer.0.wait().unwrap();
    }
}
