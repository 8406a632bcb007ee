//! Owns the metrics: their names, what moves them, and their text form for Prometheus.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
    core::Collector,
};
use time::OffsetDateTime;

use crate::error_kind::{ERROR_KINDS, ErrorKind};
use crate::events::{CertificateEvent, EventRecord};
use crate::status::AgentStatus;

/// The metrics of one agent, on a registry of their own. Cheap to clone; clones share their values.
///
/// Fed by events ([`observe_event`](Self::observe_event)) and by status ([`observe_status`](Self::observe_status)).
/// Gauges whose value is not known yet are absent; counters are there from the start with 0, so that `rate()` sees
/// the first increment.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Those of further certificates, by name: the same metrics with one more label.
    further: Arc<Mutex<BTreeMap<String, Metrics>>>,
    expiration: Histogram,
    issuance: Counter,
    renewal: Counter,
    errors: IntCounterVec,
    ca_unavailable: Counter,
    events: IntCounterVec,
    not_after: OptionalGauge,
    not_before: OptionalGauge,
    revoked: OptionalGauge,
    crl_next_update: OptionalGauge,
    next_renewal: OptionalGauge,
    last_success: OptionalGauge,
    back_off: Gauge,
    consecutive_failures: Gauge,
    clock_skew: OptionalGauge,
    ready: OptionalGauge,
    delivery_attempts: IntCounterVec,
    served: GaugeVec,
    served_after: HistogramVec,
}

/// How an attempt of a delivery ended: the label `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryResult {
    /// The worker was told.
    Success,
    /// It could not be told.
    Failure,
    /// There was nobody to tell.
    Nobody,
}

impl DeliveryResult {
    const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Nobody];

    fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Nobody => "nobody",
        }
    }
}

/// A metric that cannot be registered, or an exposition that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("metrics: cannot {what}")]
pub struct MetricsError {
    what: &'static str,
    #[source]
    source: prometheus::Error,
}

/// The media type of [`Metrics::render`] (Prometheus text format 0.0.4).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Metrics {
    /// Makes and registers all metrics.
    ///
    /// # Errors
    /// When two of them clash; with the fixed names here, never.
    pub fn new() -> Result<Self, MetricsError> {
        Self::register(None).map_err(|source| MetricsError { what: "register", source })
    }

    /// The metrics of a further certificate, which have its name in the label `certificate`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_certificate(&self, name: &str) -> Result<Self, MetricsError> {
        let mut further = self.further();
        if let Some(metrics) = further.get(name) {
            return Ok(metrics.clone());
        }
        let metrics = Self::register(Some(name)).map_err(|source| MetricsError { what: "register", source })?;
        further.insert(name.to_owned(), metrics.clone());
        Ok(metrics)
    }

    /// Forgets the further certificates whose name is not to stay.
    pub(crate) fn retain(&self, stays: impl Fn(&str) -> bool) {
        self.further().retain(|name, _| stays(name));
    }

    fn further(&self) -> MutexGuard<'_, BTreeMap<String, Self>> {
        self.further.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what happened.
    pub fn observe_event(&self, record: &EventRecord) {
        self.events.with_label_values(&[record.event.name()]).inc();
        match record.event {
            CertificateEvent::CertIssued => self.issuance.inc(),
            CertificateEvent::CertRenewed => self.renewal.inc(),
            CertificateEvent::CaUnavailable => self.ca_unavailable.inc(),
            _ => {}
        }
        if let Some(error) = &record.error {
            self.errors.with_label_values(&[error_type(&error.kind)]).inc();
        }
    }

    /// Takes over the state at `now`, and adds the time until expiry to the histogram: to be called once for every
    /// check of the certificate and every installation, which is whenever a status is published.
    pub fn observe_status(&self, status: &AgentStatus, now: OffsetDateTime) {
        let certificate = status.certificate.as_ref();
        if let Some(certificate) = certificate {
            // An expired certificate counts as 0, since the sum of a histogram may not go down.
            self.expiration.observe((certificate.expires_at - now).as_seconds_f64().max(0.0));
        }
        self.not_after.set(certificate.map(|certificate| timestamp(certificate.expires_at)));
        self.not_before.set(certificate.map(|certificate| timestamp(certificate.not_before)));
        self.revoked.set(certificate.map(|_| f64::from(u8::from(status.revoked.is_some()))));
        self.crl_next_update.set(status.crl.as_ref().map(|crl| timestamp(crl.next_update)));
        self.next_renewal.set(status.next_renewal.map(timestamp));
        if let Some(attempt) = status.last_attempt.as_ref().filter(|attempt| attempt.error.is_none()) {
            self.last_success.set(Some(timestamp(attempt.at)));
        }
        let back_off = status.back_off.as_ref();
        self.back_off.set(back_off.map_or(0.0, |state| (state.next_attempt - now).as_seconds_f64().max(0.0)));
        self.consecutive_failures.set(back_off.map_or(0.0, |state| f64::from(state.failures)));
        self.clock_skew.set(status.ca.clock_skew_seconds);
    }

    /// Has the metrics of a delivery there from the start. Names are those of the configuration, so they are few.
    pub fn add_delivery(&self, name: &str, proven: bool) {
        for result in DeliveryResult::ALL {
            self.delivery_attempts.with_label_values(&[name, result.label()]);
        }
        if proven {
            self.served_after.with_label_values(&[name]);
        }
    }

    /// What was seen of deliveries that may not be configured any more.
    pub(crate) fn forget_served(&self) {
        self.served.reset();
    }

    /// Counts an attempt.
    pub fn observe_delivery(&self, name: &str, result: DeliveryResult) {
        self.delivery_attempts.with_label_values(&[name, result.label()]).inc();
    }

    /// Takes over what a probe saw.
    pub fn set_served(&self, name: &str, served: bool) {
        self.served.with_label_values(&[name]).set(f64::from(u8::from(served)));
    }

    /// Takes over how long after publication the worker was seen to serve the certificate.
    pub fn observe_served_after(&self, name: &str, delay: Duration) {
        self.served_after.with_label_values(&[name]).observe(delay.as_secs_f64());
    }

    /// All metrics as text of type [`CONTENT_TYPE`], with `ready` as the value of `crank_agent_ready`.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn render(&self, ready: bool) -> Result<String, MetricsError> {
        self.ready.set(Some(f64::from(u8::from(ready))));
        let mut families = self.registry.gather();
        for mut family in self.further().values().flat_map(|metrics| metrics.registry.gather()) {
            match families.iter_mut().find(|known| known.name() == family.name()) {
                Some(known) => known.mut_metric().extend(family.take_metric()),
                None => families.push(family),
            }
        }
        TextEncoder::new()
            .encode_to_string(&families)
            .map_err(|source| MetricsError { what: "write the text form", source })
    }

    fn register(certificate: Option<&str>) -> Result<Self, prometheus::Error> {
        let label = certificate.map(|name| HashMap::from([("certificate".to_owned(), name.to_owned())]));
        let registry = Registry::new_custom(None, label)?;
        if certificate.is_none() {
            let build = gauge(
                &registry,
                Opts::new("crank_agent_build_info", "Always 1; the version is in the label.")
                    .const_label("version", env!("CARGO_PKG_VERSION")),
            )?;
            build.set(1.0);
        }
        let error_types = ERROR_KINDS.map(|kind| kind.label).into_iter().chain([OTHER]).collect::<Vec<_>>();
        let errors = counters(&registry, "crank_cert_errors_total", "Failures, by type.", "type", &error_types)?;
        let event_names = CertificateEvent::ALL.map(CertificateEvent::name);
        let events = counters(&registry, "crank_cert_events_total", "Events, by name.", "event", &event_names)?;
        let expiration = HistogramOpts::new(
            "crank_cert_expiration_seconds",
            "Time until the certificate expires, at each check and installation.",
        );
        let optional = |name, help| OptionalGauge::register(&registry, name, help);
        Ok(Self {
            expiration: add(&registry, Histogram::with_opts(expiration.buckets(EXPIRATION_BUCKETS.to_vec()))?)?,
            issuance: counter(&registry, "crank_cert_issuance_total", "First certificates put on disk.")?,
            renewal: counter(&registry, "crank_cert_renewal_total", "Certificates that replaced another on disk.")?,
            errors,
            ca_unavailable: counter(&registry, "crank_ca_unavailable_total", "Times the CA gave no useful answer.")?,
            events,
            not_after: optional("crank_cert_not_after_timestamp_seconds", "notAfter of the certificate on disk.")?,
            not_before: optional("crank_cert_not_before_timestamp_seconds", "notBefore of the certificate on disk.")?,
            revoked: optional("crank_cert_revoked", "1 when the certificate was revoked, else 0.")?,
            crl_next_update: optional(
                "crank_crl_next_update_timestamp_seconds",
                "When the first of the published CRLs runs out.",
            )?,
            next_renewal: optional("crank_cert_next_renewal_timestamp_seconds", "When renewal is planned.")?,
            last_success: optional("crank_cert_last_success_timestamp_seconds", "Last success with the CA.")?,
            back_off: gauge(&registry, Opts::new("crank_cert_back_off_seconds", "Current back-off; 0 when none."))?,
            consecutive_failures: gauge(
                &registry,
                Opts::new("crank_cert_consecutive_failures", "Failed attempts since the last success."),
            )?,
            clock_skew: optional("crank_ca_clock_skew_seconds", "The CA's clock less ours, at its last answer.")?,
            delivery_attempts: add(
                &registry,
                IntCounterVec::new(
                    Opts::new("crank_delivery_attempts_total", "Attempts to tell the worker, by delivery and result."),
                    &["delivery", "result"],
                )?,
            )?,
            served: add(
                &registry,
                GaugeVec::new(
                    Opts::new("crank_cert_served", "1 when the last probe saw the published certificate, else 0."),
                    &["delivery"],
                )?,
            )?,
            served_after: add(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "crank_cert_served_delay_seconds",
                        "Time from publication until a probe saw the certificate served.",
                    )
                    .buckets(SERVED_BUCKETS.to_vec()),
                    &["delivery"],
                )?,
            )?,
            ready: optional("crank_agent_ready", "1 when a usable certificate is on disk now, by the clock.")?,
            registry,
            further: Arc::default(),
        })
    }
}

/// A gauge that is absent from the text form while it has no value.
#[derive(Debug, Clone)]
struct OptionalGauge(GaugeVec);

impl OptionalGauge {
    fn register(registry: &Registry, name: &str, help: &str) -> Result<Self, prometheus::Error> {
        Ok(Self(add(registry, GaugeVec::new(Opts::new(name, help), &[])?)?))
    }

    fn set(&self, value: Option<f64>) {
        match value {
            Some(value) => self.0.with_label_values(&[] as &[&str]).set(value),
            None => self.0.reset(),
        }
    }
}

fn add<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, opts: Opts) -> Result<Gauge, prometheus::Error> {
    add(registry, Gauge::with_opts(opts)?)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<Counter, prometheus::Error> {
    add(registry, Counter::new(name, help)?)
}

/// A counter for each of `values`, all there from the start.
fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = add(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)?;
    for value in values {
        counters.with_label_values(&[value]);
    }
    Ok(counters)
}

/// The value of the label `type`: events can come from anywhere, label values cannot.
fn error_type(kind: &str) -> &'static str {
    ErrorKind::find(kind).map_or(OTHER, |kind| kind.label)
}

fn timestamp(at: OffsetDateTime) -> f64 {
    (at - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()
}

/// The `type` of an error that is of none of [`ERROR_KINDS`].
const OTHER: &str = "other";

const HOUR: f64 = 3_600.0;
const DAY: f64 = 24.0 * HOUR;

const SERVED_BUCKETS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, HOUR];

const EXPIRATION_BUCKETS: [f64; 14] = [
    60.0,
    300.0,
    900.0,
    HOUR,
    6.0 * HOUR,
    DAY,
    3.0 * DAY,
    7.0 * DAY,
    14.0 * DAY,
    30.0 * DAY,
    60.0 * DAY,
    90.0 * DAY,
    180.0 * DAY,
    365.0 * DAY,
];

#[cfg(test)]
mod tests;
