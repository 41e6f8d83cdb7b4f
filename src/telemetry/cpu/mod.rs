//! How busy this process is, in percent of the processors that it may use.
//!
//! Owns: where that is measured at all, finding out once how many processors those are, reading the processor time of
//! this process. Not that of the container: several workers may share one, and what runs beside them is not their load.
//! Does not own: what follows from it (`lease`).

mod allowance;
mod platform;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use allowance::Cgroups;

/// The metadata endpoint is on this host; one that does not answer is not waited for.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// The answer about a task with many containers has some ten KiB.
const METADATA_BYTES_MAX: usize = 1 << 20;
/// What a process uses in less time says nothing.
const SHORTEST: Duration = Duration::from_secs(1);

/// Measures how busy this process is.
#[derive(Debug)]
pub struct CpuMeter {
    /// `None` where it is not to be reported.
    processors: Option<f64>,
    last: Mutex<Reading>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    /// Processor time of all threads since the process started.
    used: Duration,
}

impl CpuMeter {
    /// Finds out how many processors this process may use, and says in the log how it knows. The first of these that
    /// limits it counts: the ECS task (`metadata_uri` is the value of `ECS_CONTAINER_METADATA_URI_V4`), quotas of cgroup
    /// v2, of cgroup v1, the processors of the host. Takes at most two seconds.
    ///
    /// Off ECS, Kubernetes and EC2 nothing is measured, as in Java KCL: the leader goes by throughput there.
    pub async fn new(metadata_uri: Option<&str>) -> Self {
        let root = Path::new("/");
        let processors = match platform::name(metadata_uri.is_some(), root) {
            Some(platform) => {
                let from_ecs = match metadata_uri {
                    Some(uri) => from_ecs(uri).await,
                    None => None,
                };
                let found = from_ecs.or_else(|| from_cgroups(root)).or_else(from_host);
                let (processors, source) = found.unwrap_or((1.0, "a guess"));
                tracing::info!(platform, processors, source, "reporting CPU use as this worker's load");
                Some(processors)
            }
            None => {
                tracing::info!("not on ECS, Kubernetes or EC2: reporting throughput as this worker's load");
                None
            }
        };
        Self { processors, last: Mutex::new(Reading::now()) }
    }

    /// The processors used on average since the last answer, or since the start, in percent of those allowed. More than
    /// 100 is possible where the limit is a soft one. `None` if that was less than a second ago, and where nothing is
    /// measured.
    pub fn sample(&self) -> Option<f64> {
        let processors = self.processors?;
        let mut last = self.last.lock().expect("nothing panics while it is locked");
        let now = Reading::now();
        let percent = percent(*last, now, processors)?;
        *last = now;
        Some(percent)
    }
}

impl Reading {
    fn now() -> Self {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        Self { at: Instant::now(), used: Duration::try_from(used).unwrap_or_default() }
    }
}

fn percent(last: Reading, now: Reading, processors: f64) -> Option<f64> {
    let elapsed = now.at.checked_duration_since(last.at).filter(|elapsed| *elapsed >= SHORTEST)?;
    let used = now.used.checked_sub(last.used)?;
    Some(used.as_secs_f64() / elapsed.as_secs_f64() / processors * 100.0)
}

/// A number of processors, and where it stands.
type Found = (f64, &'static str);

async fn from_ecs(uri: &str) -> Option<Found> {
    let fetching = async {
        // The endpoint is on this host, so a proxy or another host has no say.
        let direct = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = direct.build()?;
        let container = fetch(&client, uri).await?;
        Ok::<_, reqwest::Error>((container, fetch(&client, &format!("{uri}/task")).await?))
    };
    match tokio::time::timeout(METADATA_TIMEOUT, fetching).await {
        Ok(Ok((container, task))) => {
            let container = allowance::of_container(&container).map(|found| (found, "the ECS container"));
            let task = allowance::of_task(&task).map(|found| (found, "the ECS task"));
            [container, task].into_iter().flatten().min_by(|one, other| one.0.total_cmp(&other.0))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "could not get the CPU limit of this task from ECS");
            None
        }
        Err(_) => {
            tracing::warn!("could not get the CPU limit of this task from ECS: no response in time");
            None
        }
    }
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, reqwest::Error> {
    let mut answer = client.get(url).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        // A cut answer is not JSON and says nothing.
        if body.len() > METADATA_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

/// `root` is `/`, but in tests.
fn from_cgroups(root: &Path) -> Option<Found> {
    let text = |path: &Path| std::fs::read_to_string(path).ok();
    let groups = Cgroups::parse(&text(&root.join("proc/self/cgroup"))?);
    let mounted = root.join("sys/fs/cgroup");
    let unified = groups.unified.iter().map(|group| mounted.join(group));
    let unified = unified.filter_map(|folder| allowance::of_cpu_max(&text(&folder.join("cpu.max"))?));
    let cpu = groups.cpu.iter().map(|group| mounted.join("cpu").join(group)).filter_map(|folder| {
        allowance::quota(&text(&folder.join("cpu.cfs_quota_us"))?, &text(&folder.join("cpu.cfs_period_us"))?)
    });
    let least = |one: f64, other: f64| one.min(other);
    let unified = unified.reduce(least).map(|found| (found, "cgroup v2"));
    unified.or_else(|| cpu.reduce(least).map(|found| (found, "cgroup v1")))
}

fn from_host() -> Option<Found> {
    std::thread::available_parallelism().ok().map(|processors| (processors.get() as f64, "the host"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// Serves a metadata endpoint; tells its address.
    async fn serve(tasks: &mut JoinSet<()>, container: &'static str, task: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut router = Router::new().route("/v4/7dd6-1", get(move || async move { container }));
        if let Some(task) = task {
            router = router.route("/v4/7dd6-1/task", get(move || async move { task }));
        }
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}/v4/7dd6-1")
    }

    #[tokio::test]
    async fn the_smaller_limit_of_container_and_task_counts() {
        let tasks = &mut JoinSet::new();
        let (quarter, unset) = (r#"{"Limits":{"CPU":256}}"#, r#"{"Limits":{"CPU":2}}"#);
        let half = Some(r#"{"Limits":{"CPU":0.5}}"#);
        let uri = serve(tasks, quarter, half).await;
        assert_eq!(from_ecs(&uri).await, Some((0.25, "the ECS container")));
        assert_eq!(CpuMeter::new(Some(&uri)).await.processors, Some(0.25));
        let uri = serve(tasks, unset, half).await;
        assert_eq!(from_ecs(&uri).await, Some((0.5, "the ECS task")));
        // A task on EC2 need not have a limit of its own.
        let uri = serve(tasks, unset, Some("{}")).await;
        assert_eq!(from_ecs(&uri).await, None);
        let uri = serve(tasks, quarter, None).await;
        assert_eq!(from_ecs(&uri).await, None, "not found");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_does_not_answer_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/v4/x", silent.local_addr().unwrap());
        let before = Instant::now();
        let meter = CpuMeter::new(Some(&uri)).await;
        assert!(before.elapsed() < METADATA_TIMEOUT * 2);
        assert!(meter.processors.is_some_and(|some| some > 0.0), "it goes on with what the host says");
        for nonsense in ["", "ftp://x", "http://", "not a uri"] {
            assert_eq!(from_ecs(nonsense).await, None, "{nonsense}");
        }
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(from_cgroups(root.path()), None);
        put("proc/self/cgroup", "5:cpu,cpuacct:/docker/7\n0::/ecs/task/main\n");
        assert_eq!(from_cgroups(root.path()), None);
        put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n");
        put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        put("sys/fs/cgroup/cpu/docker/7/cpu.cfs_quota_us", "-1\n");
        put("sys/fs/cgroup/cpu/docker/7/cpu.cfs_period_us", "100000\n");
        assert_eq!(from_cgroups(root.path()), Some((3.0, "cgroup v1")));
        put("sys/fs/cgroup/ecs/task/main/cpu.max", "max 100000\n");
        assert_eq!(from_cgroups(root.path()), Some((3.0, "cgroup v1")), "no limit is none");
        put("sys/fs/cgroup/ecs/task/cpu.max", "50000 100000\n");
        put("sys/fs/cgroup/ecs/cpu.max", "200000 100000\n");
        assert_eq!(from_cgroups(root.path()), Some((0.5, "cgroup v2")));
        put("sys/fs/cgroup/ecs/task/cpu.max", "broken");
        assert_eq!(from_cgroups(root.path()), Some((2.0, "cgroup v2")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_average_since_the_last_answer() {
        let meter = CpuMeter { processors: Some(0.5), last: Mutex::new(Reading::now()) };
        assert_eq!(meter.sample(), None, "too early");
        tokio::time::advance(Duration::from_secs(2)).await;
        let earlier = *meter.last.lock().unwrap();
        let mut rounds = 0u64;
        while Reading::now().used < earlier.used + Duration::from_millis(50) {
            rounds = std::hint::black_box(rounds + 1);
        }
        // 50 ms of half a processor in 2 s; other tests run in this process.
        let percent = meter.sample().unwrap();
        assert!(percent >= 5.0, "{percent}");
        assert_eq!(meter.sample(), None, "just answered");

        let at = earlier.at;
        let reading = |secs, used_ms| Reading {
            at: at + Duration::from_secs(secs),
            used: Duration::from_millis(used_ms),
        };
        assert_eq!(percent_of(reading(0, 100), reading(30, 15_100)), Some(25.0));
        assert_eq!(percent_of(reading(0, 100), reading(30, 100)), Some(0.0));
        assert_eq!(percent_of(reading(30, 100), reading(0, 200)), None);
        assert_eq!(percent_of(reading(0, 200), reading(30, 100)), None);
    }

    fn percent_of(last: Reading, now: Reading) -> Option<f64> {
        percent(last, now, 2.0)
    }
}
