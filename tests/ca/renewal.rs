//! Renewal information: what it says, who may ask, how long it waits, and what it costs.

use std::time::{Duration, Instant};

use crank_agent::ca::{Admins, DRAIN_DEADLINE, Database, Selector, Tokens};
use crank_agent::clock::SystemClock;
use crank_agent::identity::WorkerId;
use reqwest::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, RETRY_AFTER};
use reqwest::{Client, Response};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::credentials::join_all;
use super::crl::fetch;
use super::harness::{TestCa, client_config, client_with_config, eventually, eventually_within, identity, key_and_csr};
use super::process::{Directory, Process, crank_ca, text};

/// An answer that was given.
struct Told {
    status: u16,
    etag: String,
    retry_after: u64,
    applied: Option<String>,
    body: Value,
}

impl Told {
    async fn of(response: Response) -> Self {
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (etag, retry_after) = (header("etag").unwrap_or_default(), header("retry-after").unwrap_or_default());
        Self {
            status: response.status().as_u16(),
            etag,
            retry_after: retry_after.parse().unwrap_or(0),
            applied: header("preference-applied"),
            body: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null),
        }
    }

    fn window(&self) -> (OffsetDateTime, OffsetDateTime) {
        let time = |name: &str| {
            let text = self.body["suggestedWindow"][name].as_str().unwrap();
            OffsetDateTime::parse(text, &Rfc3339).unwrap()
        };
        (time("start"), time("end"))
    }
}

async fn ask(client: &Client, url: &str, serial: &str) -> Told {
    Told::of(client.get(format!("{url}/certificates/{serial}/renewal-info")).send().await.unwrap()).await
}

async fn wait(client: &Client, url: &str, serial: &str, tag: &str, seconds: u64) -> Told {
    let request = client.get(format!("{url}/certificates/{serial}/renewal-info"));
    let request = request.header(IF_NONE_MATCH, tag).header("prefer", format!("wait={seconds}"));
    Told::of(request.send().await.unwrap()).await
}

/// Times on record are whole seconds.
async fn next_second() {
    let begun = OffsetDateTime::now_utc().unix_timestamp();
    eventually("the next second", || async { OffsetDateTime::now_utc().unix_timestamp() > begun }).await;
}

/// Until so many wait.
async fn waiting(ca: &TestCa, count: usize) {
    eventually("all of them wait", || async { ca.running.manager().waiting_count() == count }).await;
}

#[tokio::test]
async fn without_order_the_window_is_the_last_part_of_the_life() {
    let ca = TestCa::start_with(|config| config.lifetime = Duration::from_hours(10)).await;
    let worker = ca.worker("streaming").await;
    let told = ask(&worker.client, &ca.url(""), &worker.serial).await;
    let now = OffsetDateTime::now_utc();
    assert_eq!(told.status, 200, "{}", told.body);
    let (start, end) = told.window();
    let hours = time::Duration::hours;
    assert!(start > now + hours(6) && start < now + hours(7) + hours(1) / 2 && end > start && end < now + hours(9));
    assert_eq!((&told.body["serial"], &told.body["revoked"]), (&worker.serial.clone().into(), &Value::Null));
    assert_eq!(told.body["roots"], serde_json::json!([ca.running.root_fingerprint()]));
    let crl = fetch(&ca.client(), &ca.url("")).await;
    assert_eq!(
        (&told.body["crl"]["etag"], &told.body["crl"]["number"]),
        (&crl.etag.clone().into(), &crl.number().into())
    );
    assert!((60..=6 * 3600).contains(&told.retry_after));
    assert!(told.body.get("explanationURL").is_none());

    // The same while nothing happens, also by the clock.
    next_second().await;
    let again = ask(&worker.client, &ca.url(""), &worker.serial.replace(':', "")).await;
    assert_eq!((again.status, &again.etag, &again.body), (200, &told.etag, &told.body));
    let request = worker.client.get(ca.url(&format!("/certificates/{}/renewal-info", worker.serial)));
    let response = request.header(IF_NONE_MATCH, &told.etag).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()[ETAG].to_str().unwrap()), (304, &*told.etag));
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    assert!(response.headers().contains_key(RETRY_AFTER));
}

#[tokio::test]
async fn only_the_certificate_itself_and_admins_are_told() {
    let ca = TestCa::start_with(|config| config.revocation.admins = Admins::new(&["ops"]).unwrap()).await;
    let (worker, same) = (ca.worker("streaming").await, ca.worker("streaming").await);
    let admin = ca.worker("ops").await;
    assert_eq!(ask(&ca.client(), &ca.url(""), &worker.serial).await.status, 401);
    assert_eq!(ask(&same.client, &ca.url(""), &worker.serial).await.status, 403);
    assert_eq!(ask(&same.client, &ca.url(""), "41:02").await.status, 403);
    assert_eq!(ask(&admin.client, &ca.url(""), &worker.serial).await.body["serial"], worker.serial);
    assert_eq!(ask(&admin.client, &ca.url(""), "41:02").await.status, 404);
    assert_eq!(ca.revoke(&admin.client, &admin.serial, "").await.status, 200);
    assert_eq!(ask(&admin.client, &ca.url(""), &worker.serial).await.status, 403);
    assert_eq!(ask(&admin.client, &ca.url(""), &admin.serial).await.body["revoked"]["reason"], "unspecified");
}

#[tokio::test]
async fn a_waiting_worker_hears_at_once_that_it_is_revoked_and_can_ask_again() {
    let ca = TestCa::start().await;
    let (worker, other) = (ca.worker("streaming").await, ca.worker("streaming").await);
    let known = ask(&worker.client, &ca.url(""), &worker.serial).await;
    let url = ca.url("");
    let long_poll = wait(&worker.client, &url, &worker.serial, &known.etag, 60);
    let revoking = async {
        waiting(&ca, 1).await;
        let begun = Instant::now();
        let reply = ca.revoke(&other.client, &worker.serial, r#"{"reason":"keyCompromise"}"#).await;
        assert_eq!(reply.status, 200);
        (begun, begun.elapsed())
    };
    let (told, (begun, answered)) = tokio::join!(long_poll, revoking);
    let took = begun.elapsed();
    assert_eq!((told.status, told.applied.as_deref()), (200, Some("wait=60")));
    assert_eq!(told.body["revoked"]["reason"], "keyCompromise");
    assert!(told.window().1 < OffsetDateTime::now_utc());
    println!("told {took:?} after the revocation was asked for");
    // Not by the next look, which may take a second.
    assert!(took < answered + Duration::from_millis(500), "{took:?}, with the answer to the revocation {answered:?}");
    // The handshake of a new connection too.
    let again = ask(&ca.client_as(worker.chain.clone(), &worker.key), &url, &worker.serial).await;
    assert_eq!((again.status, &again.body["revoked"]), (200, &told.body["revoked"]));
}

#[tokio::test]
async fn everybody_who_waits_is_told_of_a_new_crl() {
    let ca = TestCa::start().await;
    let (worker, other) = (ca.worker("streaming").await, ca.worker("other").await);
    let known = ask(&worker.client, &ca.url(""), &worker.serial).await;
    let url = ca.url("");
    let revoking = async {
        waiting(&ca, 1).await;
        assert_eq!(ca.revoke(&other.client, &other.serial, "").await.status, 200);
    };
    let (told, ()) = tokio::join!(wait(&worker.client, &url, &worker.serial, &known.etag, 60), revoking);
    let crl = fetch(&ca.client(), &url).await;
    assert_eq!((told.status, &told.body["crl"]["etag"]), (200, &crl.etag.clone().into()));
    assert_eq!((super::crl::serials(&crl.der), &told.body["revoked"]), (vec![other.serial], &Value::Null));
}

#[tokio::test]
async fn a_wait_without_news_ends_with_304_and_one_with_old_news_at_once() {
    let ca = TestCa::start_with(|config| config.deadlines.request = Duration::from_millis(300)).await;
    let worker = ca.worker("streaming").await;
    let url = ca.url("");
    let known = ask(&worker.client, &url, &worker.serial).await;
    let begun = Instant::now();
    let told = wait(&worker.client, &url, &worker.serial, &known.etag, 2).await;
    assert_eq!((told.status, told.applied.as_deref(), &told.etag), (304, Some("wait=2"), &known.etag));
    assert!(begun.elapsed() >= Duration::from_secs(2));
    let told = wait(&worker.client, &url, &worker.serial, "\"old\"", 60).await;
    assert_eq!((told.status, told.applied), (200, None));
    waiting(&ca, 0).await;
}

#[tokio::test]
async fn an_order_is_pushed_spread_and_taken_back() {
    let ca = TestCa::start().await;
    let (mine, other) = (ca.worker("payments-1").await, ca.worker("billing-1").await);
    let url = ca.url("");
    let known = ask(&mine.client, &url, &mine.serial).await;
    let of_other = ask(&other.client, &url, &other.serial).await;
    let orders = ca.running.manager().renewal_orders();
    let selector: Selector = "worker=payments-*".parse().unwrap();
    let placing = async {
        waiting(&ca, 1).await;
        orders.place(selector, None, Duration::from_hours(1), "a new\nroot").await.unwrap()
    };
    let (told, placed) = tokio::join!(wait(&mine.client, &url, &mine.serial, &known.etag, 60), placing);
    assert_eq!(placed.certificates, 1);
    assert_eq!((told.status, told.body["explanation"].as_str()), (200, Some("a new\\nroot")));
    let (start, end) = told.window();
    let now = OffsetDateTime::now_utc();
    assert!(start > now - time::Duration::MINUTE && end < now + time::Duration::HOUR + time::Duration::MINUTE);
    assert_eq!(ask(&other.client, &url, &other.serial).await.etag, of_other.etag);

    // Whoever has renewed is done with it.
    let (key, csr) = key_and_csr(&identity("payments-1", &[]));
    next_second().await;
    let chain = ca.enrol(&mine.client, None, "payments-1", &csr).await.chain();
    let serial = super::harness::serial_of(&chain[0]);
    let renewed = ask(&ca.client_as(chain, &key), &url, &serial).await;
    assert!(renewed.window().0 > now + time::Duration::days(300), "{}", renewed.body);

    assert!(orders.cancel(&placed.order.id).await.unwrap() && !orders.cancel(&placed.order.id).await.unwrap());
    eventually("the order is gone", || async { ask(&mine.client, &url, &mine.serial).await.body == known.body }).await;
}

#[tokio::test]
async fn places_to_wait_are_bounded_and_whoever_gets_none_is_answered_at_once() {
    let ca = TestCa::start_with(|config| {
        config.max_connections = 20;
        config.revocation.max_waiting = Some(4);
    })
    .await;
    let url = ca.url("");
    let mut workers = Vec::new();
    for id in 0..3 {
        workers.push(ca.worker(&format!("worker-{id}")).await);
    }
    let known = ask(&workers[0].client, &url, &workers[0].serial).await;
    // One certificate gets three.
    let polls = (0..5).map(|_| wait(&workers[0].client, &url, &workers[0].serial, &known.etag, 8));
    let polling = join_all(polls);
    let rest = async {
        waiting(&ca, 3).await;
        let second = ask(&workers[1].client, &url, &workers[1].serial).await;
        let (fourth, last) = tokio::join!(wait(&workers[1].client, &url, &workers[1].serial, &second.etag, 8), async {
            waiting(&ca, 4).await;
            let third = ask(&workers[2].client, &url, &workers[2].serial).await;
            let begun = Instant::now();
            let told = wait(&workers[2].client, &url, &workers[2].serial, &third.etag, 8).await;
            assert!(begun.elapsed() < Duration::from_secs(4));
            told
        });
        assert_eq!((fourth.status, fourth.applied.is_some()), (304, true));
        assert_eq!((last.status, last.applied, last.retry_after), (304, None, 60));
    };
    let (told, ()) = tokio::join!(polling, rest);
    let waited = told.iter().filter(|told| told.applied.is_some()).count();
    assert_eq!((told.iter().all(|told| told.status == 304), waited), (true, 3));
    waiting(&ca, 0).await;
}

#[tokio::test]
async fn whoever_hangs_up_leaves_his_place_and_a_stop_answers_the_others() {
    let ca = TestCa::start().await;
    let url = ca.url("");
    let (first, second) = (ca.worker("a").await, ca.worker("b").await);
    let tags = [&first, &second].into_iter().map(|worker| ask(&worker.client, &url, &worker.serial));
    let tags = join_all(tags).await;
    let mut gone = Box::pin(wait(&first.client, &url, &first.serial, &tags[0].etag, 300));
    let staying = wait(&second.client, &url, &second.serial, &tags[1].etag, 300);
    let ending = async {
        tokio::select! {
            _ = gone.as_mut() => panic!("nothing has happened"),
            () = waiting(&ca, 2) => {}
        }
        drop(gone);
        waiting(&ca, 1).await;
        ca.cancel.cancel();
        Instant::now()
    };
    let (told, cancelled) = tokio::join!(staying, ending);
    assert_eq!(told.status, 304);
    assert!(cancelled.elapsed() < DRAIN_DEADLINE, "{:?}", cancelled.elapsed());
    tokio::time::timeout(Duration::from_secs(5), ca.running.stopped()).await.expect("stops in time").unwrap();
}

#[tokio::test]
async fn a_wait_ends_with_its_connection_and_not_later() {
    let ca = TestCa::start_with(|config| config.deadlines.connection = Duration::from_secs(3)).await;
    let worker = ca.worker("streaming").await;
    let url = ca.url("");
    let client = ca.client_as(worker.chain.clone(), &worker.key);
    let known = ask(&client, &url, &worker.serial).await;
    let told = wait(&client, &url, &worker.serial, &known.etag, 300).await;
    assert_eq!((told.status, told.applied.as_deref()), (304, Some("wait=300")));
}

#[tokio::test]
async fn an_order_by_command_reaches_a_serving_process_within_a_second() {
    let directory = Directory::with_ca();
    let process = Process::start(&directory);
    let anyone = client_with_config(client_config(&directory.root_pem(), None));
    let (key, csr) = key_and_csr(&identity("streaming", &[]));
    let chain = process.enrol(&anyone, Some(&directory.token("streaming")), &csr).await.chain();
    let serial = super::harness::serial_of(&chain[0]);
    let client = client_with_config(client_config(&directory.root_pem(), Some((chain, key.to_rustls()))));
    let url = format!("https://localhost:{}", process.port);
    let known = ask(&client, &url, &serial).await;
    let data = directory.data();
    let rotate = |arguments: &[&str]| crank_ca(&[&["rotate", "--data-dir", &data], arguments].concat());
    let order = ["--match", "worker=str*", "--within", "1h", "--explanation", "maintenance"];
    let placing = tokio::task::spawn_blocking({
        let data = data.clone();
        move || {
            let begun = Instant::now();
            let output = crank_ca(&[&["rotate", "--data-dir", &data], &order[..]].concat());
            (output, begun.elapsed(), Instant::now())
        }
    });
    let (told, placed) = tokio::join!(wait(&client, &url, &serial, &known.etag, 30), placing);
    let (output, command, placed) = placed.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    // A look each second, and the time in which this machine does something at the moment.
    assert!(placed.elapsed() < Duration::from_secs(1) + command, "{:?}, the command {command:?}", placed.elapsed());
    assert_eq!((told.status, &told.body["explanation"]), (200, &"maintenance".into()));
    let said = text(&output.stdout);
    assert!(said.starts_with("order ord_") && said.contains(": 1 certificate to renew from "), "{said}");

    let list = text(&rotate(&["--list"]).stdout);
    let id = said.split([' ', ':']).nth(1).unwrap();
    assert!(list.contains(id) && list.contains("in force") && list.contains("worker=str*"), "{list}");
    assert_eq!(rotate(&["--cancel", id]).status.code(), Some(0));
    assert_eq!(rotate(&["--cancel", id]).status.code(), Some(78));
    let all = rotate(&["--all", "--within", "1h", "--start", "2126-01-01T00:00:00Z", "--explanation", "x"]);
    assert!(text(&all.stderr).contains("within a year"), "{}", text(&all.stderr));
    for (bad, code) in [
        (&["--match", "worker=other", "--within", "1h", "--explanation", "x"][..], 78),
        (&["--match", "color=red", "--within", "1h", "--explanation", "x"], 78),
        (&["--all", "--within", "91d", "--explanation", "x"], 78),
        (&["--all", "--within", "1h"], 2),
        (&["--all", "--explanation", "x"], 2),
        (&["--all", "--match", "worker=a", "--within", "1h", "--explanation", "x"], 2),
        (&["--all", "--within", "1h", "--explanation", "x", "--start", "tomorrow"], 2),
        (&[], 2),
    ] {
        assert_eq!(rotate(bad).status.code(), Some(code), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn five_thousand_wait_in_little_memory() {
    const CONNECTIONS: usize = 5_000;
    let directory = Directory::with_ca();
    // Half of all connections are for one source, three quarters of all may wait.
    let process = Process::start_under(&["env", "CRANK_CA_MAX_CONNECTIONS=12000"], &directory);
    let of_process = |name: &str| format!("/proc/{}/{name}", process.pid());
    let memory = || {
        let status = std::fs::read_to_string(of_process("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let files = || std::fs::read_dir(of_process("fd")).unwrap().count();
    let data = directory.path("ca");
    let tokens = Tokens::open(&data, &Database::Sqlite, std::sync::Arc::new(SystemClock)).await.unwrap();
    let anyone = client_with_config(client_config(&directory.root_pem(), None));
    let url = format!("https://localhost:{}", process.port);
    let mut polls = tokio::task::JoinSet::new();
    let before = memory();
    // Three to a certificate are all that may wait, so a third of them enrols.
    let mut open = 0;
    while open < CONNECTIONS {
        let (key, csr) = key_and_csr(&identity("streaming", &[]));
        let worker = WorkerId::new("streaming").unwrap();
        let token = tokens.create(worker, Duration::from_mins(10), []).await.unwrap();
        let chain = process.enrol(&anyone, Some(token.secret.expose()), &csr).await.chain();
        let serial = super::harness::serial_of(&chain[0]);
        let config = client_config(&directory.root_pem(), Some((chain, key.to_rustls())));
        for _ in 0..3 {
            // More patient than the others' clients: the first waits until the last is there.
            let client = Client::builder().tls_backend_preconfigured(config.clone()).no_proxy().build().unwrap();
            let (url, serial) = (url.clone(), serial.clone());
            polls.spawn(async move {
                let known = ask(&client, &url, &serial).await;
                wait(&client, &url, &serial, &known.etag, 300).await
            });
            open += 1;
        }
    }
    eventually_within(Duration::from_mins(3), "all are connected", || async { files() >= CONNECTIONS }).await;
    let during = memory();
    println!(
        "{} KiB before, {} KiB with {CONNECTIONS} waiting: {} KiB each",
        before,
        during,
        (during - before) / CONNECTIONS as u64
    );
    // TLS with its buffers, a task, and what the allocator keeps beside them, in a build that is not optimised.
    assert!((during - before) / (CONNECTIONS as u64) < 96, "{before} KiB, {during} KiB");
    let told = Instant::now();
    let output =
        crank_ca(&["rotate", "--data-dir", &directory.data(), "--all", "--within", "1h", "--explanation", "x"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let ordered = Instant::now();
    while let Some(answer) = polls.join_next().await {
        assert_eq!(answer.unwrap().body["explanation"], "x");
    }
    println!("ordered in {:?}, all told {:?} later; {} KiB", ordered - told, ordered.elapsed(), memory());
}
