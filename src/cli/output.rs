//! Owns writing to the terminal: results to standard output, everything else to standard error.

use std::io::{self, Write};

use crank_agent::exit::Exit;

/// Writes a command's result, and ends as `exit` unless that fails. A reader that has seen enough is no failure.
pub(crate) fn result(bytes: impl AsRef<[u8]>, exit: Exit) -> Exit {
    let mut output = io::stdout().lock();
    match output.write_all(bytes.as_ref()).and_then(|()| output.flush()) {
        Ok(()) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit,
        Err(error) => failure(format_args!("cannot write to standard output: {error}"), Exit::Internal),
    }
}

/// Writes why a command failed, and ends as `exit`.
pub(crate) fn failure(message: impl std::fmt::Display, exit: Exit) -> Exit {
    // Where not even this can be written, the exit code has to do.
    let _ = writeln!(io::stderr().lock(), "crank-agent: {message}");
    exit
}
