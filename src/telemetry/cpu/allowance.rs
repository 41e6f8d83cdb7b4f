//! How many processors a process may use, read from what ECS and the kernel say about it.
//!
//! Pure: texts in, numbers out. A text that is not understood says nothing. Fetching them is `mod.rs`.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

/// CPU units of one processor in a container definition.
const UNITS: f64 = 1024.0;
/// Docker's least number of CPU shares: ECS gives it to a container for which no CPU is set.
const UNITS_UNSET: f64 = 2.0;
/// More processors than this are a mistake.
const PROCESSORS_MAX: f64 = 100_000.0;

/// Answers of the task metadata endpoint, as far as they are of use (version 4, Amazon ECS Developer Guide).
#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "Limits")]
    limits: Option<Limits>,
}

#[derive(Deserialize)]
struct Limits {
    #[serde(rename = "CPU")]
    cpu: Option<f64>,
}

fn limit(json: &[u8]) -> Option<f64> {
    serde_json::from_slice::<Metadata>(json).ok()?.limits?.cpu
}

/// The processors of a container: `Limits.CPU` of `${ECS_CONTAINER_METADATA_URI_V4}`, in CPU units.
pub(super) fn of_container(json: &[u8]) -> Option<f64> {
    limit(json).filter(|units| *units > UNITS_UNSET).map(|units| units / UNITS).and_then(plausible)
}

/// The processors of a task: `Limits.CPU` of `${ECS_CONTAINER_METADATA_URI_V4}/task`, in vCPU.
pub(super) fn of_task(json: &[u8]) -> Option<f64> {
    limit(json).and_then(plausible)
}

/// `cpu.max` of cgroup v2: `<quota or max> <period>`, both in µs.
pub(super) fn of_cpu_max(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    quota(words.next()?, words.next()?)
}

/// `cpu.cfs_quota_us` and `cpu.cfs_period_us` of cgroup v1; a quota of −1 is none.
pub(super) fn quota(quota: &str, period: &str) -> Option<f64> {
    let microseconds = |text: &str| text.trim().parse::<u64>().ok();
    plausible(microseconds(quota)? as f64 / microseconds(period)? as f64)
}

fn plausible(processors: f64) -> Option<f64> {
    Some(processors).filter(|processors| *processors > 0.0 && *processors <= PROCESSORS_MAX)
}

/// The folders that may limit a process, by its `/proc/self/cgroup`; below the place where the hierarchy is mounted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cgroups {
    /// Version 2: its own folder, then those above.
    pub unified: Vec<PathBuf>,
    /// The same for the controller `cpu` of version 1.
    pub cpu: Vec<PathBuf>,
}

impl Cgroups {
    pub(super) fn parse(text: &str) -> Self {
        let mut found = Self { unified: Vec::new(), cpu: Vec::new() };
        for line in text.lines() {
            // `<number>:<controllers>:<path>`; the path may hold colons.
            let mut fields = line.splitn(3, ':');
            let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if number == "0" && controllers.is_empty() {
                found.unified = upwards(path);
            } else if controllers.split(',').any(|controller| controller == "cpu") {
                found.cpu = upwards(path);
            }
        }
        found
    }
}

/// `/a/b` → `a/b`, `a`, and the root. A path out of our view (`/../x`) is taken as far as we see it.
fn upwards(path: &str) -> Vec<PathBuf> {
    let normal = |part: &Component<'_>| matches!(part, Component::Normal(_));
    let path: PathBuf = Path::new(path).components().filter(normal).collect();
    path.ancestors().map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ecs_says_what_container_and_task_may_use() {
        let container = br#"{"DockerId":"ea32","Name":"kinetide","Limits":{"CPU":256,"Memory":512}}"#;
        let task =
            br#"{"Cluster":"c","Limits":{"CPU":0.5,"Memory":1024},"Containers":[{"Limits":{"CPU":2}}]}"#;
        assert_eq!((of_container(container), of_task(task)), (Some(0.25), Some(0.5)));
        let unset = br#"{"Limits":{"CPU":2}}"#;
        assert_eq!((of_container(unset), of_task(unset)), (None, Some(2.0)));
        for nothing in [
            r#"{"Limits":{"CPU":0}}"#,
            r#"{"Limits":{"CPU":-1}}"#,
            r#"{"Limits":{"CPU":1e300}}"#,
            r#"{"Limits":{"CPU":"2"}}"#,
            r#"{"Limits":{"CPU":null}}"#,
            r#"{"Limits":{}}"#,
            r#"{"Limits":null}"#,
            "{}",
            "[1]",
            r#"{"Limits":{"CPU":2"#,
            "",
        ] {
            assert_eq!(
                (of_container(nothing.as_bytes()), of_task(nothing.as_bytes())),
                (None, None),
                "{nothing}"
            );
        }
    }

    #[test]
    fn quotas_are_read_in_both_versions() {
        assert_eq!(of_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(of_cpu_max("2000 100000"), Some(0.02));
        assert_eq!(quota("50000\n", "100000\n"), Some(0.5));
        for nothing in ["max 100000\n", "100000", "", "\n", "1 0", "0 100000", "-1 100000", "a b", "nan 1"] {
            assert_eq!(of_cpu_max(nothing), None, "{nothing}");
        }
        assert_eq!(quota("-1\n", "100000\n"), None);
    }

    #[test]
    fn the_own_cgroup_comes_first_then_those_above() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let v2 = Cgroups::parse("0::/ecs/task:1/container\n");
        assert_eq!(v2.unified, paths(&["ecs/task:1/container", "ecs/task:1", "ecs", ""]));
        assert_eq!(v2.cpu, paths(&[]));
        let v1 = Cgroups::parse("9:cpuset:/x\n4:cpuacct,cpu:/docker/ea32\n0::/\n");
        assert_eq!((v1.cpu, v1.unified), (paths(&["docker/ea32", "docker", ""]), paths(&[""])));
        assert_eq!(Cgroups::parse("0::/../../a").unified, paths(&["a", ""]));
        assert_eq!(Cgroups::parse("nonsense\n\n1:cpu\n"), Cgroups { unified: vec![], cpu: vec![] });
    }

    proptest! {
        #[test]
        fn any_text_is_ordinary_input(text: String, bytes: Vec<u8>) {
            for found in [of_cpu_max(&text), quota(&text, &text), of_container(&bytes), of_task(text.as_bytes())] {
                prop_assert!(found.is_none_or(|processors| processors > 0.0 && processors.is_finite()));
            }
            let groups = Cgroups::parse(&text);
            for folder in groups.unified.iter().chain(&groups.cpu) {
                prop_assert!(folder.is_relative() && !folder.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
