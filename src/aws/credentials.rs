//! Who asks: credentials kept until they run out, and those for endpoints on this machine.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_config::Region;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::cause::chain;
use crate::clock::wall_clock_us;

/// Until credentials are there. The SDK's own cache waits as long.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// New ones are asked for so long before the old ones run out, or at a fifth of their life.
const REFRESH_BEFORE: Duration = Duration::from_secs(300);
/// Until the next try when no new ones could be had, and the old ones still count.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How long made-up credentials count.
const MADE_UP_FOR: Duration = Duration::from_secs(600);

/// No credentials could be had, in one line for people.
#[derive(Debug, thiserror::Error)]
#[error("no AWS credentials: {problem}; {advice}")]
pub struct NoCredentials {
    problem: String,
    advice: &'static str,
}

impl NoCredentials {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let problem = chain(error);
        let advice = match problem.to_ascii_lowercase() {
            text if text.contains("cargo feature") => {
                "this way to log in is not supported; use `aws configure export-credentials` as its credential_process"
            }
            text if text.contains("sso") => "log in with `aws sso login`",
            _ => "give this process a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID",
        };
        Self { problem, advice }
    }
}

/// Credentials of a provider, asked for once and again before they run out. For a client that is not one of the SDK,
/// which have a cache of their own.
#[derive(Debug)]
pub struct Kept {
    provider: SharedCredentialsProvider,
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    credentials: Arc<Credentials>,
    /// `None`: for ever.
    ends: Option<Ends>,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    refresh: Instant,
    expire: Instant,
}

impl Ends {
    /// Of credentials that live on for `life` from `now`.
    fn after(life: Duration, now: Instant) -> Self {
        let before = REFRESH_BEFORE.min(life / 5);
        Self { refresh: now + (life - before), expire: now + life }
    }
}

impl Kept {
    /// Keeps what this provider gives.
    pub fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, held: Mutex::default() }
    }

    /// The credentials of now. Whoever asks while new ones are on their way waits for them.
    ///
    /// # Errors
    /// When none could be had, and none from before still count.
    pub async fn get(&self) -> Result<Arc<Credentials>, NoCredentials> {
        let mut held = self.held.lock().await;
        if let Some(Held { credentials, ends }) = &*held
            && ends.is_none_or(|ends| Instant::now() < ends.refresh)
        {
            return Ok(Arc::clone(credentials));
        }
        let problem = match timeout(LOAD_TIMEOUT, self.provider.provide_credentials()).await {
            Ok(Ok(credentials)) => {
                let ends = credentials.expiry().map(|expiry| {
                    let at = expiry.duration_since(UNIX_EPOCH).unwrap_or_default();
                    Ends::after(at.saturating_sub(now()), Instant::now())
                });
                let credentials = Arc::new(credentials);
                *held = Some(Held { credentials: Arc::clone(&credentials), ends });
                return Ok(credentials);
            }
            Ok(Err(error)) => NoCredentials::of(&error),
            Err(elapsed) => NoCredentials::of(&elapsed),
        };
        match &mut *held {
            Some(Held { credentials, ends: Some(ends) }) if Instant::now() < ends.expire => {
                ends.refresh = ends.expire.min(Instant::now() + TRY_AGAIN);
                tracing::warn!(%problem, "could not refresh credentials; the old ones are still valid");
                Ok(Arc::clone(credentials))
            }
            _ => Err(problem),
        }
    }
}

/// Credentials for an endpoint on this machine: those of the environment (variables, profile, web identity, container), not
/// of the host's role; where there are none, made-up ones, which an emulator takes like any other.
#[derive(Debug)]
pub(super) struct OnThisMachine(CredentialsProviderChain);

impl OnThisMachine {
    pub(super) fn new(region: Option<Region>, http_client: Option<SharedHttpClient>) -> Self {
        Self(providers(region, http_client))
    }

    async fn provide(&self) -> Credentials {
        let problem = match timeout(LOAD_TIMEOUT / 2, self.0.provide_credentials()).await {
            Ok(Ok(credentials)) => return credentials,
            Ok(Err(CredentialsError::CredentialsNotLoaded(_))) => None,
            Ok(Err(error)) => Some(NoCredentials::of(&error)),
            Err(elapsed) => Some(NoCredentials::of(&elapsed)),
        };
        // A session of somewhere else may have run out; that is no reason not to work here. It may come back, so that these
        // do not count for ever.
        if let Some(problem) = problem {
            tracing::warn!(%problem, "no credentials found: using made-up ones for an endpoint on this machine");
        }
        let soon = UNIX_EPOCH + now() + MADE_UP_FOR;
        Credentials::new("local", "local", None, Some(soon), "kinetide")
    }
}

/// Since the epoch.
fn now() -> Duration {
    Duration::from_micros(u64::try_from(wall_clock_us()).unwrap_or(0))
}

fn providers(region: Option<Region>, http_client: Option<SharedHttpClient>) -> CredentialsProviderChain {
    let mut settings = ProviderConfig::without_region().with_region(region);
    if let Some(client) = http_client {
        settings = settings.with_http_client(client);
    }
    let profile = ProfileFileCredentialsProvider::builder().configure(&settings).build();
    let web_identity = WebIdentityTokenCredentialsProvider::builder().configure(&settings).build();
    let container = EcsCredentialsProvider::builder().configure(&settings).build();
    CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
        .or_else("Profile", profile)
        .or_else("WebIdentityToken", web_identity)
        .or_else("EcsContainer", container)
}

impl ProvideCredentials for OnThisMachine {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { Ok(self.provide().await) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Credentials that live for a while, numbered; fails from a call to another.
    #[derive(Debug)]
    struct Numbered {
        asked: Arc<AtomicU32>,
        life: Option<Duration>,
        fails: std::ops::Range<u32>,
    }

    impl ProvideCredentials for Numbered {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            let now = UNIX_EPOCH + Duration::from_micros(u64::try_from(wall_clock_us()).unwrap());
            future::ProvideCredentials::ready(if self.fails.contains(&number) {
                Err(CredentialsError::provider_error("the SSO session has expired"))
            } else {
                let expiry = self.life.map(|life| now + life);
                Ok(Credentials::new(number.to_string(), "secret", None, expiry, "test"))
            })
        }
    }

    fn kept(life: Option<Duration>, fails: std::ops::Range<u32>) -> (Kept, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let provider = Numbered { asked: Arc::clone(&asked), life, fails };
        (Kept::new(SharedCredentialsProvider::new(provider)), asked)
    }

    async fn key(kept: &Kept) -> String {
        kept.get().await.unwrap().access_key_id().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_asked_for_once_and_again_before_they_run_out() {
        let (kept_for_ever, asked) = kept(None, 0..0);
        let all = futures::future::join_all((0..20).map(|_| key(&kept_for_ever))).await;
        assert!(all.iter().all(|key| key == "0") && asked.load(Ordering::Relaxed) == 1);

        let hour = Duration::from_secs(3600);
        let (of_an_hour, _) = kept(Some(hour), 0..0);
        assert_eq!(key(&of_an_hour).await, "0");
        tokio::time::advance(hour - Duration::from_secs(310)).await;
        assert_eq!(key(&of_an_hour).await, "0");
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(key(&of_an_hour).await, "1", "five minutes before the end");

        let (short, asked) = kept(Some(Duration::from_secs(50)), 0..0);
        for _ in 0..40 {
            key(&short).await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "short ones are not asked for at every request");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(key(&short).await, "1");
    }

    #[tokio::test(start_paused = true)]
    async fn old_credentials_count_until_they_run_out() {
        let (kept, asked) = kept(Some(Duration::from_secs(1000)), 1..100);
        assert_eq!(key(&kept).await, "0");
        for second in 0..99 {
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(key(&kept).await, "0", "after {second}0 s");
        }
        let asked_early = asked.load(Ordering::Relaxed);
        assert!((10..40).contains(&asked_early), "{asked_early}");
        tokio::time::advance(Duration::from_secs(10)).await;
        let problem = kept.get().await.unwrap_err().to_string();
        assert!(
            problem.contains("SSO session has expired") && problem.contains("aws sso login"),
            "{problem}"
        );
    }
}
