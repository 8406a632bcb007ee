//! Two replicas of a CA on one `PostgreSQL`, under the load of real agents, while replicas and database are killed.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crank_agent::ca::{Database, PostgresServer, Tokens};
use crank_agent::clock::SystemClock;
use crank_agent::identity::WorkerId;
use crank_agent::store::read_bundle;

use crate::postgres::Postgres;
use crate::processes::{Ca, Worker, renew_until, until};

/// How many workers enrol, each with a token of its own.
const WORKERS: usize = 64;

/// How many tokens two workers fight for.
const CONTESTED: usize = 8;

/// How many enrol at a time.
const AT_ONCE: usize = 6;

#[test]
#[ignore = "needs postgres"]
fn replicas_lose_and_double_nothing_while_they_and_their_database_are_killed() {
    let mut database = Postgres::start();
    database.create_database("mesh");
    let url = database.url("mesh");
    let mut first = Ca::on_database("60s", &url);
    let mut second = first.replica();
    first.restart();
    second.restart();
    let balancer = Balancer::start(vec![first.address, second.address]);
    let tokens = tokens(&first, &url, WORKERS + CONTESTED);
    let worker = |name: &str, token: &str| {
        let worker = Worker::at(name, &balancer.url(), &first.root_file());
        worker.write_token(token);
        worker
    };

    // One that lives through all of it, renewing by its certificate.
    let steady = worker("worker-0", &tokens[0]);
    let mut agent = steady.start();
    agent.event("CERT_ISSUED", 1);

    let mut workers: Vec<Worker> = (1..WORKERS).map(|number| worker(&name(number), &tokens[number])).collect();
    for (number, token) in tokens.iter().enumerate().skip(WORKERS) {
        workers.extend([worker(&name(number), token), worker(&name(number), token)]);
    }
    let done = AtomicUsize::new(0);
    let next = AtomicUsize::new(0);
    let ends: Mutex<Vec<(usize, ExitStatus)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((number, worker)) = workers.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed))
                {
                    let output = worker.run_once(&["init"]);
                    ends.lock().unwrap().push((number, output.status));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let reached = |part: usize| {
            until("the load goes on", || (done.load(Ordering::Relaxed) >= workers.len() * part / 6).then_some(()));
        };
        reached(1);
        first.kill();
        reached(2);
        first.restart();
        database.kill();
        database.resume();
        reached(3);
        second.kill();
        database.kill();
        database.resume();
        second.restart();
        reached(4);
        first.kill();
        first.restart();
    });

    let ends = ends.into_inner().unwrap();
    let succeeded = |number: usize| ends.iter().any(|(of, status)| *of == number && status.success());
    for (number, worker) in workers.iter().enumerate().take(WORKERS - 1) {
        assert!(succeeded(number), "worker {number} did not get its certificate: {:?}", worker.run_once(&["init"]));
    }
    for pair in 0..CONTESTED {
        let one = WORKERS - 1 + 2 * pair;
        let winners = [one, one + 1].into_iter().filter(|number| succeeded(*number)).count();
        assert_eq!(winners, 1, "token {pair}");
    }

    // The steady one has not died, and renews again.
    assert!(agent.is_running());
    let before = steady.serial().unwrap();
    until("the steady worker renews", || renew_until(&steady, |serial| serial != before).ok());

    // What anybody has is in the record, as it is.
    for worker in workers.iter().chain([&steady]) {
        let Ok(bundle) = read_bundle(&worker.certificates()) else { continue };
        let hex = bundle.chain()[0].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let query = format!(
            "SELECT count(*) FROM certificates WHERE serial = '{}' AND status = 'issued' AND encode(der, 'hex') = '{hex}'",
            bundle.serial()
        );
        assert_eq!(database.psql("mesh", &query), (true, "1".to_owned()), "{}", bundle.serial());
    }
    let issued_twice = "SELECT credential FROM certificates WHERE authentication = 'token' AND status = 'issued' \
                        GROUP BY credential HAVING count(*) > 1";
    assert_eq!(database.psql("mesh", issued_twice), (true, String::new()));
    let used_twice =
        "SELECT used_serial FROM tokens WHERE used_at IS NOT NULL GROUP BY used_serial HAVING count(*) > 1";
    assert_eq!(database.psql("mesh", used_twice), (true, String::new()));
    let used = "SELECT count(*) FROM tokens WHERE used_at IS NOT NULL";
    assert_eq!(database.psql("mesh", used), (true, (WORKERS + CONTESTED).to_string()));
}

fn name(number: usize) -> String {
    format!("worker-{number}")
}

/// Tokens for the workers of the first numbers, by way of the library.
fn tokens(ca: &Ca, url: &str, count: usize) -> Vec<String> {
    let server = PostgresServer { url: url.to_owned(), password_file: None, root_file: None, max_connections: 2 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let database = Database::Postgres(server);
        let tokens = Tokens::open(&ca.data_directory(), &database, Arc::new(SystemClock)).await.unwrap();
        let mut made = Vec::new();
        for number in 0..count {
            let worker = WorkerId::new(&name(number)).unwrap();
            let token = tokens.create(worker, Duration::from_mins(10), []).await.unwrap();
            made.push(token.secret.expose().to_owned());
        }
        tokens.close().await;
        made
    })
}

/// What stands in front of replicas: each connection goes to the next one that accepts.
struct Balancer {
    address: SocketAddr,
}

impl Balancer {
    fn start(replicas: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (turn, client) in listener.incoming().map_while(Result::ok).enumerate() {
                let order = replicas.iter().cycle().skip(turn % replicas.len()).take(replicas.len());
                let Some(replica) = order.into_iter().find_map(|replica| TcpStream::connect(replica).ok()) else {
                    continue;
                };
                let pairs = [(client.try_clone(), replica.try_clone()), (Ok(replica), Ok(client))];
                for (from, to) in pairs {
                    let (Ok(mut from), Ok(mut to)) = (from, to) else { continue };
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self { address }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}
