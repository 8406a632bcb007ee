//! Owns the delivery by a program: run without a shell, with an environment of its own, and ended with all that it started.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::action::{Failure, Occasion};
use crate::printable::printable;

/// Runs `argv`. Success is exit code 0; what it prints goes to the log.
pub(super) async fn run(argv: &[String], occasion: &Occasion) -> Result<(), Failure> {
    let [program, arguments @ ..] = argv else { return Err(Failure::Failed("there is no program".to_owned())) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment(occasion))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, to be ended as a whole.
        .process_group(0);
    let mut child = command.spawn().map_err(|error| Failure::Failed(format!("cannot run {program}: {error}")))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let read = [
        AbortOnDropHandle::new(tokio::spawn(head(child.stdout.take()))),
        AbortOnDropHandle::new(tokio::spawn(head(child.stderr.take()))),
    ];
    let status = child.wait().await;
    // What it leaves behind on purpose, as a service manager does, lives on, and may keep the streams open.
    group.0 = None;
    let mut said = Vec::new();
    for stream in read {
        if let Ok(Ok(text)) = timeout(LAST_WORDS, stream).await {
            said.push(text);
        }
    }
    said.retain(|text| !text.is_empty());
    let said = said.join(" / ");
    let status = status.map_err(|error| Failure::Failed(format!("cannot wait for {program}: {error}")))?;
    if status.success() {
        tracing::info!(delivery = %occasion.delivery, output = %said, "{program} has ended well");
        return Ok(());
    }
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    Err(Failure::Failed(format!("{program} ended with {status}{said}")))
}

/// The only variables that the program gets.
fn environment(occasion: &Occasion) -> [(&'static str, String); 8] {
    let directory = occasion.directory.to_string_lossy().into_owned();
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("CRANK_DELIVERY", occasion.delivery.clone()),
        ("CRANK_WORKER_ID", occasion.worker_id.clone()),
        ("CRANK_CERT_DIR", directory),
        ("CRANK_CERT_SERIAL", occasion.bundle.serial().to_owned()),
        ("CRANK_CERT_NOT_AFTER", occasion.bundle.not_after().format(&Rfc3339).unwrap_or_default()),
        ("CRANK_CORRELATION_ID", occasion.correlation_id.clone()),
        ("LC_ALL", "C.UTF-8".to_owned()),
    ]
}

/// The beginning of what a stream has, printable; the rest is read and forgotten, so that nobody waits to be read.
async fn head(stream: Option<impl AsyncRead + Unpin + Send>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut text = Vec::new();
    let read: io::Result<()> = async {
        (&mut stream).take(OUTPUT_LIMIT).read_to_end(&mut text).await?;
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }
    .await;
    // What was read before a failure is worth as much.
    drop(read);
    printable(String::from_utf8_lossy(&text).trim(), OUTPUT_SHOWN)
}

/// A process group that ends with this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// How long the streams of a program that has ended are read on.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The most of each stream that is kept, in bytes.
const OUTPUT_LIMIT: u64 = 4 * 1024;

/// The most of it that is shown, in characters.
const OUTPUT_SHOWN: usize = 1_000;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::deliver::action::perform;
    use crate::deliver::settings::Action;
    use crate::testing::{TestCa, identity};

    fn occasion(directory: &Path) -> Occasion {
        let bundle = TestCa::new().bundle(&identity("streaming"), SystemClock.now().wall, Duration::from_hours(1));
        Occasion {
            delivery: "test".to_owned(),
            worker_id: "streaming".to_owned(),
            directory: directory.to_owned(),
            correlation_id: "req_1".to_owned(),
            bundle: Arc::new(bundle),
            clock: Arc::new(SystemClock),
        }
    }

    fn shell(script: &str) -> Action {
        Action::Exec(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
    }

    #[tokio::test]
    async fn a_program_gets_the_facts_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let occasion = occasion(directory.path());
        let file = directory.path().join("seen");
        let script = format!("env > {}", file.display());
        perform(&shell(&script), &occasion, Duration::from_secs(20)).await.unwrap();
        let seen = std::fs::read_to_string(file).unwrap();
        // The shell's own.
        let names = seen.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name);
        let mut names: Vec<&str> = names.filter(|name| !["PWD", "_", "OLDPWD", "SHLVL"].contains(name)).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "CRANK_CERT_DIR",
                "CRANK_CERT_NOT_AFTER",
                "CRANK_CERT_SERIAL",
                "CRANK_CORRELATION_ID",
                "CRANK_DELIVERY",
                "CRANK_WORKER_ID",
                "LC_ALL",
                "PATH"
            ]
        );
        assert!(seen.contains(&format!("CRANK_CERT_SERIAL={}", occasion.bundle.serial())), "{seen}");
    }

    #[tokio::test]
    async fn a_failure_is_told_with_what_the_program_said_however_much_that_is() {
        let directory = tempfile::tempdir().unwrap();
        let occasion = occasion(directory.path());
        let script = "echo 'no\x1b[31m such unit' >&2; yes | head -c 1000000; exit 3";
        let Err(Failure::Failed(reason)) = perform(&shell(script), &occasion, Duration::from_secs(20)).await else {
            panic!("it was taken for a success")
        };
        assert!(reason.contains("exit status: 3") && reason.contains("such unit"), "{reason}");
        assert!(reason.len() < 8_000 && !reason.contains('\u{1b}'), "{reason}");
        let missing = Action::Exec(vec!["/nonexistent/program".to_owned()]);
        let Err(Failure::Failed(reason)) = perform(&missing, &occasion, Duration::from_secs(20)).await else {
            panic!("it was taken for a success")
        };
        assert!(reason.contains("/nonexistent/program"), "{reason}");
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let occasion = occasion(directory.path());
        let file = directory.path().join("child");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let result = perform(&shell(&script), &occasion, Duration::from_millis(500)).await;
        assert!(matches!(result, Err(Failure::Failed(reason)) if reason.contains("did not end within")));
        let child: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let mut patience = 100;
        while crate::deliver::process::Process::open(child).unwrap().is_some() {
            patience -= 1;
            assert!(patience > 0, "{child} lives on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
