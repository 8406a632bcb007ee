//! Owns the commands that look into the record: `list`, `show`, `export`, `check-record`.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crank_agent::ca::{
    CertificateQuery, CertificateRecord, DecisionQuery, DecisionRecord, IdentityQuery, IdentityRecord, Order, Page,
    Position, Record, Records, RevocationRecord, SerialPrefix, StateError, TokenRecord, csv_cells, write_json_line,
};
use crank_agent::clock::{Clock, SystemClock};
use crank_agent::identity::WorkerId;
use crank_agent::printable::printable;
use time::OffsetDateTime;

use super::arguments::Place;
use super::failure::{CANNOT_WRITE, CONFIGURATION, DAMAGED, Failure};
use super::record_arguments::{Export, Format, List, Listed, Show, What};
use super::record_tables::{Row, history, worker};
use super::say;

pub(crate) async fn list(list: List) -> Result<(), Failure> {
    let now = SystemClock.now().wall;
    match list.what {
        None => {
            let view = list.certificates.view;
            let query = list.certificates.filter.query(now);
            let records = open(list.certificates.place).await?;
            let shown = show_all(view.limit, view.json, async |after| records.certificates(&query, after).await);
            finish(shown.await, records).await
        }
        Some(Listed::Identities { place, worker, late, view }) => {
            let query = IdentityQuery { worker, late };
            let records = open(place).await?;
            let shown = show_all(view.limit, view.json, async |after| records.identities(&query, after).await);
            finish(shown.await, records).await
        }
        Some(Listed::Decisions { place, worker, denied, since, view }) => {
            let since = since.map(|since| since.before(now));
            let query = DecisionQuery { worker, denied, since, order: Order::NewestFirst };
            let records = open(place).await?;
            let shown = show_all(view.limit, view.json, async |after| records.decisions(&query, after).await);
            finish(shown.await, records).await
        }
        Some(Listed::Revocations { place, view }) => {
            let records = open(place).await?;
            let shown =
                show_all(view.limit, view.json, async |after| records.revocations(Order::NewestFirst, after).await);
            finish(shown.await, records).await
        }
    }
}

pub(crate) async fn show(show: Show) -> Result<(), Failure> {
    let now = SystemClock.now().wall;
    let records = open(show.place).await?;
    let found = async {
        if let Ok(serial) = show.what.parse::<SerialPrefix>()
            && let Some(mut found) = records.certificate(serial.as_str()).await?
        {
            let pem = found.certificate.pem.take().filter(|_| show.pem);
            if show.json {
                found.certificate.pem = pem;
                return json(&found).map(Some);
            }
            let pem = pem.map(|pem| format!("\n{pem}")).unwrap_or_default();
            return Ok(Some(history(&found, now) + &pem));
        }
        let Ok(id) = WorkerId::new(&show.what) else { return Ok(None) };
        let Some(found) = records.worker(&id).await? else { return Ok(None) };
        Ok(Some(if show.json { json(&found)? } else { worker(&found, now) }))
    };
    let found: Result<Option<String>, Failure> = found.await;
    records.close().await;
    if let Some(text) = found? {
        return say(&text);
    }
    let what = printable(&show.what, 80);
    let message = format!("nothing is recorded of {what}: expected a whole serial or a worker id, as in `list`");
    Err(Failure { code: CONFIGURATION, message })
}

pub(crate) async fn export(export: Export) -> Result<(), Failure> {
    let records = open(export.place).await?;
    let done = match &export.out {
        None => write_export(&records, export.what, export.format, export.pem, &mut io::stdout().lock()).await,
        Some(path) => {
            let staging = staging_of(path);
            let written = async {
                let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&staging);
                let mut file = file.map_err(cannot_write(&staging))?;
                write_export(&records, export.what, export.format, export.pem, &mut file).await?;
                file.sync_all().and_then(|()| fs::rename(&staging, path)).map_err(cannot_write(path))
            }
            .await;
            if written.is_err() {
                let _ = fs::remove_file(&staging);
            }
            written
        }
    };
    finish(done, records).await
}

pub(crate) async fn check(place: Place) -> Result<(), Failure> {
    let records = open(place).await?;
    let report = records.check().await;
    records.close().await;
    let report = report?;
    if report.problems.is_empty() {
        return say(&format!("good: {} certificates are as their rows say\n", report.certificates));
    }
    let lines: Vec<String> = report.problems.iter().map(|problem| printable(problem, 300)).collect();
    let message = format!("the record does not fit itself:\n  {}", lines.join("\n  "));
    Err(Failure { code: DAMAGED, message })
}

pub(crate) async fn open(place: Place) -> Result<Records, Failure> {
    let (data_dir, database) = place.resolve()?;
    Ok(Records::open(&data_dir, &database, Arc::new(SystemClock)).await?)
}

async fn finish(done: Result<(), Failure>, records: Records) -> Result<(), Failure> {
    records.close().await;
    done
}

/// Prints rows as they come, at most `limit`; 0 is all.
async fn show_all<T: Row>(
    limit: usize,
    as_json: bool,
    fetch: impl AsyncFnMut(Option<&Position>) -> Result<Page<T>, StateError>,
) -> Result<(), Failure> {
    let now = SystemClock.now().wall;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut shown = 0;
    if !as_json {
        out.write_all(T::HEAD.as_bytes()).map_err(cannot_say)?;
    }
    let more = each(fetch, |record| {
        if limit > 0 && shown == limit {
            return Ok(Next::Stop);
        }
        shown += 1;
        let written =
            if as_json { write_json_line(record, &mut out) } else { out.write_all(record.line(now).as_bytes()) };
        written.map(|()| Next::Go).map_err(cannot_say)
    })
    .await?;
    out.flush().map_err(cannot_say)?;
    if more == Next::Stop {
        let _ = writeln!(io::stderr(), "crank-ca: there are more; --limit 0 shows all");
    }
    Ok(())
}

async fn write_export(
    records: &Records,
    what: What,
    format: Format,
    pem: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let order = Order::OldestFirst;
    match what {
        What::Certificates => {
            let query = CertificateQuery { order, pem, ..CertificateQuery::default() };
            write_all::<CertificateRecord>(format, out, async |after| records.certificates(&query, after).await).await
        }
        What::Identities => {
            let query = IdentityQuery::default();
            write_all::<IdentityRecord>(format, out, async |after| records.identities(&query, after).await).await
        }
        What::Tokens => write_all::<TokenRecord>(format, out, async |after| records.tokens(after).await).await,
        What::Decisions => {
            let query = DecisionQuery { order, ..DecisionQuery::default() };
            write_all::<DecisionRecord>(format, out, async |after| records.decisions(&query, after).await).await
        }
        What::Revocations => {
            write_all::<RevocationRecord>(format, out, async |after| records.revocations(order, after).await).await
        }
    }
}

async fn write_all<T: Record>(
    format: Format,
    out: &mut impl Write,
    fetch: impl AsyncFnMut(Option<&Position>) -> Result<Page<T>, StateError>,
) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let mut out = BufWriter::new(out);
            each(fetch, |record| write_json_line(record, &mut out).map(|()| Next::Go).map_err(cannot_say)).await?;
            out.flush().map_err(cannot_say)
        }
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(out);
            writer.write_record(T::COLUMNS).map_err(|error| cannot_say(error.into()))?;
            each(fetch, |record| {
                let cells = csv_cells(record).map_err(cannot_say)?;
                writer.write_record(cells).map(|()| Next::Go).map_err(|error| cannot_say(error.into()))
            })
            .await?;
            writer.flush().map_err(cannot_say)
        }
    }
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

/// Every record, page by page, until `take` has had enough.
async fn each<T>(
    mut fetch: impl AsyncFnMut(Option<&Position>) -> Result<Page<T>, StateError>,
    mut take: impl FnMut(&T) -> Result<Next, Failure>,
) -> Result<Next, Failure> {
    let mut after = None;
    loop {
        let page = fetch(after.as_ref()).await?;
        for record in &page.records {
            if take(record)? == Next::Stop {
                return Ok(Next::Stop);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(Next::Go);
        }
    }
}

fn json(record: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(record).map_err(|error| cannot_say(error.into()))?;
    Ok(text + "\n")
}

fn staging_of(path: &Path) -> PathBuf {
    let mut staging = path.as_os_str().to_owned();
    staging.push(format!(".{}.new", std::process::id()));
    PathBuf::from(staging)
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure { code: CANNOT_WRITE, message: format!("cannot write {}: {error}", path.display()) }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn cannot_say(error: io::Error) -> Failure {
    Failure { code: CANNOT_WRITE, message: format!("cannot write what was found: {error}") }
}

/// As `now` less a length, or as a time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Since {
    Ago(std::time::Duration),
    At(OffsetDateTime),
}

impl Since {
    pub(crate) fn before(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::Ago(length) => now.checked_sub(length.try_into().unwrap_or(time::Duration::MAX)).unwrap_or(FIRST),
            Self::At(at) => at,
        }
    }
}

const FIRST: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
