//! An STS by script: gives credentials of roles for a while, to who brings the right external id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kinetide::internals::clock::wall_clock_us;
use tokio::time::Instant;

use super::super::endpoints::{Endpoint, serve};

/// Who may be assumed, and with what.
#[derive(Clone, Copy)]
pub(crate) struct Role {
    pub(crate) arn: &'static str,
    pub(crate) external_id: Option<&'static str>,
    /// How long its credentials count.
    pub(crate) life: Duration,
}

pub(crate) struct Sts {
    pub(crate) endpoint: Endpoint,
    shared: Arc<Shared>,
}

struct Shared {
    roles: Vec<Role>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The role of an access key, and until when it counts.
    keys: BTreeMap<String, (&'static str, Instant)>,
    /// Keys that it was asked with, and the names of the sessions.
    callers: BTreeSet<String>,
    sessions: BTreeSet<String>,
}

impl Sts {
    pub(crate) async fn start(roles: &[Role]) -> Self {
        let shared = Arc::new(Shared { roles: roles.to_vec(), state: Mutex::default() });
        let served = Arc::clone(&shared);
        let router = Router::new().fallback(move |request: Request| {
            let shared = Arc::clone(&served);
            async move { shared.answer(request).await }
        });
        Self { endpoint: serve(router).await, shared }
    }

    /// The role of an access key, if it still counts.
    pub(crate) fn roles(&self) -> impl Fn(&str) -> Option<&'static str> + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move |key| {
            let state = shared.state();
            state.keys.get(key).filter(|(_, until)| Instant::now() < *until).map(|(role, _)| *role)
        }
    }

    /// How often credentials of this role were given.
    pub(crate) fn given(&self, role: &str) -> usize {
        self.shared.state().keys.values().filter(|(of, _)| *of == role).count()
    }

    pub(crate) fn callers(&self) -> Vec<String> {
        self.shared.state().callers.iter().cloned().collect()
    }

    pub(crate) fn sessions(&self) -> Vec<String> {
        self.shared.state().sessions.iter().cloned().collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let key = access_key(&parts.headers).unwrap_or_default();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
        let given = |name: &str| form.get(name).map(String::as_str);
        assert_eq!(given("Action"), Some("AssumeRole"), "{form:?}");
        let (arn, session) = (given("RoleArn").unwrap(), given("RoleSessionName").unwrap());
        let mut state = self.state();
        state.callers.insert(key);
        state.sessions.insert(session.to_owned());
        let found = self.roles.iter().find(|role| role.arn == arn);
        match found.filter(|role| role.external_id.is_none_or(|id| given("ExternalId") == Some(id))) {
            Some(role) => give(&mut state, *role, session),
            None => refusal(
                StatusCode::FORBIDDEN,
                "AccessDenied",
                &format!(
                    "User: arn:aws:iam::111122223333:user/worker is not authorized to perform: sts:AssumeRole on \
                     resource: {arn}"
                ),
            ),
        }
    }
}

fn give(state: &mut State, role: Role, session: &str) -> Response {
    let key = format!("ASIA{}", state.keys.len());
    // What it says is in whole seconds.
    let seconds = wall_clock_us() / 1_000_000 + i64::try_from(role.life.as_secs()).unwrap();
    let until = jiff::Timestamp::from_second(seconds).unwrap();
    state.keys.insert(key.clone(), (role.arn, Instant::now() + role.life));
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>{until}</Expiration></Credentials><AssumedRoleUser><AssumedRoleId>AROA:{session}</AssumedRoleId>\
         <Arn>{}/{session}</Arn></AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>",
        role.arn
    );
    ([("content-type", "text/xml")], body).into_response()
}

/// An error of STS.
pub(crate) fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    );
    (status, [("content-type", "text/xml")], Body::from(body)).into_response()
}

/// The access key that a request is signed with.
pub(crate) fn access_key(headers: &axum::http::HeaderMap) -> Option<String> {
    let text = headers.get("authorization")?.to_str().ok()?;
    Some(text.split("Credential=").nth(1)?.split('/').next()?.to_owned())
}
