//! Owns what is told to the service manager that started this process, by the protocol of `sd_notify(3)`: one datagram to
//! the socket that it names.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::clock::Clock;
use crate::printable::printable;

/// The service manager, where there is one that wants to be told. Clones tell the same one.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager {
    socket: Option<SocketAddr>,
    /// Of which half is the longest silence.
    watchdog: Option<Duration>,
    ready: Arc<AtomicBool>,
}

impl ServiceManager {
    /// The one that started this process, by `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    #[must_use]
    pub fn of_process() -> Self {
        Self::of(|name| std::env::var_os(name), std::process::id())
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>, process: u32) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|name| address(&name));
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        // Where the variables were meant for another process, they came by inheritance.
        let own = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(process));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| own && *micros > 0).map(Duration::from_micros);
        Self { watchdog: watchdog.filter(|_| socket.is_some()), socket, ready: Arc::default() }
    }

    /// Whether anybody is told.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// How often a sign of life is due, where any is.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }

    /// The start is over. Told once.
    pub fn ready(&self) {
        if !self.ready.swap(true, Ordering::Relaxed) {
            self.tell("READY=1");
        }
    }

    /// A reload begins. Before the start is over there is nothing to tell: the end of the reload would be taken for its end.
    pub fn reloading(&self) {
        if self.ready.load(Ordering::Relaxed) {
            let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
            self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
        }
    }

    /// A reload has ended, well or not.
    pub fn reloaded(&self) {
        if self.ready.load(Ordering::Relaxed) {
            self.tell("READY=1");
        }
    }

    /// The end begins.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// One line for people who ask how the service is.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={}", printable(text, STATUS_LIMIT)));
    }

    /// A sign of life, where the watchdog waits for one.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell("WATCHDOG=1");
        }
    }

    /// Awaits `work`, with signs of life at its beginning and while it lasts, but not for longer than [`LONGEST_WORK`]: what
    /// takes longer hangs.
    pub async fn alive_during<F: Future>(&self, clock: &dyn Clock, work: F) -> F::Output {
        let Some(heartbeat) = self.heartbeat() else { return work.await };
        let mut work = std::pin::pin!(work);
        let end = clock.now().running.saturating_add(LONGEST_WORK);
        while clock.now().running < end {
            self.alive();
            tokio::select! {
                biased;
                output = work.as_mut() => return output,
                () = clock.sleep(heartbeat) => {}
            }
        }
        work.await
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, message) {
            tracing::debug!(%error, "the service manager could not be told");
        }
    }
}

/// Without a connection, so that a service manager that was started anew is reached; without waiting, so that one that
/// does not listen is no hindrance.
fn send(socket: &SocketAddr, message: &str) -> io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(message.as_bytes(), socket).map(drop)
}

/// A path, or after an `@` a name without one. Other kinds (`vsock:`) are for machines, not for processes.
fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name).ok(),
        _ => None,
    }
}

/// How long one piece of work may last and still pass for life: longer than all deadlines in it together.
pub const LONGEST_WORK: Duration = Duration::from_hours(1);

const STATUS_LIMIT: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::testing::TestClock;

    fn of(variables: &[(&str, &str)]) -> ServiceManager {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        ServiceManager::of(find, 7)
    }

    fn received(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        let mut next =
            || socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
        std::iter::from_fn(&mut next).collect()
    }

    #[test]
    fn sockets_with_and_without_a_path_are_told_and_others_are_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let with_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("crank-test-{}", std::process::id());
        let without = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (variable, socket) in [(path.to_str().unwrap().to_owned(), with_path), (format!("@{name}"), without)] {
            let manager = of(&[("NOTIFY_SOCKET", &variable)]);
            assert!(manager.is_there());
            manager.status("one\ntwo");
            manager.alive();
            assert_eq!(
                received(&socket),
                ["STATUS=one\\ntwo"],
                "no second line, and no watchdog that was not asked for"
            );
        }
        for nobody in ["", "vsock:2:1234", "notify", "@", "/\0"] {
            assert!(!of(&[("NOTIFY_SOCKET", nobody)]).is_there(), "{nobody:?}");
        }
        // Nobody there is no failure.
        of(&[]).stopping();
        of(&[("NOTIFY_SOCKET", "/nowhere/notify")]).stopping();
    }

    #[test]
    fn the_watchdog_is_heeded_by_the_process_that_it_is_for() {
        let heartbeat = |more: &[(&str, &str)]| {
            let all = [&[("NOTIFY_SOCKET", "/run/notify"), ("WATCHDOG_USEC", "90000000")], more].concat();
            of(&all).heartbeat()
        };
        assert_eq!(heartbeat(&[]), Some(Duration::from_secs(45)));
        assert_eq!(heartbeat(&[("WATCHDOG_PID", "7")]), Some(Duration::from_secs(45)));
        assert_eq!(heartbeat(&[("WATCHDOG_PID", "8")]), None);
        assert_eq!(heartbeat(&[("WATCHDOG_PID", "x")]), None);
        assert_eq!(of(&[("NOTIFY_SOCKET", "/run/notify"), ("WATCHDOG_USEC", "0")]).heartbeat(), None);
        assert_eq!(of(&[("WATCHDOG_USEC", "90000000")]).heartbeat(), None, "nobody to tell");
    }

    #[test]
    fn a_reload_before_the_end_of_the_start_does_not_end_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = of(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
        manager.reloading();
        manager.reloaded();
        assert_eq!(received(&socket), [""; 0]);
        manager.ready();
        manager.clone().ready();
        manager.reloading();
        manager.reloaded();
        let told = received(&socket);
        assert_eq!((told.len(), told[0].as_str(), told[2].as_str()), (3, "READY=1", "READY=1"));
        let now = told[1].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(now.parse::<u64>().unwrap() > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_lasts_gives_signs_of_life_and_work_that_hangs_gives_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = of(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "1200000000")]);
        let clock = TestClock::at(time::OffsetDateTime::UNIX_EPOCH);
        manager.alive_during(&clock, tokio::time::sleep(Duration::from_secs(30))).await;
        assert_eq!(received(&socket), ["WATCHDOG=1"]);
        manager.alive_during(&clock, tokio::time::sleep(Duration::from_mins(25))).await;
        assert_eq!(received(&socket).len(), 3, "each ten minutes");
        let hangs = manager.alive_during(&clock, std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::from_hours(24), hangs).await.is_err());
        assert_eq!(received(&socket).len(), 6, "for an hour");
    }
}
