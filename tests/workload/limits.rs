//! What no caller can do: take all places, hold up a rotation, or fill the memory.

use std::io::{Read, Write};

use crank_agent::store::read_bundle;
use crank_agent::workload::{CALL_LIMIT, CONNECTION_LIMIT};
use tokio::net::UnixStream;

use crate::caller::{Caller, METADATA, SVID};
use crate::processes::Ca;
use crate::{eventually, renew, running, socket};

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_up_nothing_and_then_has_the_newest() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let stream = UnixStream::connect(socket(&worker)).await.unwrap();
    let mut slow = Caller::over(stream, 64).await;
    let mut unread = slow.call(SVID, &[METADATA]).await.unwrap();
    let mut other = Caller::connect(&socket(&worker)).await.call(SVID, &[METADATA]).await.unwrap();
    for _ in 0..6 {
        other.message_with(&read_bundle(&worker.certificates()).unwrap()).await;
        renew(&worker);
    }
    let before = unread.message_with(&read_bundle(&worker.certificates()).unwrap()).await;
    // The one that was on its way, and one that was new before the last rotation had been told.
    assert!(before <= 2, "{before} old ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room_and_busy_ones_do_not() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let bundle = read_bundle(&worker.certificates()).unwrap();
    let path = socket(&worker);
    let mut idle = Vec::new();
    for _ in 0..CONNECTION_LIMIT {
        idle.push(Caller::connect(&path).await);
    }
    let mut busy = Vec::new();
    for _ in 0..CONNECTION_LIMIT {
        let mut caller = Caller::connect(&path).await;
        let mut stream = caller.call(SVID, &[METADATA]).await.unwrap();
        stream.message_with(&bundle).await;
        busy.push((caller, stream));
    }
    let mut one_more = Caller::connect(&path).await;
    assert!(one_more.call(SVID, &[METADATA]).await.is_err());
    renew(&worker);
    let bundle = read_bundle(&worker.certificates()).unwrap();
    for (_, stream) in &mut busy {
        stream.message_with(&bundle).await;
    }
    busy.pop();
    eventually("the agent has seen one go", async || {
        let mut caller = Caller::connect(&path).await;
        let mut stream = caller.call(SVID, &[METADATA]).await.ok()?;
        stream.message_with(&bundle).await;
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_limited_over_all_connections() {
    let ca = Ca::start("1h");
    let (worker, _agent) = running(&ca, |worker| worker);
    let bundle = read_bundle(&worker.certificates()).unwrap();
    let mut callers = Vec::new();
    for _ in 0..8 {
        callers.push(Caller::connect(&socket(&worker)).await);
    }
    let mut streams = Vec::new();
    for number in 0..CALL_LIMIT {
        let mut stream = callers[number % 8].call(SVID, &[METADATA]).await.unwrap();
        stream.message_with(&bundle).await;
        streams.push(stream);
    }
    let (status, message) = callers[0].refusal(SVID, &[METADATA]).await;
    assert_eq!((status.as_str(), message.as_str()), ("8", "too many calls at a time"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_ends_its_own_connection_alone() {
    let ca = Ca::start("1h");
    let (worker, mut agent) = running(&ca, |worker| worker);
    let path = socket(&worker);
    let mut caller = Caller::connect(&path).await;
    let large = "x".repeat(20 * 1024);
    let refused = match caller.call(SVID, &[METADATA, ("large", &large)]).await {
        Ok(answer) => answer.http_status() == 431,
        Err(_) => true,
    };
    assert!(refused);
    for garbage in
        [&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"]
    {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let bundle = read_bundle(&worker.certificates()).unwrap();
    let mut caller = Caller::connect(&path).await;
    caller.call(SVID, &[METADATA]).await.unwrap().message_with(&bundle).await;
    assert!(agent.is_running());
}
