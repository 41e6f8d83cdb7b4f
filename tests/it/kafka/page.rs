//! The commands of docs/KAFKA.md for an empty host, as they stand on the page, by one shell.
//!
//! Jars from Maven Central have Kafka's tools but not the download's `bin/` and `config/`. So both are made here: each script
//! starts the class that the download's script of that name starts, with a smaller heap, and `server.properties` has the
//! settings of the download's file that this node needs. What the page says is changed in its port numbers only. Its
//! other commands are not run here: `trials` has demo, load test and generator, `worker` has leases.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use super::broker::{Outside, free_ports};
use super::worker::rows;

const LONGEST: Duration = Duration::from_secs(180);

/// What the download's scripts start.
const SCRIPTS: [(&str, &str); 4] = [
    ("kafka-storage.sh", "kafka.tools.StorageTool"),
    ("kafka-server-start.sh", "kafka.Kafka"),
    ("kafka-topics.sh", "org.apache.kafka.tools.TopicCommand"),
    ("kafka-console-producer.sh", "org.apache.kafka.tools.ConsoleProducer"),
];

/// The ports of the page.
const BROKER: &str = "9092";
const DYNAMODB: &str = "8000";

/// The blocks of shell commands below a heading.
fn commands(heading: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/KAFKA.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("the page has this heading");
    let section = section.split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

fn download(folder: &Path, outside: &Outside, ports: &BTreeMap<&str, u16>) {
    std::fs::create_dir(folder.join("bin")).unwrap();
    std::fs::create_dir(folder.join("config")).unwrap();
    let quoted = |command: Command| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ")
    };
    for (script, class) in SCRIPTS {
        let text = format!("exec {} {class} \"$@\"\n", quoted(outside.java()));
        let path = folder.join("bin").join(script);
        std::fs::write(&path, format!("#!/usr/bin/env bash\n{text}")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (broker, controller) = (ports[BROKER], ports["controller"]);
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.bootstrap.servers=localhost:{controller}\n\
         listeners=PLAINTEXT://localhost:{broker},CONTROLLER://localhost:{controller}\n\
         advertised.listeners=PLAINTEXT://localhost:{broker},CONTROLLER://localhost:{controller}\n\
         inter.broker.listener.name=PLAINTEXT\ncontroller.listener.names=CONTROLLER\n\
         log.dirs={}\noffsets.topic.replication.factor=1\n",
        folder.join("logs").display()
    );
    std::fs::write(folder.join("config/server.properties"), text).unwrap();
}

/// A shell with all that it starts.
struct Shell(Child);

impl Shell {
    fn signal(&self, signal: Signal) {
        // Nobody may be left.
        let _ = killpg(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal);
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn the_commands_of_the_page_land_a_record_from_an_empty_host() {
    let Some(outside) = Outside::given("the commands of docs/KAFKA.md") else { return };
    let folder = TempDir::new().unwrap();
    let names = [BROKER, DYNAMODB, "controller"];
    let ports: BTreeMap<&str, u16> = names.into_iter().zip(free_ports(names.len())).collect();
    download(folder.path(), &outside, &ports);
    let mut script = commands("From an empty host");
    for port in [BROKER, DYNAMODB] {
        assert!(script.contains(&format!(":{port}")), "the page does not name port {port} any more");
        script = script.replace(&format!(":{port}"), &format!(":{}", ports[port]));
    }
    let produced = script.lines().find_map(|line| line.split_once("<<< '")?.1.strip_suffix('\''));
    let produced: Value = serde_json::from_str(produced.expect("a record is produced")).unwrap();
    for command in SCRIPTS.map(|(script, _)| script).into_iter().chain(["kinetide check", "kinetide run"]) {
        assert!(script.contains(command), "the page does not have {command} any more");
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_kinetide")).parent().unwrap();
    let path = std::env::vars().find_map(|(name, value)| (name == "PATH").then_some(value)).unwrap();
    let path = format!("{}:{path}", binary.display());
    let said = |name: &str| folder.path().join(name);
    let mut shell = Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(folder.path())
        .env_clear()
        .envs([("PATH", path.as_str()), ("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nonexistent")])
        // Ports that the page leaves to their defaults.
        .env("KINETIDE_LOCAL_DYNAMODB_PORT", ports[DYNAMODB].to_string())
        .envs([("KINETIDE_LOCAL_KINESIS_PORT", "0"), ("KINETIDE_LOCAL_DYNAMODB_STREAMS_PORT", "0")])
        .envs([("KINETIDE_HTTP", "127.0.0.1:0"), ("KINETIDE_BATCH_AGE", "500ms")])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(said("out")).unwrap())
        .stderr(std::fs::File::create(said("err")).unwrap())
        .process_group(0);
    let mut shell = Shell(shell.spawn().unwrap());
    let read = |name: &str| std::fs::read_to_string(said(name)).unwrap_or_default();
    let all = || {
        ["out", "err", "broker.log", "local.log"].map(|name| format!("== {name}\n{}", read(name))).concat()
    };
    let since = Instant::now();
    let landed = loop {
        let landed = rows(&folder.path().join("lake/landing/orders"));
        if !landed.is_empty() {
            break landed;
        }
        let ended = shell.0.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?} before the record landed\n{}", all());
        assert!(since.elapsed() < LONGEST, "the record does not land\n{}", all());
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(landed.len(), 1, "{landed:?}");
    for (name, value) in produced.as_object().unwrap() {
        assert_eq!(&landed[0][name], value, "{}", landed[0]);
    }
    // The check came before, and found nothing wrong.
    assert!(read("out").contains("kinetide check, application kinetide-orders"), "{}", all());
    shell.signal(Signal::SIGTERM);
}
