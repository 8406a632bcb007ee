//! The form of every error, and the ids by which one request is found again.

use crank_agent::ca::{PROBLEM_PREFIX, PROBLEM_TYPES, ROUTES};
use crank_agent::trace_context::TraceContext;
use reqwest::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use super::harness::{TestCa, client_config, client_with_config, identity, key_and_csr};
use super::process::{Directory, Process};

/// The body of an error that has the form of every error; `kind` is the last part of its type.
async fn problem(response: Response, kind: &str) -> Value {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let body: Value = response.json().await.unwrap();
    let known = PROBLEM_TYPES.iter().find(|known| known.kind == kind).unwrap();
    assert_eq!(headers[CONTENT_TYPE], "application/problem+json", "{body}");
    assert_eq!(body["type"], format!("{PROBLEM_PREFIX}{kind}"), "{body}");
    assert_eq!((status, body["status"].as_u64()), (known.status, Some(known.status.into())), "{body}");
    assert_eq!(body["title"], known.title);
    assert!(!body["detail"].as_str().unwrap().is_empty());
    let correlation_id = headers["x-correlation-id"].to_str().unwrap();
    assert_eq!(body["correlation_id"], correlation_id);
    assert_eq!(body["instance"], format!("urn:crank-ca:request:{correlation_id}"));
    assert_eq!(headers.contains_key(WWW_AUTHENTICATE), status == 401, "{body}");
    body
}

async fn send(ca: &TestCa, client: &Client, method: Method, path: &str) -> Response {
    client.request(method, ca.url(path)).send().await.unwrap()
}

#[tokio::test]
async fn every_route_answers_what_it_does_not_take_with_a_problem() {
    let ca = TestCa::start().await;
    let client = ca.client();
    problem(send(&ca, &client, Method::GET, "/nope").await, "not_found").await;
    for route in ROUTES {
        let path = route.path.replace("{serial}", "4a:3b");
        let response = send(&ca, &client, Method::PATCH, &path).await;
        assert!(response.headers()[ALLOW].to_str().unwrap().contains(route.method), "{path}");
        problem(response, "method_not_allowed").await;
        // Routes that take a body take no more than 64 KiB of it, or look at none.
        let large = client.request(route.method.parse().unwrap(), ca.url(&path)).body("x".repeat(100_000));
        if let Ok(response) = large.send().await
            && !response.status().is_success()
        {
            let kind = match response.status().as_u16() {
                401 => "unauthenticated",
                403 => "forbidden",
                410 => "gone",
                413 => "too_large",
                415 => "unsupported_media_type",
                501 => "not_implemented",
                status => panic!("{path}: {status}"),
            };
            problem(response, kind).await;
        }
    }
}

#[tokio::test]
async fn a_refusal_tells_its_kind() {
    let ca = TestCa::start().await;
    let client = ca.client();
    let token = ca.token("streaming", &[]).await;
    let (_, csr) = key_and_csr(&identity("streaming", &[]));
    let (_, foreign) = key_and_csr(&identity("streaming", &["other.example"]));
    for (kind, authorization, worker, csr) in [
        ("no_credential", None, "streaming", &csr),
        ("malformed_credential", Some("Digest x".to_owned()), "streaming", &csr),
        ("token_unknown", Some("Bearer x".to_owned()), "streaming", &csr),
        ("other_worker", Some(format!("Bearer {token}")), "other", &csr),
        ("names_not_permitted", Some(format!("Bearer {token}")), "streaming", &foreign),
        ("csr_malformed", Some(format!("Bearer {token}")), "streaming", &"x".to_owned()),
    ] {
        let body = json!({ "csr": csr, "service_name": worker }).to_string();
        let mut request = client.post(ca.url("/certificates/csr")).body(body);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        problem(request.send().await.unwrap(), kind).await;
    }
    let request = client.post(ca.url("/certificates/csr")).bearer_auth(&token).body("[]");
    problem(request.send().await.unwrap(), "body").await;
    assert_eq!(ca.issued().await, 0);
}

#[tokio::test]
async fn a_request_that_is_too_slow_gets_a_problem_too() {
    let ca = TestCa::start_with(|config| config.deadlines.request = std::time::Duration::from_millis(300)).await;
    let never = nothing_ever();
    let request = ca.client().post(ca.url("/certificates/csr")).body(never);
    problem(request.send().await.unwrap(), "request_timeout").await;
}

/// A body of which nothing ever comes.
fn nothing_ever() -> reqwest::Body {
    struct Never;
    impl hyper::body::Body for Never {
        type Data = hyper::body::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            std::task::Poll::Pending
        }
    }
    reqwest::Body::wrap(Never)
}

#[tokio::test]
async fn the_trace_of_a_request_is_in_its_audit_line_unless_it_is_malformed() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let client = client_with_config(client_config(&directory.root_pem(), None));
    let sent = "4bf92f3577b34da6a3ce929d0e0e4736";
    let own = TraceContext::of_request("req-7").trace_id();
    for (traceparents, expected) in [
        (vec![format!("00-{sent}-00f067aa0ba902b7-01")], sent),
        (vec![format!("00-{sent}-00f067aa0ba902b7-01"); 2], own.as_str()),
        (vec![format!("00-{}-00f067aa0ba902b7-01", sent.to_uppercase())], &own),
        (vec![], &own),
    ] {
        let url = format!("https://localhost:{}/certificates/csr", process.port);
        let mut request = client.post(url).header("x-correlation-id", "req-7").body("{}");
        for traceparent in &traceparents {
            request = request.header("traceparent", traceparent);
        }
        assert_eq!(request.send().await.unwrap().status(), 401);
        let line = loop {
            let line = process.log.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["target"] == "crank::audit" {
                break line;
            }
        };
        assert_eq!(
            (&line["trace_id"], &line["correlation_id"]),
            (&expected.into(), &"req-7".into()),
            "{traceparents:?}"
        );
    }
}
