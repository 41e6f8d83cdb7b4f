//! Workers on the real Kinesis Client Library for Java and `kinetide run`, on one stream or two and one set of tables:
//! the embedded Kinesis and AWS's own DynamoDB Local.
//!
//! Needs the consumer of `tests/interop/java`, built on KCL 3.5 (one table) and 3.4 (three tables), and a server:
//!
//! ```sh
//! mvn -q -B -f tests/interop/java/pom.xml package -Dkcl=3.5.1
//! mvn -q -B -f tests/interop/java/pom.xml package -Dkcl=3.4.2
//! KINETIDE_TEST_JAVA_KCL=target/java-kcl-3.5.1 KINETIDE_TEST_JAVA_KCL_34=target/java-kcl-3.4.2 \
//!     KINETIDE_TEST_DYNAMODB_LOCAL=http://127.0.0.1:8000 cargo test --test it interop:: -- --test-threads 12 --nocapture
//! ```
//!
//! Each scenario has a stream and an application of its own and mostly waits, so let all run at once.

mod adapter;
mod aggregates;
mod figures;
mod fleet;
mod java;
mod meter;
mod scenarios;
mod several;
mod verify;
mod worker;

use std::path::PathBuf;

/// The tables that a version of the library keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// 3.5: everything in the lease table.
    One,
    /// 3.0 to 3.4: leases, worker metrics and coordinator state apart.
    Three,
}

/// What the environment provides.
#[derive(Clone, Debug)]
struct Setup {
    layout: Layout,
    /// Folder with the classes and jars of the Java consumer.
    consumer: PathBuf,
    dynamodb: String,
}

impl Setup {
    /// None, and a word about it, where a variable is missing.
    fn find(layout: Layout) -> Option<Self> {
        let variable = match layout {
            Layout::One => "KINETIDE_TEST_JAVA_KCL",
            Layout::Three => "KINETIDE_TEST_JAVA_KCL_34",
        };
        let consumer = given(variable, "folder of the built Java consumer")?;
        let dynamodb = given("KINETIDE_TEST_DYNAMODB_LOCAL", "endpoint")?;
        Some(Self { layout, consumer: PathBuf::from(consumer), dynamodb })
    }
}

#[expect(clippy::print_stdout, reason = "a skipped suite says so")]
fn given(variable: &str, what: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the tests have no settings of their own")]
    let value = std::env::var(variable).ok();
    if value.is_none() {
        println!("skipped: Java KCL because {variable} names no {what}");
    }
    value
}
