//! Every client of AWS finds credentials, region, endpoint, certificates and proxy in the same places: what they send is
//! looked at, by a server that refuses everything and by a proxy that lets nobody through.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::endpoints::{Endpoint, serve};
use super::{Ran, command, finish};

/// Who asked whom, as the signature says: key id, region, service.
type Asked = Arc<Mutex<BTreeSet<(String, String, String)>>>;

fn note(asked: &Asked, authorization: Option<&str>) {
    let scope = authorization.and_then(|text| text.split("Credential=").nth(1)?.split(',').next());
    let Some(scope) = scope else { return };
    let parts: Vec<&str> = scope.split('/').collect();
    let [key, _, region, service, _] = parts[..] else { panic!("{scope}") };
    asked.lock().unwrap().insert((key.to_owned(), region.to_owned(), service.to_owned()));
}

const REFUSAL: &str = r#"{"__type":"AccessDeniedException","message":"not you"}"#;

/// Refuses everything, and notes who asked.
async fn refusing() -> (Endpoint, Asked) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let router = Router::new().fallback(move |request: Request| async move {
        note(&seen, request.headers().get("authorization").map(|value| value.to_str().unwrap()));
        (StatusCode::FORBIDDEN, [("content-type", "application/x-amz-json-1.1")], REFUSAL)
    });
    (serve(router).await, asked)
}

/// The same behind TLS, with a certificate that no system trusts.
async fn refusing_with_tls() -> (String, Asked, JoinSet<()>) {
    let read = |name: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)).unwrap()
    };
    let certificate = CertificateDer::from_pem_slice(&read("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
            connections.spawn(async move {
                // Who does not trust the certificate hangs up.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request: hyper::Request<Incoming>| {
                    note(&seen, request.headers().get("authorization").map(|value| value.to_str().unwrap()));
                    let refused = hyper::Response::builder()
                        .status(403)
                        .body(Full::new(bytes::Bytes::from_static(REFUSAL.as_bytes())));
                    async { Ok::<_, std::convert::Infallible>(refused.unwrap()) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (url, asked, tasks)
}

/// A proxy that notes where its clients want to go, and lets none through.
async fn proxy() -> (String, Arc<Mutex<BTreeSet<String>>>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let wanted = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&wanted);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            if let Some(target) = head.strip_prefix("CONNECT ") {
                seen.lock().unwrap().insert(target.split(' ').next().unwrap().to_owned());
            }
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    (url, wanted, tasks)
}

/// `kinetide run` with this environment and nothing else of AWS; it ends, as nobody lets it in.
async fn run(home: &TempDir, env: &[(&str, &str)], more: &[&str]) -> Ran {
    let arguments =
        ["run", "--stream", "trades", "--lake", "s3://lake/raw", "--http", "127.0.0.1:0", "--worker-id", "w"];
    let mut command = command(&[&arguments[..], more].concat());
    command.env("HOME", home.path()).envs(env.iter().copied());
    let ran = finish(command.spawn().unwrap()).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    ran
}

/// The three clients of a start, all of the same key and region.
fn all_three(key: &str, region: &str) -> BTreeSet<(String, String, String)> {
    ["kinesis", "dynamodb", "s3"].map(|service| (key.into(), region.into(), service.into())).into()
}

/// A home with these files below `.aws`.
fn home(files: &[(&str, &str)]) -> TempDir {
    let home = TempDir::new().unwrap();
    for (name, text) in files {
        let path = home.path().join(".aws").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    home
}

/// Answers every request with this document.
async fn answering(body: String) -> Endpoint {
    serve(Router::new().fallback(move || async move { body })).await
}

const EXPIRES: &str = "2099-01-15T09:30:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn keys_region_and_endpoints_are_found_by_every_client() {
    let (server, asked) = refusing().await;
    let url = &server.url[..];
    let expect = |key: &str, region: &str| {
        assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), all_three(key, region));
    };
    let keys = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "eu-west-3")];

    // One variable for all, and one for each.
    run(&home(&[]), &[&keys[..], &[("AWS_ENDPOINT_URL", url)]].concat(), &[]).await;
    expect("AKENV", "eu-west-3");
    let each = ["KINESIS", "DYNAMODB", "S3"].map(|service| format!("AWS_ENDPOINT_URL_{service}"));
    let each: Vec<(&str, &str)> = each.iter().map(|name| (name.as_str(), url)).collect();
    run(&home(&[]), &[&keys[..], &each].concat(), &[]).await;
    expect("AKENV", "eu-west-3");
    // A flag wins.
    let flags = [
        "--kinesis-endpoint",
        url,
        "--dynamodb-endpoint",
        url,
        "--s3-endpoint",
        url,
        "--region",
        "us-west-2",
    ];
    run(&home(&[]), &[&keys[..], &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]].concat(), &flags).await;
    expect("AKENV", "us-west-2");

    // All of it in a profile.
    let config = format!("[profile prod]\nregion = eu-central-2\nendpoint_url = {url}\n");
    let credentials = "[prod]\naws_access_key_id = AKPROFILE\naws_secret_access_key = s\n";
    let files = home(&[("config", &config), ("credentials", credentials)]);
    run(&files, &[("AWS_PROFILE", "prod")], &[]).await;
    expect("AKPROFILE", "eu-central-2");

    // Keys from a program, endpoints from a section of services.
    let issued = format!(
        r#"{{"Version":1,"AccessKeyId":"AKPROCESS","SecretAccessKey":"s","SessionToken":"t","Expiration":"{EXPIRES}"}}"#
    );
    let services: String = ["kinesis", "dynamodb", "s3"]
        .iter()
        .map(|service| format!("{service} =\n  endpoint_url = {url}\n"))
        .collect();
    let config = format!(
        "[default]\nregion = ap-south-1\nservices = ours\ncredential_process = echo '{issued}'\n\n[services ours]\n{services}"
    );
    run(&home(&[("config", &config)]), &[], &[]).await;
    expect("AKPROCESS", "ap-south-1");

    // Nothing at all, for servers on this machine.
    run(&home(&[]), &[], &flags[..6]).await;
    let seen = std::mem::take(&mut *asked.lock().unwrap());
    assert!(seen.iter().all(|(key, ..)| key == "local") && seen.len() == 3, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_containers_pods_and_logins_count_for_every_client() {
    let (server, asked) = refusing().await;
    let expect = |key: &str| {
        assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), all_three(key, "eu-north-1"));
    };
    let common = [("AWS_REGION", "eu-north-1"), ("AWS_ENDPOINT_URL", &server.url[..])];

    let body = format!(
        r#"{{"AccessKeyId":"AKTASK","SecretAccessKey":"s","Token":"t","Expiration":"{EXPIRES}","RoleArn":"r"}}"#
    );
    let container = answering(body).await;
    let full = format!("{}/v2/credentials", container.url);
    let env = [&common[..], &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full)]].concat();
    run(&home(&[]), &env, &[]).await;
    expect("AKTASK");
    // Also where the servers are on this machine, given by flags.
    let flags: Vec<&str> = ["--kinesis-endpoint", "--dynamodb-endpoint", "--s3-endpoint"]
        .into_iter()
        .flat_map(|flag| [flag, &server.url])
        .collect();
    run(&home(&[]), &env, &flags).await;
    expect("AKTASK");

    let sts = answering(format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKPOD</AccessKeyId><SecretAccessKey>s\
         </SecretAccessKey><SessionToken>t</SessionToken><Expiration>{EXPIRES}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    ))
    .await;
    let files = home(&[("token", "a token")]);
    let token = files.path().join(".aws/token").display().to_string();
    let pod = [
        ("AWS_ENDPOINT_URL_STS", &sts.url[..]),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token),
        ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/kinetide"),
    ];
    run(&files, &[&common[..], &pod].concat(), &[]).await;
    expect("AKPOD");

    let portal = answering(
        r#"{"roleCredentials":{"accessKeyId":"AKSSO","secretAccessKey":"s","sessionToken":"t","expiration":4071000000000}}"#
            .to_owned(),
    )
    .await;
    let config = "[profile dev]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = Reader\n\n\
        [sso-session corp]\nsso_region = eu-north-1\nsso_start_url = https://corp.awsapps.com/start\n";
    let cached = format!(
        r#"{{"accessToken":"t","expiresAt":"{EXPIRES}","region":"eu-north-1","startUrl":"https://corp.awsapps.com/start"}}"#
    );
    // The name is the SHA-1 of "corp".
    let cache = "sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json";
    let login = [&common[..], &[("AWS_PROFILE", "dev"), ("AWS_ENDPOINT_URL_SSO", &portal.url)]].concat();
    run(&home(&[("config", config), (cache, &cached)]), &login, &[]).await;
    expect("AKSSO");
    // Not logged in: each of them says so.
    let ran = run(&home(&[("config", config)]), &login, &[]).await;
    assert_eq!(*asked.lock().unwrap(), BTreeSet::new());
    assert!(ran.err.contains("sso"), "{}", ran.err);
    let arguments = ["dead-letters", "count", "--lake", "s3://lake/raw"];
    let files = home(&[("config", config)]);
    let mut count = command(&arguments);
    count.env("HOME", files.path()).envs(login);
    finish(count.spawn().unwrap()).await.says(1, &["no AWS credentials", "aws sso login"]);
}

/// Hosts as AWS's own clients have them, seen by a proxy that all three use.
#[tokio::test(flavor = "multi_thread")]
async fn every_client_goes_to_the_host_of_the_partition_through_the_proxy() {
    let (proxy, wanted, _tasks) = proxy().await;
    let keys = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "s"), ("HTTPS_PROXY", &proxy[..])];
    let (fips, dual) = (("AWS_USE_FIPS_ENDPOINT", "true"), ("AWS_USE_DUALSTACK_ENDPOINT", "true"));
    let path = ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false");
    let ignored =
        [("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
    for (region, more, s3, kinesis) in [
        ("eu-north-1", &[][..], "lake.s3.eu-north-1.amazonaws.com", "kinesis.eu-north-1.amazonaws.com"),
        ("eu-north-1", &[path], "s3.eu-north-1.amazonaws.com", "kinesis.eu-north-1.amazonaws.com"),
        ("eu-north-1", &ignored, "lake.s3.eu-north-1.amazonaws.com", "kinesis.eu-north-1.amazonaws.com"),
        ("cn-north-1", &[], "lake.s3.cn-north-1.amazonaws.com.cn", "kinesis.cn-north-1.amazonaws.com.cn"),
        (
            "us-east-1",
            &[fips],
            "lake.s3-fips.us-east-1.amazonaws.com",
            "kinesis-fips.us-east-1.amazonaws.com",
        ),
        ("us-east-1", &[dual], "lake.s3.dualstack.us-east-1.amazonaws.com", "kinesis.us-east-1.api.aws"),
        ("eusc-de-east-1", &[], "lake.s3.eusc-de-east-1.amazonaws.eu", "kinesis.eusc-de-east-1.amazonaws.eu"),
    ] {
        let region = [("AWS_REGION", region)];
        run(&home(&[]), &[&keys[..], &region, more].concat(), &[]).await;
        let wanted = std::mem::take(&mut *wanted.lock().unwrap());
        for host in [s3, kinesis] {
            assert!(wanted.contains(&format!("{host}:443")), "{host}: {wanted:?}");
        }
        assert_eq!(wanted.len(), 3, "{wanted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_bundle_counts_for_every_client() {
    let (url, asked, _tasks) = refusing_with_tls().await;
    let env = [
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_REGION", "eu-north-1"),
        ("AWS_ENDPOINT_URL", &url[..]),
    ];
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/ca.pem");
    run(&home(&[]), &[&env[..], &[("AWS_CA_BUNDLE", bundle)]].concat(), &[]).await;
    assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), all_three("AK", "eu-north-1"));

    let count = async |more: &[(&str, &str)]| {
        let mut count = command(&["dead-letters", "count", "--lake", "s3://lake/raw"]);
        count.envs(env.iter().chain(more).copied());
        finish(count.spawn().unwrap()).await
    };
    count(&[]).await.says(1, &["UnknownIssuer", "AWS_CA_BUNDLE"]);
    let mut leases = command(&["leases", "--stream", "trades"]);
    leases.envs(env);
    finish(leases.spawn().unwrap()).await.says(1, &["UnknownIssuer", "set AWS_CA_BUNDLE"]);
    let nowhere = [("AWS_CA_BUNDLE", "/nowhere/ca.pem")];
    let ran = count(&nowhere).await;
    ran.says(2, &["AWS_CA_BUNDLE /nowhere/ca.pem", "No such file"]);
    let ran = run(&home(&[]), &[&env[..], &nowhere].concat(), &[]).await;
    assert!(ran.err.contains("AWS_CA_BUNDLE /nowhere/ca.pem"), "{}", ran.err);

    // A provider of prices is asked by a client that trusts the same certificates.
    let lake = TempDir::new().unwrap();
    let lake = lake.path().display().to_string();
    let mut snapshot =
        command(&["snapshot", "--provider", "coingecko", "--once", "--lake", &lake, "--endpoint", &url]);
    snapshot.env("AWS_CA_BUNDLE", bundle);
    finish(snapshot.spawn().unwrap()).await.says(1, &["http_403"]);
    assert_eq!(*asked.lock().unwrap(), BTreeSet::new());
}
