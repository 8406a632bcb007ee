//! Owns who may call the Workload API: the user and group of the process at the other end, as the kernel tells them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;

/// Who may call, beside root and the user that the agent runs as, who can read the key anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedCaller {
    /// Processes of this user: `uid:1000`.
    User(u32),
    /// Processes whose primary group this is: `gid:1000`. The kernel tells no other groups of a caller.
    Group(u32),
}

impl FromStr for AllowedCaller {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "`uid:` or `gid:` and a number, as `uid:1000`";
        let (kind, number) = text.split_once(':').ok_or(EXPECTED)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        // The highest number is nobody's: it stands for "none" in the system's calls.
        let number = number.parse().ok().filter(|number| digits && *number != u32::MAX).ok_or(EXPECTED)?;
        match kind {
            "uid" => Ok(Self::User(number)),
            "gid" => Ok(Self::Group(number)),
            _ => Err(EXPECTED),
        }
    }
}

impl fmt::Display for AllowedCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(number) => write!(f, "uid:{number}"),
            Self::Group(number) => write!(f, "gid:{number}"),
        }
    }
}

/// The mode of the socket: no more may connect than could be answered. Where there are others than root and the agent's own
/// user, everyone may connect, and is answered or refused by who he is.
pub(super) fn socket_mode(allowed: &[AllowedCaller]) -> u32 {
    if allowed.is_empty() { 0o600 } else { 0o666 }
}

/// The process that made a connection, as it was then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    user: u32,
    group: u32,
    process: Option<i32>,
}

impl Caller {
    /// `None`, with a line in the log, where the kernel does not tell.
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        match stream.peer_cred() {
            Ok(peer) => Some(Self { user: peer.uid(), group: peer.gid(), process: peer.pid() }),
            Err(error) => {
                tracing::warn!(%error, "refused a caller of the Workload API: its user is not known");
                None
            }
        }
    }
}

/// Decides on callers.
#[derive(Debug)]
pub(super) struct Access {
    own_user: u32,
    allowed: Vec<AllowedCaller>,
    /// When a refusal of this user was last logged.
    logged: Mutex<BTreeMap<u32, Instant>>,
}

impl Access {
    pub(super) fn new(allowed: Vec<AllowedCaller>) -> Self {
        Self { own_user: rustix::process::geteuid().as_raw(), allowed, logged: Mutex::default() }
    }

    /// Whether `caller` may have an answer. A refusal is logged.
    pub(super) fn admits(&self, caller: Caller) -> bool {
        let Caller { user, group, process } = caller;
        let named = self.allowed.iter().any(|allowed| match *allowed {
            AllowedCaller::User(number) => number == user,
            AllowedCaller::Group(number) => number == group,
        });
        let admitted = user == 0 || user == self.own_user || named;
        if !admitted && self.is_news(user) {
            tracing::warn!(
                uid = user,
                gid = group,
                pid = process,
                "refused a caller of the Workload API, who is not in workload_api.allow"
            );
        }
        admitted
    }

    /// Whether nothing was logged of `user` for a while: whoever is refused tries again, and again.
    fn is_news(&self, user: u32) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        logged.retain(|_, at| now.duration_since(*at) < LOG_PAUSE);
        let news = !logged.contains_key(&user) && logged.len() < LOGGED_LIMIT;
        if news {
            logged.insert(user, now);
        }
        news
    }
}

/// The least time between two lines about one user.
const LOG_PAUSE: Duration = Duration::from_mins(1);

/// The most users of whom there is a line within that time.
const LOGGED_LIMIT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: u32, group: u32) -> Caller {
        Caller { user, group, process: Some(1) }
    }

    fn access(own_user: u32, allowed: &[&str]) -> Access {
        let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
        Access { own_user, ..Access::new(allowed) }
    }

    #[tokio::test]
    async fn root_and_the_agent_s_own_user_are_admitted_and_nobody_else() {
        let access = access(500, &[]);
        assert!(access.admits(caller(0, 7)) && access.admits(caller(500, 7)));
        assert!(!access.admits(caller(501, 500)) && !access.admits(caller(u32::MAX, 0)));
    }

    #[tokio::test]
    async fn others_are_admitted_by_user_or_group() {
        let access = access(500, &["uid:1000", "gid:2000"]);
        assert!(access.admits(caller(1000, 1)) && access.admits(caller(1, 2000)));
        assert!(!access.admits(caller(2000, 1000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_user_is_logged_once_a_minute() {
        let access = access(500, &[]);
        assert!(access.is_news(7) && !access.is_news(7) && access.is_news(8));
        tokio::time::advance(LOG_PAUSE).await;
        assert!(access.is_news(7));
        assert_eq!((1_000..2_000).filter(|user| access.is_news(*user)).count(), LOGGED_LIMIT - 1);
    }

    #[test]
    fn callers_are_written_as_they_are_read_and_nothing_else_is() {
        for text in ["uid:0", "gid:4294967294"] {
            assert_eq!(text.parse::<AllowedCaller>().unwrap().to_string(), text);
        }
        for bad in ["", "1000", "uid:", "uid:app", "uid:-1", "uid:+1", "UID:1", "pid:1", "uid:4294967295", "uid:1:2"] {
            assert!(bad.parse::<AllowedCaller>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_socket_is_closed_to_others_until_one_is_named() {
        assert_eq!(socket_mode(&[]), 0o600);
        assert_eq!(socket_mode(&[AllowedCaller::Group(1)]), 0o666);
    }
}
