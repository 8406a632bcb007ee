//! Owns the performing of the deliveries of one agent, one after the other.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::action::{Failure, Occasion, perform};
use super::course::{Acted, Course, News, Seen, Step, Verdict};
use super::probe::{Sight, look};
use super::settings::DeliveryConfig;
use crate::clock::{Clock, Now};
use crate::config::Config;
use crate::crypto::sha256;
use crate::duration::format_duration;
use crate::events::{CertificateEvent, EventBus, EventError, EventRecord, new_correlation_id};
use crate::identity::{CertificateBundle, Crl, WorkerId};
use crate::metrics::{DeliveryResult, Metrics};
use crate::printable::{FOREIGN_TEXT_LIMIT, printable};
use crate::schedule::SLICE;
use crate::status::{AgentStatus, DeliveryStatus};

/// All deliveries of an agent.
#[derive(Debug)]
pub(crate) struct Deliveries {
    entries: Vec<Entry>,
    worker_id: WorkerId,
    directory: PathBuf,
    tools: Tools,
    correlation_id: String,
}

/// What deliveries are given.
#[derive(Debug)]
pub(crate) struct Tools {
    /// What is published.
    pub(crate) published: watch::Receiver<Option<Arc<CertificateBundle>>>,
    /// Where the state of the deliveries is shown, which nobody else writes.
    pub(crate) status: watch::Sender<AgentStatus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: EventBus,
    pub(crate) metrics: Metrics,
}

/// One delivery.
#[derive(Debug, Clone)]
struct Entry {
    config: DeliveryConfig,
    course: Course,
    publication: Option<Publication>,
    shown: DeliveryStatus,
}

/// What outlives a change of configuration: a delivery that stays as it is does not begin anew.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Vec<Entry>);

/// Tells one publication from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Publication {
    leaf: [u8; 32],
    roots: Vec<[u8; 32]>,
    crls: Vec<[u8; 32]>,
}

impl Publication {
    fn of(bundle: &CertificateBundle) -> Self {
        Self {
            leaf: bundle.leaf_digest(),
            roots: bundle.roots().iter().map(|root| sha256(root)).collect(),
            crls: bundle.crls().iter().map(Crl::der).map(|crl| sha256(crl)).collect(),
        }
    }

    /// Whether a worker has to be told of it, after `before`.
    fn is_news_after(&self, before: Option<&Self>, crls_count: bool) -> bool {
        let Some(before) = before else { return true };
        self.leaf != before.leaf || self.roots != before.roots || (crls_count && self.crls != before.crls)
    }
}

impl Deliveries {
    /// The deliveries of `config`, each going on where `progress` has it.
    pub(crate) fn new(config: &Config, progress: &Progress, tools: Tools) -> Self {
        let entry = |config: &DeliveryConfig| {
            let before = progress.0.iter().find(|entry| entry.config == *config).cloned();
            before.unwrap_or_else(|| Entry {
                config: config.clone(),
                course: Course::new(config),
                publication: None,
                shown: DeliveryStatus::pending(&config.name),
            })
        };
        Self {
            entries: config.deliveries.iter().map(entry).collect(),
            worker_id: config.identity.worker_id.clone(),
            directory: config.files.directory.clone(),
            tools,
            correlation_id: String::new(),
        }
    }

    /// Follows what is published until `stop`. An attempt under way is given up then, and made again by the next.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Progress {
        self.tools.metrics.forget_served();
        for entry in &self.entries {
            let proven = entry.config.proof.is_some();
            self.tools.metrics.add_delivery(&entry.config.name, proven);
            if proven && entry.publication.is_some() {
                self.tools.metrics.set_served(&entry.config.name, entry.course.verdict() == Verdict::Served);
            }
        }
        self.show();
        loop {
            self.take_publication();
            let Some((index, due)) = self.next_step() else {
                let wait = self.wait();
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = self.tools.published.changed() => if changed.is_err() { break },
                    () = wait => {}
                }
                continue;
            };
            let performed = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                performed = self.perform(index, due) => performed,
            };
            self.note(index, performed);
        }
        Progress(self.entries)
    }

    /// Begins anew where something else is published.
    fn take_publication(&mut self) {
        let bundle = self.tools.published.borrow_and_update().clone();
        let now = self.tools.clock.now().boot;
        let publication = bundle.as_deref().map(Publication::of);
        for entry in &mut self.entries {
            match &publication {
                None if entry.publication.is_some() => {
                    entry.course.withdraw();
                    entry.publication = None;
                }
                Some(publication) if publication.is_news_after(entry.publication.as_ref(), entry.config.crls) => {
                    entry.course.publish(now);
                    self.correlation_id = correlation_id(&self.tools.status.borrow());
                }
                _ => {}
            }
            entry.publication.clone_from(&publication);
        }
    }

    /// What is due, of the deliveries up to the first that is under way.
    fn next_step(&self) -> Option<(usize, Step)> {
        let now = self.tools.clock.now().boot;
        let due = self.under_way().map(|(index, entry)| (index, entry.course.step(now)));
        due.into_iter().find(|(_, step)| !matches!(step, Step::Wait(_)))
    }

    /// The deliveries whose turn it is: each waits until those before it are settled.
    fn under_way(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let first = self.entries.iter().position(|entry| !entry.course.is_settled()).unwrap_or(usize::MAX);
        self.entries.iter().enumerate().take_while(move |(index, _)| *index <= first)
    }

    /// Waits until something is due; without anything to come, for ever.
    fn wait(&self) -> impl Future<Output = ()> + use<> {
        let now = self.tools.clock.now().boot;
        let due = self.under_way().filter_map(|(_, entry)| match entry.course.step(now) {
            Step::Wait(at) => at,
            Step::Act | Step::Probe => Some(now),
        });
        let sleep = due.min().map(|at| self.tools.clock.sleep(at.saturating_sub(now).min(SLICE)));
        async {
            match sleep {
                Some(sleep) => sleep.await,
                None => std::future::pending().await,
            }
        }
    }

    async fn perform(&self, index: usize, step: Step) -> Performed {
        let bundle = self.tools.published.borrow().clone();
        let (Some(entry), Some(bundle)) = (self.entries.get(index), bundle) else { return Performed::Nothing };
        let config = &entry.config;
        match (step, &config.action, &config.proof) {
            (Step::Act, Some(action), _) => {
                let occasion = Occasion {
                    delivery: config.name.clone(),
                    worker_id: self.worker_id.as_str().to_owned(),
                    directory: self.directory.clone(),
                    correlation_id: self.correlation_id.clone(),
                    bundle,
                    clock: Arc::clone(&self.tools.clock),
                };
                Performed::Action(perform(action, &occasion, config.timeout).await)
            }
            (Step::Probe, _, Some(proof)) => {
                Performed::Look(look(proof, &bundle, &self.tools.clock, config.timeout).await)
            }
            _ => Performed::Nothing,
        }
    }

    fn note(&mut self, index: usize, performed: Performed) {
        let now = self.tools.clock.now();
        let Some(entry) = self.entries.get_mut(index) else { return };
        let name = entry.config.name.clone();
        let (news, detail) = match performed {
            Performed::Nothing => return,
            Performed::Action(result) => {
                let (acted, counted, detail) = match result {
                    Ok(()) => (Acted::Done, DeliveryResult::Success, None),
                    Err(Failure::Nobody(reason)) => (Acted::Nobody, DeliveryResult::Nobody, Some(reason)),
                    Err(Failure::Failed(reason)) => (Acted::Failed, DeliveryResult::Failure, Some(reason)),
                };
                self.tools.metrics.observe_delivery(&name, counted);
                (entry.course.acted(now.boot, acted), detail)
            }
            Performed::Look(sight) => {
                let (seen, detail) = match sight {
                    Sight::Published => (Seen::Published, None),
                    Sight::Other(serial) => {
                        let reason = format!("it serves {serial}");
                        (Seen::Other, Some(reason))
                    }
                    Sight::Unreachable(reason) => (Seen::Unreachable, Some(reason)),
                };
                (entry.course.probed(now.boot, seen), detail)
            }
        };
        let detail = detail.map(|detail| printable(&detail, FOREIGN_TEXT_LIMIT));
        if let Some(detail) = &detail {
            tracing::debug!(delivery = %name, "{detail}");
        }
        entry.shown = shown(entry, now, detail.clone());
        let (verdict, proven) = (entry.course.verdict(), entry.config.proof.is_some());
        if proven {
            self.tools.metrics.set_served(&name, verdict == Verdict::Served);
        }
        if let Some(News::Delivered(delay)) = news
            && proven
        {
            self.tools.metrics.observe_served_after(&name, delay);
        }
        self.show();
        if let Some(news) = news {
            self.tell(&name, news, detail, now);
        }
    }

    fn show(&self) {
        let deliveries: Vec<DeliveryStatus> = self.entries.iter().map(|entry| entry.shown.clone()).collect();
        self.tools.status.send_if_modified(|status| {
            let changed = status.deliveries != deliveries;
            status.deliveries = deliveries;
            changed
        });
    }

    fn tell(&self, delivery: &str, news: News, detail: Option<String>, now: Now) {
        let detail = detail.unwrap_or_default();
        let (event, error, detail) = match news {
            News::Delivered(delay) => (
                CertificateEvent::Delivered,
                None,
                Some(format!("{delivery}, {} after publication", format_duration(delay))),
            ),
            News::Failed => (
                CertificateEvent::DeliveryFailed,
                Some(EventError::new(news.kind(), &format!("{delivery}: {detail}"))),
                None,
            ),
            News::NotServed => (
                CertificateEvent::NotServed,
                Some(EventError::new(news.kind(), &format!("{delivery}: {detail}"))),
                None,
            ),
        };
        let bundle = self.tools.published.borrow().clone();
        self.tools.events.emit(&EventRecord {
            event,
            severity: event.severity(),
            correlation_id: self.correlation_id.clone(),
            worker_id: self.worker_id.clone(),
            timestamp: now.wall,
            cert_metadata: bundle.map(|bundle| bundle.metadata(now.wall)),
            error,
            decision_id: None,
            detail,
            certificate: None,
        });
    }
}

impl News {
    /// The kind of error that it is told as.
    fn kind(&self) -> &'static str {
        match self {
            Self::Delivered(_) | Self::Failed => "delivery",
            Self::NotServed => "not_served",
        }
    }
}

/// What came of a step.
enum Performed {
    Nothing,
    Action(Result<(), Failure>),
    Look(Sight),
}

fn shown(entry: &Entry, now: Now, detail: Option<String>) -> DeliveryStatus {
    let verdict = entry.course.verdict();
    let result = match verdict {
        Verdict::Pending => "pending",
        Verdict::Delivered => "delivered",
        Verdict::Nobody => "nobody",
        Verdict::Failed => "failed",
        Verdict::Served => "served",
        Verdict::NotServed => "not_served",
        Verdict::Unreachable => "unreachable",
    };
    // The same result, seen again, is no change.
    let at = if entry.shown.result == result { entry.shown.at } else { Some(now.wall) };
    let not_ready = entry.config.proof.as_ref().is_some_and(|proof| proof.not_ready);
    DeliveryStatus {
        name: entry.config.name.clone(),
        result: result.to_owned(),
        at,
        detail,
        not_ready: not_ready && verdict == Verdict::NotServed,
    }
}

/// That of the request by which the certificate came, where there was one just now.
fn correlation_id(status: &AgentStatus) -> String {
    let attempt = status.last_attempt.as_ref().filter(|attempt| attempt.error.is_none());
    attempt.map_or_else(new_correlation_id, |attempt| attempt.correlation_id.clone())
}
