//! The limits: clients that are idle, slow, endless or deaf, and the drain.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crank_agent::serve::MAX_CONNECTIONS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::running::{DRAIN, Raw, Running, handshake};
use crate::support::{client_config, eventually};

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let running = Running::ready().await;
    let mut raw = running.connect(None).await.unwrap();
    let head = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    raw.0.write_all(head).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let mut sent = 0;
    while raw.0.write_all(chunk.as_bytes()).await.is_ok() && raw.0.flush().await.is_ok() {
        sent += chunk.len();
        assert!(sent < 64 << 20, "read without end");
    }
}

#[tokio::test]
async fn a_header_without_end_is_cut_off() {
    let running = Running::ready().await;
    let mut raw = running.connect(None).await.unwrap();
    raw.0.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ").await.unwrap();
    let _ = raw.0.write_all("x".repeat(1 << 20).as_bytes()).await;
    timeout(DRAIN, raw.closed()).await.expect("closed");
}

#[tokio::test]
async fn idle_and_slow_clients_do_not_lock_out_a_probe() {
    let running = Running::ready().await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut raw = running.connect(None).await.unwrap();
        raw.0.write_all(b"GET /readyz HTTP/1.1\r\nHost: loc").await.unwrap();
        slow.push(raw);
    }
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(running.address).await.unwrap());
    }
    // Sooner than any of the listener's time limits could have helped.
    for _ in 0..5 {
        let answer = timeout(Duration::from_secs(3), running.get("/readyz", None)).await.expect("in time");
        assert_eq!(answer.unwrap(), (200, "ok".to_owned()));
    }
    let cut_off = |stream: &TcpStream| !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    eventually("connections over the limit are closed", Duration::from_secs(3), || {
        let open = idle.iter().filter(|stream| !cut_off(stream)).count();
        open <= MAX_CONNECTIONS && open > 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_cut_off_after_the_handshake_limit() {
    let running = Running::ready().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let start = Instant::now();
    let _ = stream.read(&mut [0]).await;
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn a_client_that_drips_its_request_is_cut_off() {
    let running = Running::ready().await;
    let mut raw = running.connect(None).await.unwrap();
    assert_eq!(raw.get("/livez").await.unwrap().0, 200);
    tokio::time::pause();
    let start = Instant::now();
    raw.0.write_all(b"GET /readyz HTTP/1.1\r\nX: ").await.unwrap();
    loop {
        let pause = tokio::time::sleep(Duration::from_secs(1));
        tokio::select! {
            () = raw.closed() => break,
            () = pause => {}
        }
        if raw.0.write_all(b"x").await.is_err() {
            break;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "still open");
    }
    assert!((9..=12).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_cut_off() {
    let running = Running::ready().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream = socket.connect(running.address).await.unwrap();
    let mut raw = handshake(stream, Arc::new(client_config(&running.ca, None))).await.unwrap();
    tokio::time::pause();
    let requests = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    let cut_off = timeout(Duration::from_mins(5), async {
        while raw.0.write_all(requests.as_bytes()).await.is_ok() && raw.0.flush().await.is_ok() {}
    });
    cut_off.await.expect("cut off");
}

/// A connection with a request whose answer waits until the switch `hold` is off.
async fn being_answered(running: &Running) -> Raw {
    running.switches.hold.store(true, Ordering::SeqCst);
    let mut busy = running.connect(None).await.unwrap();
    busy.0.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    eventually("the request is being answered", DRAIN, || running.switches.asked.load(Ordering::SeqCst)).await;
    busy
}

#[tokio::test]
async fn the_drain_answers_what_was_asked_and_closes_the_rest() {
    let mut running = Running::ready().await;
    let mut idle = running.connect(None).await.unwrap();
    assert_eq!(idle.get("/livez").await.unwrap().0, 200);
    let mut busy = being_answered(&running).await;

    running.cancel.cancel();
    timeout(DRAIN, idle.closed()).await.expect("the idle connection is closed");
    let address = running.address;
    assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
    assert!(!running.task.is_finished());
    running.switches.hold.store(false, Ordering::SeqCst);
    assert_eq!(busy.answer().await.unwrap().0, 200);
    timeout(DRAIN, &mut running.task).await.expect("ended").unwrap();
}

#[tokio::test]
async fn the_drain_takes_no_longer_than_it_may() {
    let mut running = Running::ready_with(Duration::from_millis(100)).await;
    let mut busy = being_answered(&running).await;
    running.cancel.cancel();
    // The check of readiness itself is given up on after three seconds.
    timeout(Duration::from_secs(2), &mut running.task).await.expect("ended").unwrap();
    running.switches.hold.store(false, Ordering::SeqCst);
    assert!(busy.answer().await.is_err());
}
