//! Owns what passes from one manager to the next when the configuration changes, so that nothing is lost, asked for or
//! told a second time.

use super::{CertificateManager, Command, Current, News, UnansweredOrder, Unpublished};
use crate::identity::{KeyType, RequestedIdentity};
use crate::issuer::Issuer;
use crate::issuer::roots::KnownRoots;
use crate::schedule::{RenewReason, Schedule};
use crate::status::AgentStatus;

/// The state of a manager that was told to stop.
#[derive(Debug)]
pub(crate) struct Handover {
    identity: RequestedIdentity,
    key_type: KeyType,
    current: Option<Current>,
    unanswered: Option<UnansweredOrder>,
    unpublished: Option<Unpublished>,
    had_certificate: bool,
    known: KnownRoots,
    started: bool,
    schedule: Schedule,
    news: News,
    status: AgentStatus,
}

impl<I: Issuer> CertificateManager<I> {
    /// A manager that goes on where another stopped. What was that of another worker does not count.
    pub(crate) fn after(mut self, before: Handover) -> Self {
        let Handover { identity, status, .. } = before;
        self.started = before.started;
        let same_ca = self.status.borrow().ca.url == status.ca.url;
        self.status.send_modify(|now| {
            now.started_at = status.started_at;
            if same_ca {
                now.ca = status.ca;
            }
        });
        if identity.worker_id != self.settings.identity.worker_id {
            return self;
        }
        let same_names = identity == self.settings.identity;
        self.status.send_modify(|now| {
            now.last_attempt = status.last_attempt;
            now.renewal_request = status.renewal_request;
        });
        let told = before.news.crl_expiry_told;
        // Another CA has other CRLs, and other tags for them.
        self.news = if same_ca { before.news } else { News { crl_expiry_told: told, ..News::default() } };
        self.had_certificate = before.had_certificate;
        self.current = before.current;
        self.known = before.known;
        self.unpublished = before.unpublished.filter(|_| same_names);
        self.unanswered = before.unanswered.filter(|_| same_names && before.key_type == self.settings.key_type);
        let timing = self.schedule.timing();
        self.schedule = before.schedule;
        self.schedule.reconfigure(timing, self.clock.now());
        // The listener has something to present from the first connection on.
        if let Some(current) = self.current.clone() {
            self.install(current);
        }
        self
    }

    /// What the next manager goes on with. An operator's wish that waits is not forgotten; whoever waits for its outcome
    /// is told that this manager stops.
    pub(super) fn hand_over(mut self) -> Handover {
        while let Ok(command) = self.commands.try_recv() {
            if matches!(command, Command::Renew(_)) {
                self.schedule.request(RenewReason::Operator);
            }
        }
        Handover {
            identity: self.settings.identity,
            key_type: self.settings.key_type,
            current: self.current,
            unanswered: self.unanswered,
            unpublished: self.unpublished,
            had_certificate: self.had_certificate,
            known: self.known,
            started: self.started,
            schedule: self.schedule,
            news: self.news,
            status: self.status.borrow().clone(),
        }
    }
}
