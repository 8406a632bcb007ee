//! Owns the reading of single values: text in, a typed value or what was expected out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tracing_subscriber::filter::Targets;

use super::draft::KindOfCa;
use super::{Environment, LogFormat, RevokedFiles};
use crate::duration::{format_duration, parse_duration};
use crate::identity::{DnsName, SpiffeId, SubjectAltName};
use crate::schedule::Fraction;
use crate::serve::AllowedClient;
use crate::unix_socket::PATH_LIMIT;
use crate::workload::AllowedCaller;

/// Accepts `true` and nothing else: for the switches that exist only to say that they cannot be turned off.
pub(super) fn only_true(text: &str) -> Result<(), String> {
    if text == "true" {
        return Ok(());
    }
    Err("only `true`: encryption and verification cannot be turned off".to_owned())
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "`true` or `false`".to_owned())
}

pub(super) fn environment(text: &str) -> Result<Environment, String> {
    match text {
        "development" => Ok(Environment::Development),
        "production" => Ok(Environment::Production),
        _ => Err("`development` or `production`".to_owned()),
    }
}

pub(super) fn revoked_files(text: &str) -> Result<RevokedFiles, String> {
    match text {
        "keep" => Ok(RevokedFiles::Keep),
        "withdraw" => Ok(RevokedFiles::Withdraw),
        _ => Err("`keep` or `withdraw`".to_owned()),
    }
}

/// A number of bytes: `4096`, `64KiB`, `10MiB`.
pub(super) fn size(text: &str, range: (usize, usize)) -> Result<usize, String> {
    let (number, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1024),
        (_, Some(number)) => (number, 1024 * 1024),
        _ => (text, 1),
    };
    let size = number.trim_end().parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|size| (range.0..=range.1).contains(size))
        .ok_or_else(|| format!("{} to {}, such as `10MiB`", size_text(range.0), size_text(range.1)))
}

/// The shortest way to write a number of bytes.
pub(super) fn size_text(size: usize) -> String {
    match (size.is_multiple_of(1024 * 1024), size.is_multiple_of(1024)) {
        (true, _) => format!("{}MiB", size / (1024 * 1024)),
        (_, true) => format!("{}KiB", size / 1024),
        _ => size.to_string(),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "pretty" => Ok(LogFormat::Pretty),
        _ => Err("`auto`, `json` or `pretty`".to_owned()),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    // The parsers of tracing-subscriber 0.3 panic on some text that is not ASCII.
    let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if plain && text.parse::<Targets>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("a filter such as `info` or `info,crank_agent=debug`".to_owned())
}

/// A duration within `range`, both ends included.
pub(super) fn duration(text: &str, range: (Duration, Duration)) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(plain)?;
    if duration < range.0 || duration > range.1 {
        return Err(format!("{} to {}", format_duration(range.0), format_duration(range.1)));
    }
    Ok(duration)
}

/// A whole number within `range`, both ends included.
pub(super) fn count(text: &str, range: (u32, u32)) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (range.0..=range.1).contains(number));
    number.ok_or_else(|| format!("a number from {} to {}", range.0, range.1))
}

/// A name that is good as a label: of metrics, of events.
pub(super) fn label(text: &str) -> Result<String, &'static str> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = !text.starts_with('-') && !text.ends_with('-');
    if (1..=63).contains(&text.len()) && text.bytes().all(good) && ends {
        return Ok(text.to_owned());
    }
    Err("at most 63 lower-case letters, digits and `-`, such as `nginx`")
}

/// The name of a program as the kernel knows it, which keeps 15 bytes.
pub(super) fn process_name(text: &str) -> Result<String, &'static str> {
    if (1..=15).contains(&text.len()) && !text.contains('/') && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("the name of a program without its directory, such as `nginx`; of a longer one the first 15 bytes")
}

/// A program by its absolute path, and its arguments.
pub(super) fn argv(texts: &[&str]) -> Result<Vec<String>, String> {
    let program = texts.first().ok_or("the absolute path of a program, then its arguments")?;
    absolute_path(program)?;
    if texts.iter().any(|text| text.contains('\0')) {
        return Err("arguments without zero bytes".to_owned());
    }
    Ok(texts.iter().map(ToString::to_string).collect())
}

/// The path part of a URL.
pub(super) fn http_path(text: &str) -> Result<String, &'static str> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if text.starts_with('/') && plain { Ok(text.to_owned()) } else { Err("a path such as `/-/reload`") }
}

/// A name or address to ask for in TLS.
pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, &'static str> {
    ServerName::try_from(text.to_owned()).map_err(|_| "a DNS name or an IP address")
}

/// Whether a worker that serves another certificate is not ready.
pub(super) fn not_served(text: &str) -> Result<bool, &'static str> {
    match text {
        "report" => Ok(false),
        "not-ready" => Ok(true),
        _ => Err("`report` or `not-ready`"),
    }
}

/// A path that means the same wherever the agent is started.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    if text.chars().any(char::is_control) {
        return Err("a path without control characters".to_owned());
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err("an absolute path, beginning with `/`".to_owned());
    }
    Ok(path.to_owned())
}

/// The path of a Unix socket.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = absolute_path(text)?;
    if text.len() > PATH_LIMIT { Err(socket_path_too_long(text.len())) } else { Ok(path) }
}

/// What is expected of the path of a Unix socket that has `length` bytes.
pub(super) fn socket_path_too_long(length: usize) -> String {
    format!("at most {PATH_LIMIT} bytes, all that the system takes for a Unix socket (this one has {length})")
}

/// `sha256:` and 64 hexadecimal digits, which colons may separate in pairs.
pub(super) fn fingerprint(text: &str) -> Result<[u8; 32], String> {
    const EXPECTED: &str = "`sha256:` and the 64 hexadecimal digits of the digest of the root certificate's DER form";
    let digits = text.strip_prefix("sha256:").ok_or(EXPECTED)?;
    let digits: Vec<u8> = if digits.contains(':') {
        let pairs: Vec<&[u8]> = digits.split(':').map(str::as_bytes).collect();
        if pairs.iter().any(|pair| pair.len() != 2) {
            return Err(EXPECTED.to_owned());
        }
        pairs.concat()
    } else {
        digits.as_bytes().to_vec()
    };
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return Err(EXPECTED.to_owned());
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        match (value(pair[0]), value(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err(EXPECTED.to_owned()),
        }
    }
    Ok(bytes)
}

pub(super) fn kind_of_ca(text: &str) -> Result<KindOfCa, String> {
    match text {
        "crank" => Ok(KindOfCa::Crank),
        "spiffe-workload-api" => Ok(KindOfCa::WorkloadApi),
        _ => Err("`crank` or `spiffe-workload-api`".to_owned()),
    }
}

/// The socket of a Workload API, as SPIFFE writes it (Workload Endpoint, section 4) or as a path.
pub(super) fn endpoint(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    let path = socket_path(path);
    path.map_err(|expected| format!("`unix://` and a path, as `unix:///run/spire/sockets/agent.sock`: {expected}"))
}

/// A file mode in octal, as `0600`. Only those in which no one but owner and group reads, and no one runs.
pub(super) fn key_mode(text: &str) -> Result<u32, String> {
    match text {
        "0600" => Ok(0o600),
        "0640" => Ok(0o640),
        "0400" => Ok(0o400),
        "0440" => Ok(0o440),
        _ => Err("\"0600\", \"0640\", \"0400\" or \"0440\"".to_owned()),
    }
}

/// A file mode in octal, as `0644`, in which no one but the owner writes, and no one runs.
pub(super) fn file_mode(text: &str) -> Result<u32, String> {
    match text {
        "0644" => Ok(0o644),
        "0444" => Ok(0o444),
        text => key_mode(text).map_err(|modes| format!("\"0644\", \"0444\", {modes}")),
    }
}

/// An address to listen on; `None` is `off`.
pub(super) fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| "an address and port such as `0.0.0.0:9443` or `[::]:9443`, or `off`".to_owned())
}

pub(super) fn names(texts: &[&str]) -> Result<Vec<SubjectAltName>, String> {
    each(texts, |text| text.parse::<SubjectAltName>().map_err(|error| error.reason))
}

pub(super) fn allowed_clients(texts: &[&str]) -> Result<Vec<AllowedClient>, String> {
    each(texts, |text| {
        if text.starts_with("spiffe://") {
            SpiffeId::new(text).map(AllowedClient::Spiffe).map_err(|error| error.reason)
        } else {
            DnsName::new(text).map(AllowedClient::Dns).map_err(|error| error.reason)
        }
    })
}

pub(super) fn allowed_callers(texts: &[&str]) -> Result<Vec<AllowedCaller>, String> {
    each(texts, str::parse)
}

/// Two numbers, as they are and as a range of parts of a lifetime.
pub(super) fn fraction(texts: &[&str]) -> Result<(f64, f64, Fraction), String> {
    const EXPECTED: &str = "two numbers with 0 < from <= to < 1, such as [0.5, 0.7]";
    let [from, to] = texts else { return Err(EXPECTED.to_owned()) };
    let (Ok(from), Ok(to)) = (from.parse(), to.parse()) else { return Err(EXPECTED.to_owned()) };
    Fraction::new(from, to).map(|fraction| (from, to, fraction)).map_err(|_| EXPECTED.to_owned())
}

/// A reason as an owned text, without the word that the report says itself.
pub(super) fn plain(reason: &str) -> String {
    reason.strip_prefix("expected ").unwrap_or(reason).to_owned()
}

/// Reads every element; the error says which one is wrong.
fn each<T>(texts: &[&str], read: impl Fn(&str) -> Result<T, &'static str>) -> Result<Vec<T>, String> {
    let read_one = |(index, text): (usize, &&str)| {
        read(text).map_err(|reason| format!("for element {}: {}", index + 1, plain(reason)))
    };
    texts.iter().enumerate().map(read_one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_switch_takes_true_alone() {
        assert_eq!(only_true("true"), Ok(()));
        for bad in ["", "false", "True", "TRUE", "1", "yes", "on", "true ", "true\n"] {
            assert!(only_true(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_fingerprint_is_read_with_and_without_colons() {
        let plain = format!("sha256:{}", "aB".repeat(32));
        let colons = format!("sha256:{}", vec!["ab"; 32].join(":"));
        assert_eq!(fingerprint(&plain), Ok([0xab; 32]));
        assert_eq!(fingerprint(&colons), Ok([0xab; 32]));
        assert_eq!(crate::crypto::sha256_text(&[0xab; 32]), plain.to_lowercase());
    }

    #[test]
    fn a_fingerprint_of_another_form_is_refused() {
        let digits = "ab".repeat(32);
        let odd_colons = format!("sha256:a:{}", &digits[1..]);
        for bad in [
            digits.clone(),
            format!("sha1:{digits}"),
            format!("sha256:{digits}ab"),
            format!("sha256:{}", &digits[2..]),
            format!("sha256:{}g", &digits[1..]),
            format!("sha256:+{}", &digits[1..]),
            odd_colons,
            "sha256:".to_owned(),
            "sha256:é".repeat(16),
        ] {
            assert!(fingerprint(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_absolute_and_sockets_fit_the_system() {
        assert!(absolute_path("certs").is_err());
        assert!(absolute_path("~/certs").is_err());
        assert!(absolute_path("/a\0b").is_err());
        assert!(socket_path(&format!("/{}", "a".repeat(106))).is_ok());
        let error = socket_path(&format!("/{}", "a".repeat(107))).unwrap_err();
        assert!(error.contains("107 bytes") && error.contains("has 108"), "{error}");
    }

    #[test]
    fn modes_that_let_others_read_do_not_exist() {
        for mode in 0..=0o7777_u32 {
            let accepted = key_mode(&format!("{mode:04o}"));
            assert_eq!(accepted.is_ok(), [0o600, 0o640, 0o400, 0o440].contains(&mode), "{mode:o}");
            assert!(accepted.is_err() || accepted == Ok(mode), "{mode:o}");
        }
    }

    #[test]
    fn a_filter_that_the_parser_chokes_on_is_refused() {
        assert!(log_filter("info,crank_agent=debug").is_ok());
        for bad in ["m=loud", "[\u{b39}={E", "info\n"] {
            assert!(log_filter(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_element_that_is_wrong_is_named() {
        let error = allowed_clients(&["prometheus.monitoring", "spiffe://TD/x"]).unwrap_err();
        assert!(error.starts_with("for element 2: a trust domain"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_panic(text in any::<String>()) {
            let ascii: String = text.chars().map(|character| char::from(character as u8 & 0x7f)).collect();
            let _ = (log_filter(&ascii), fingerprint(&ascii));
            let _ = (fingerprint(&text), listen(&text), absolute_path(&text), log_filter(&text));
            let _ = (fraction(&[&text, &text]), names(&[&text]), key_mode(&text));
            let _ = duration(&text, (Duration::ZERO, Duration::MAX));
        }
    }
}
