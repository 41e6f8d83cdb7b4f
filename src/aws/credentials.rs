//! Who asks: credentials kept until they run out, and those for endpoints on this machine.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::error::ErrorMetadata;
use object_store::aws::AwsCredential;
use tokio::time::{Instant, timeout};

use super::role::AssumeRole;
use crate::cause::{chain, one_line};
use crate::clock::wall_clock_us;

/// Until credentials are there. The SDK's own cache waits as long.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// New ones are asked for so long before the old ones run out, or at a fifth of their life.
const REFRESH_BEFORE: Duration = Duration::from_secs(300);
/// Until the next try when no new ones could be had, and the old ones still count.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// The same when none count: every shard asks again and again, and STS must not be asked by each.
const TRY_AGAIN_SOON: Duration = Duration::from_secs(1);
/// How long the credentials of a role live, as nothing else is asked for.
const ROLE_LIFE: Duration = Duration::from_secs(3600);
/// Key and secret of made-up credentials.
const MADE_UP: &str = "local";
/// How long made-up credentials count.
const MADE_UP_FOR: Duration = Duration::from_secs(600);

/// No credentials could be had, in one line for people.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {problem}; {advice}")]
pub struct NoCredentials {
    what: String,
    problem: String,
    advice: String,
}

impl NoCredentials {
    /// `role`: the one that was to be assumed.
    fn of(error: &(dyn Error + 'static), role: Option<&AssumeRole>) -> Self {
        // A role's credentials may be kept twice.
        if let Some(said) = Self::behind(error) {
            return said.clone();
        }
        match role {
            Some(role) => Self::of_role(error, role),
            None => {
                let problem = chain(error);
                let advice = own_advice(&problem).to_owned();
                Self { what: "no AWS credentials".to_owned(), problem, advice }
            }
        }
    }

    /// Nobody is there who could be asked for them.
    pub(super) fn without_provider() -> Self {
        Self {
            what: "no AWS credentials".to_owned(),
            problem: "no provider is configured".to_owned(),
            advice: own_advice("").to_owned(),
        }
    }

    /// The one that is the reason for another error.
    pub(super) fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        below(error).find_map(|error| error.downcast_ref())
    }

    fn of_role(error: &(dyn Error + 'static), role: &AssumeRole) -> Self {
        let what = format!("the role {} cannot be assumed", role.arn);
        let refused = below(error).find_map(|error| error.downcast_ref::<ErrorMetadata>());
        let problem = match refused.and_then(|refused| Some((refused.code()?, refused.message()))) {
            Some((code, Some(text))) => format!("{code}: {}", one_line(text)),
            Some((code, None)) => code.to_owned(),
            // Not from STS; or one of the few errors for which the SDK has a type, which its text names.
            None => chain(error),
        };
        let own = below(error).skip(1).any(|error| error.is::<CredentialsError>());
        let advice = if own { own_advice(&problem).to_owned() } else { sts_advice(&problem, role) };
        Self { what, problem, advice }
    }
}

/// What to do about what STS said.
fn sts_advice(problem: &str, role: &AssumeRole) -> String {
    let is = |codes: &[&str]| codes.iter().any(|code| problem.contains(code));
    let advice = if is(&["AccessDenied"]) {
        let external_id = match &role.external_id {
            Some(_) => "check that the external ID matches",
            None => "no external ID is set; the trust policy may require one",
        };
        return format!(
            "allow sts:AssumeRole on it in the role of this process, and name that role in its trust policy; {external_id}"
        );
    } else if is(&["ExpiredToken"]) {
        "the credentials of this process have expired: renew them"
    } else if is(&["InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException"]) {
        "check the credentials and the clock of this process"
    } else if is(&["RegionDisabledException"]) {
        "activate STS for this region in the account of that role, or set another --region"
    } else if is(&["ValidationError"]) {
        "check its ARN, the external ID and the session name"
    } else if is(&["Throttl"]) {
        "if this persists, raise the STS quota"
    } else {
        "check the STS endpoint, the network and the region"
    };
    advice.to_owned()
}

/// What to do when this process has no credentials of its own.
fn own_advice(problem: &str) -> &'static str {
    match problem.to_ascii_lowercase() {
        text if text.contains("cargo feature") => {
            "this way to log in is not supported; use `aws configure export-credentials` as its credential_process"
        }
        text if text.contains("sso") => "log in with `aws sso login`",
        _ => "give this process a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID",
    }
}

/// The error and its causes.
fn below<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    })
}

/// Credentials that were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// When they run out, if they do.
    pub until: Option<SystemTime>,
    /// There are none, and an endpoint on this machine takes any.
    pub made_up: bool,
}

/// Whether there are credentials, in this role if there is one.
///
/// # Errors
/// When there are none, with what to do.
pub async fn credentials(sdk: &SdkConfig, role: Option<&AssumeRole>) -> Result<Found, NoCredentials> {
    let missing = NoCredentials::without_provider();
    let provider = sdk.credentials_provider().ok_or(missing)?;
    match timeout(LOAD_TIMEOUT, provider.provide_credentials()).await {
        Ok(Ok(credentials)) => {
            Ok(Found { until: credentials.expiry(), made_up: credentials.access_key_id() == MADE_UP })
        }
        Ok(Err(error)) => Err(NoCredentials::of(&error, role)),
        Err(_) => Err(NoCredentials::of(&NoResponse, role)),
    }
}

/// Credentials of a provider, asked for once and again before they run out. For who has no cache of the SDK, or needs
/// another: a client that is not one of the SDK, and roles.
#[derive(Debug)]
pub struct Kept {
    provider: SharedCredentialsProvider,
    /// The role that they are of; none: this process's own.
    role: Option<AssumeRole>,
    state: Mutex<State>,
    /// Held by who asks the provider.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    /// Why none could be had, and until when nobody asks again.
    failed: Option<(NoCredentials, Instant)>,
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
        // A wrong clock of this host takes them for dead already: others will not live longer.
        let life = life.max(TRY_AGAIN_SOON);
        let before = REFRESH_BEFORE.min(life / 5);
        Self { refresh: now + (life - before), expire: now + life }
    }
}

/// What there is at a moment.
enum Look {
    /// They count, and nobody needs to ask.
    Good(Arc<Credentials>),
    /// They count, and new ones should be asked for.
    Due(Arc<Credentials>),
    /// There are none, for this reason, and it is too early to ask again.
    Failed(NoCredentials),
    Nothing,
}

impl Kept {
    /// Keeps what this provider gives.
    pub fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, role: None, state: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// Keeps the credentials of a role.
    pub(super) fn in_role(provider: SharedCredentialsProvider, role: AssumeRole) -> Self {
        Self { role: Some(role), ..Self::new(provider) }
    }

    /// As [`Kept::get`], for clients that sign as `object_store` does.
    ///
    /// # Errors
    /// As [`Kept::get`].
    pub async fn for_signing(&self) -> Result<AwsCredential, NoCredentials> {
        let credentials = self.get().await?;
        Ok(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(str::to_owned),
        })
    }

    /// The credentials of now. One asks for new ones; the others go on with the old ones while these count, else they wait
    /// and get what that one got.
    ///
    /// # Errors
    /// When none could be had, and none from before still count.
    pub async fn get(&self) -> Result<Arc<Credentials>, NoCredentials> {
        let _asking = match self.look() {
            Look::Good(credentials) => return Ok(credentials),
            Look::Failed(problem) => return Err(problem),
            Look::Due(credentials) => match self.asking.try_lock() {
                Ok(asking) => asking,
                Err(_) => return Ok(credentials),
            },
            Look::Nothing => self.asking.lock().await,
        };
        match self.look() {
            Look::Good(credentials) => Ok(credentials),
            Look::Failed(problem) => Err(problem),
            Look::Due(_) | Look::Nothing => self.ask().await,
        }
    }

    fn look(&self) -> Look {
        let state = self.state();
        let now = Instant::now();
        let failed = state.failed.as_ref().filter(|(_, until)| now < *until);
        match (&state.held, failed) {
            (Some(Held { credentials, ends }), failed) if ends.is_none_or(|ends| now < ends.expire) => {
                let fresh = ends.is_none_or(|ends| now < ends.refresh);
                let credentials = Arc::clone(credentials);
                if fresh || failed.is_some() { Look::Good(credentials) } else { Look::Due(credentials) }
            }
            (_, Some((problem, _))) => Look::Failed(problem.clone()),
            (_, None) => Look::Nothing,
        }
    }

    async fn ask(&self) -> Result<Arc<Credentials>, NoCredentials> {
        let answer = timeout(LOAD_TIMEOUT, self.provider.provide_credentials()).await;
        let mut state = self.state();
        let role = self.role.as_ref();
        let problem = match answer {
            Ok(Ok(credentials)) => {
                let ends = credentials.expiry().map(|expiry| {
                    let at = expiry.duration_since(UNIX_EPOCH).unwrap_or_default();
                    let life = at.saturating_sub(now());
                    // A wrong clock of this host takes them for longer-lived than the role's can be.
                    let life = if role.is_some() { life.min(ROLE_LIFE) } else { life };
                    Ends::after(life, Instant::now())
                });
                let credentials = Arc::new(credentials);
                *state =
                    State { held: Some(Held { credentials: Arc::clone(&credentials), ends }), failed: None };
                return Ok(credentials);
            }
            Ok(Err(error)) => NoCredentials::of(&error, role),
            Err(_) => NoCredentials::of(&NoResponse, role),
        };
        let asked = Instant::now();
        match &state.held {
            Some(Held { credentials, ends: Some(ends) }) if asked < ends.expire => {
                let credentials = Arc::clone(credentials);
                let until = ends.expire.min(asked + TRY_AGAIN);
                tracing::warn!(%problem, "could not refresh credentials; the old ones are still valid");
                state.failed = Some((problem, until));
                Ok(credentials)
            }
            _ => {
                state.failed = Some((problem.clone(), asked + TRY_AGAIN_SOON));
                Err(problem)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

/// The provider is given up.
#[derive(Debug, thiserror::Error)]
#[error("no response within {} s", LOAD_TIMEOUT.as_secs())]
struct NoResponse;

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
            Ok(Err(error)) => Some(NoCredentials::of(&error, None)),
            Err(_) => Some(NoCredentials::of(&NoResponse, None)),
        };
        // A session of somewhere else may have run out; that is no reason not to work here. It may come back, so that these
        // do not count for ever.
        if let Some(problem) = problem {
            tracing::warn!(%problem, "no credentials found: using made-up ones for an endpoint on this machine");
        }
        let soon = UNIX_EPOCH + now() + MADE_UP_FOR;
        Credentials::new(MADE_UP, MADE_UP, None, Some(soon), "kinetide")
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

    /// Takes its time, and then refuses.
    #[derive(Debug)]
    struct Slow(Arc<AtomicU32>, Duration);

    impl ProvideCredentials for Slow {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                let number = self.0.fetch_add(1, Ordering::Relaxed);
                if number == 0 {
                    let expiry = UNIX_EPOCH + super::now() + Duration::from_secs(100);
                    return Ok(Credentials::new("first", "secret", None, Some(expiry), "test"));
                }
                tokio::time::sleep(self.1).await;
                Err(CredentialsError::provider_error("no"))
            })
        }
    }

    fn role(external_id: Option<&str>) -> AssumeRole {
        let arn = "arn:aws:iam::111122223333:role/reader".parse().unwrap();
        AssumeRole { arn, external_id: external_id.map(|id| id.parse().unwrap()), session_name: None }
    }

    /// A provider that is slow or silent delays one caller, not all of them, and is not asked by each of them.
    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all() {
        for takes in [Duration::from_secs(2), Duration::from_secs(3600)] {
            let asked = Arc::new(AtomicU32::new(0));
            let provider = SharedCredentialsProvider::new(Slow(Arc::clone(&asked), takes));
            let kept = Kept::in_role(provider, role(None));
            assert_eq!(key(&kept).await, "first");
            tokio::time::advance(Duration::from_secs(85)).await;
            let started = Instant::now();
            let together = async {
                let others = async {
                    tokio::task::yield_now().await;
                    let all = futures::future::join_all((0..50).map(|_| key(&kept))).await;
                    (all, started.elapsed())
                };
                tokio::join!(key(&kept), others)
            };
            let (first, (others, waited)) = together.await;
            assert!(first == "first" && others.iter().all(|key| key == "first"));
            assert_eq!((waited, asked.load(Ordering::Relaxed)), (Duration::ZERO, 2));
            assert_eq!(
                (key(&kept).await, asked.load(Ordering::Relaxed)),
                ("first".to_owned(), 2),
                "too early"
            );
            tokio::time::advance(Duration::from_secs(15)).await;
            let all = futures::future::join_all((0..50).map(|_| kept.get())).await;
            assert!(all.iter().all(Result::is_err));
            let so_far = asked.load(Ordering::Relaxed);
            assert!(so_far <= 4, "{so_far}");
            let problem = kept.get().await.unwrap_err().to_string();
            let reason = if takes > LOAD_TIMEOUT { "no response within 5 s" } else { ": no" };
            assert!(
                problem.starts_with("the role arn:aws:iam::111122223333:role/reader cannot be assumed: ")
            );
            assert!(problem.contains(reason) && problem.contains("check the STS endpoint"), "{problem}");
        }
    }

    #[test]
    fn what_sts_says_comes_with_what_to_do() {
        let said = |code: &str, external_id| {
            let refused = ErrorMetadata::builder().code(code).message("not\nyou").build();
            let error = CredentialsError::provider_error(refused);
            NoCredentials::of(&error, Some(&role(external_id))).to_string()
        };
        for (code, external_id, words) in [
            ("AccessDenied", None, "no external ID is set"),
            ("AccessDenied", Some("team"), "check that the external ID matches"),
            ("ExpiredToken", None, "renew them"),
            ("RegionDisabledException", None, "activate STS"),
            ("Throttling", None, "raise the STS quota"),
            ("Other", None, "check the STS endpoint"),
        ] {
            let text = said(code, external_id);
            assert!(
                text.contains(&format!("cannot be assumed: {code}: not you; ")) && text.contains(words),
                "{text}"
            );
        }
        // As the SDK shows an error for which it has a type.
        let typed =
            CredentialsError::provider_error("RegionDisabledException: STS is not activated in this region");
        let text = NoCredentials::of(&typed, Some(&role(None))).to_string();
        assert!(text.contains("not activated in this region; activate STS for this region"), "{text}");
        // As a provider around it says it, it is the same.
        let inner = NoCredentials::of(&NoResponse, Some(&role(None)));
        let outer = NoCredentials::of(&CredentialsError::provider_error(inner.clone()), None);
        assert_eq!(outer.to_string(), inner.to_string());
        let nobody = CredentialsError::provider_error(CredentialsError::not_loaded_no_source());
        let text = NoCredentials::of(&nobody, Some(&role(None))).to_string();
        assert!(text.contains("or set AWS_PROFILE"), "{text}");
    }
}
