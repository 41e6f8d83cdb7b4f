//! The console: a page at `/` that shows people how the fleet is, whichever worker they ask.
//!
//! Owns: the files of the page and the headers that they are served with.
//! Does not own: what it shows: the page asks `/api/leases`, `/api/status` and `/api/history` for that.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, content type and text of each file.
const FILES: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("index.html")),
    ("/console/style.css", CSS, include_str!("style.css")),
    ("/console/icon.svg", SVG, include_str!("icon.svg")),
    ("/console/app.js", SCRIPT, include_str!("app.js")),
    ("/console/model.js", SCRIPT, include_str!("model.js")),
    ("/console/chart.js", SCRIPT, include_str!("chart.js")),
    ("/console/format.js", SCRIPT, include_str!("format.js")),
];

/// Nothing from other places, nothing inline, in no frame: text that comes from data cannot become more than text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// After an upgrade of the worker a browser must not go on with the files of before.
const HEADERS: [(HeaderName, &str); 4] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-cache"),
];

/// The routes of the page.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    (HEADERS, [(CONTENT_TYPE, kind)], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        FILES.iter().find(|(served, ..)| *served == path).unwrap_or_else(|| panic!("{path} is not served")).2
    }

    #[test]
    fn every_file_that_the_page_names_is_served_and_is_ours() {
        let mut named = 0;
        for (path, _, content) in FILES {
            for part in content.split(['"', '\'']).filter(|part| part.starts_with("/console/")) {
                text(part);
                named += 1;
            }
            for part in content.split('"').filter(|part| part.starts_with("./")) {
                text(&part.replacen("./", "/console/", 1));
                named += 1;
            }
            let foreign = [
                "src=\"http",
                "url(http",
                "@import",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
            ];
            for word in foreign {
                assert!(!content.contains(word), "{path} has {word}");
            }
        }
        assert!(named >= 7, "{named}");
    }

    #[test]
    fn each_file_comes_with_the_policy() {
        for (path, kind, text) in FILES {
            let response = file(kind, text).into_response();
            assert_eq!(response.headers()[CONTENT_TYPE], kind, "{path}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-cache", "{path}");
            let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(
                policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe")
            );
            assert!(!policy.contains("  "), "{policy}");
        }
    }

    #[test]
    fn nothing_of_the_page_is_inline() {
        let page = text("/");
        assert!(!page.contains(" style=") && !page.contains("<style") && !page.contains(" onclick="));
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script type=\"module\" src=\"/console/").count()
        );
    }
}
