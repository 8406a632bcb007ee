//! Tables that may come several times: `[[deliver]]`.

use std::path::Path;
use std::time::Duration;

use crank_agent::config::{ConfigReport, load, resolve};
use crank_agent::deliver::{Action, HttpTarget, Method, ProofAddress, StartTls};

use crate::{load_file, with_file};

const FILE: &str = r#"
worker_id = "streaming"

[[deliver]]
name = "nginx"
signal = "HUP"
pid_file = "/run/nginx.pid"
probe = "localhost:8443"

[[deliver]]
name = "postgres"
exec = ["/usr/bin/psql", "-c", "SELECT pg_reload_conf()"]
timeout = "3s"
attempts = 2
probe = "db.mesh:5432"
probe_starttls = "postgres"
not_served = "not-ready"

[[deliver]]
name = "app"
socket = "/run/app.sock"
path = "/-/reload"
"#;

fn problems(file: &str) -> Vec<(String, String)> {
    let report: ConfigReport = load_file(format!("worker_id = \"a\"\n{file}")).unwrap_err();
    report.problems.into_iter().map(|problem| (problem.key.unwrap_or_default(), problem.expected)).collect()
}

#[test]
fn deliveries_are_read_in_their_order_and_read_back_as_shown() {
    let (_directory, arguments) = with_file(&[], FILE);
    let resolution = resolve(&arguments).unwrap();
    let [nginx, postgres, app] = &resolution.config.deliveries[..] else {
        panic!("{:?}", resolution.config.deliveries)
    };
    assert!(matches!(&nginx.action, Some(Action::Signal(signal, target))
        if signal.name() == "HUP" && target.pid_file.as_deref() == Some(Path::new("/run/nginx.pid"))));
    assert_eq!((nginx.timeout, nginx.attempts), (Duration::from_secs(10), 5));
    let proof = nginx.proof.as_ref().unwrap();
    assert_eq!(proof.address, ProofAddress::Tcp("localhost".to_owned(), 8443));
    assert_eq!(proof.server_name.to_str(), "streaming", "every worker is called localhost");
    assert!(!proof.not_ready);
    assert!(matches!(&postgres.action, Some(Action::Exec(argv)) if argv.len() == 3));
    let proof = postgres.proof.as_ref().unwrap();
    assert_eq!((proof.starttls, proof.not_ready), (Some(StartTls::Postgres), true));
    assert_eq!(proof.server_name.to_str(), "db.mesh");
    let Some(Action::Call(call)) = &app.action else { panic!("{:?}", app.action) };
    assert_eq!(call.method, Method::Post);
    assert_eq!(call.target, HttpTarget::Unix { socket: "/run/app.sock".into(), path: "/-/reload".to_owned() });
    assert_eq!(app.proof, None);
    assert_eq!(load_file(resolution.to_toml()).unwrap(), resolution.config);
    let json = resolution.to_json();
    assert_eq!(json["settings"]["deliver.2.name"]["value"], "postgres");
}

#[test]
fn environment_and_flags_reach_a_delivery_by_its_number() {
    let (_directory, arguments) =
        with_file(&[("CRANK_DELIVER_1_SIGNAL", "USR1"), ("CRANK_DELIVER_4_PROBE", "/run/w.sock")], FILE);
    let arguments = arguments.with_flag("--set", "deliver.4.name", "own").with_flag("--set", "deliver.1.attempts", "9");
    let config = load(&arguments).unwrap();
    let names: Vec<&str> = config.deliveries.iter().map(|delivery| delivery.name.as_str()).collect();
    assert_eq!(names, ["nginx", "postgres", "app", "own"]);
    let nginx = &config.deliveries[0];
    assert!(matches!(&nginx.action, Some(Action::Signal(signal, _)) if signal.name() == "USR1"));
    assert_eq!(nginx.attempts, 9);
    for key in ["deliver.name", "deliver.0.name", "deliver.01.name", "deliver.21.name", "deliver.x.name"] {
        let (_directory, arguments) = with_file(&[], FILE);
        assert!(load(&arguments.with_flag("--set", key, "x")).is_err(), "{key}");
    }
}

#[test]
fn what_does_not_fit_together_is_named_with_the_delivery() {
    let found = problems(
        "[[deliver]]\nname = \"a\"\nsignal = \"HUP\"\n[[deliver]]\nname = \"a\"\nexec = [\"/bin/true\"]\nurl = \"https://x\"\n\
         [[deliver]]\nprobe = \"localhost:1\"\n[[deliver]]\nname = \"d\"\npid_file = \"/p\"\nprobe_starttls = \"postgres\"\n",
    );
    let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    for key in [
        "deliver.1.signal",
        "deliver.2.url",
        "deliver.2.name",
        "deliver.3.name",
        "deliver.4.signal",
        "deliver.4.probe_starttls",
    ] {
        assert!(keys.contains(&key), "{key} is not in {found:?}");
    }
}

#[test]
fn values_that_are_wrong_by_themselves_are_named_with_what_was_expected() {
    for (line, expected) in [
        ("signal = \"KILL\"", "HUP"),
        ("process = \"/usr/sbin/nginx\"", "without its directory"),
        ("exec = [\"nginx\"]", "absolute path"),
        ("exec = []", "absolute path"),
        ("url = \"http://localhost/reload\"", "https"),
        ("attempts = 0", "from 1 to 100"),
        ("attempts = \"5\"", "without quotes"),
        ("probe = \"8443\"", "host:port"),
        ("probe_name = \"two words\"", "DNS name"),
        ("not_served = \"panic\"", "not-ready"),
        ("name = \"Nginx\"", "lower-case"),
        ("colour = \"red\"", "known key"),
    ] {
        let found = problems(&format!("[[deliver]]\nname = \"x\"\n{line}\n").replace("name = \"x\"\nname", "name"));
        assert!(found.iter().any(|(_, text)| text.contains(expected)), "{line}: {found:?}");
    }
    let table = problems("[deliver]\nname = \"x\"\n");
    assert!(table[0].1.contains("[[deliver]]"), "{table:?}");
    let many = problems(&"[[deliver]]\nname = \"x\"\nprobe = \"localhost:1\"\n".repeat(21));
    assert!(many[0].1.contains("at most 20"), "{many:?}");
}
