//! Owns the test of the examples for readers in other languages: each reads the files of a running agent, and the first
//! thing it does with them is a mutual TLS connection to that agent's listener. Those in Rust are doctests.

use crate::commands::session_of;
use crate::markdown::Document;
use crate::session::run;

const PAGE: &str = "docs/reading-the-files.md";

/// The one example in `language`.
fn example(language: &str) -> String {
    let mut blocks = Document::read(PAGE).blocks_in(language);
    assert_eq!(blocks.len(), 1, "{language}");
    blocks.remove(0)
}

/// Runs `commands` beside an agent with published files, with `source` in the file `name`.
fn beside_an_agent(name: &str, source: &str, commands: &str) {
    assert!(!source.contains("\nEND\n"));
    let ended = run(&format!("{}\ncat > {name} <<'END'\n{source}\nEND\n{commands}", session_of("README.md")));
    assert!(ended.success, "{}", ended.output);
    assert!(ended.output.contains("\nmutual TLS, twice\n"), "{}", ended.output);
}

#[test]
#[ignore = "needs python3"]
fn the_python_example_reads_a_whole_pair_both_ways() {
    let use_it = "
import socket, sys
for make in (from_bundle, from_pair):
    with socket.create_connection(('localhost', 9443)) as plain:
        with make(sys.argv[1]).wrap_socket(plain, server_hostname='localhost') as tls:
            tls.sendall(b'GET /metrics HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n')
            # The agent knows who asks, and has nobody on its list.
            assert tls.recv(100).startswith(b'HTTP/1.1 403 '), make
print('mutual TLS, twice')
";
    beside_an_agent("example.py", &(example("python") + use_it), "python3 example.py \"$CERT_DIR\"");
}

#[test]
#[ignore = "needs go"]
fn the_go_example_reads_a_whole_pair_both_ways() {
    let around = r#"
package main

import ("crypto/tls"; "crypto/x509"; "fmt"; "net/http"; "os")

func main() {
	roots := x509.NewCertPool()
	pem, _ := os.ReadFile("/etc/certs/ca.crt")
	roots.AppendCertsFromPEM(pem)
	for _, read := range []func() (tls.Certificate, error){fromBundle, fromPair} {
		certificate, err := read()
		if err != nil { panic(err) }
		config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}
		client := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		// The agent knows who asks, and has nobody on its list.
		answer, err := client.Get("https://localhost:9443/metrics")
		if err != nil || answer.StatusCode != 403 { panic(fmt.Sprint(answer, err)) }
	}
	fmt.Println("mutual TLS, twice")
}
"#;
    let source = format!("{around}\n{}", example("go"));
    let commands = "sed -i \"s|/etc/certs|$CERT_DIR|\" example.go\nGOTOOLCHAIN=local GOFLAGS= go run example.go";
    beside_an_agent("example.go", &source, commands);
}

#[test]
#[ignore = "needs openssl"]
fn the_shell_example_connects_with_one_generation() {
    let commands = "sed -i \"s|/etc/certs|$CERT_DIR|\" example.sh\nsh -eu example.sh && sh -eu example.sh \
                    && echo && echo 'mutual TLS, twice'";
    beside_an_agent("example.sh", &example("sh"), commands);
}

#[test]
#[ignore = "needs python3"]
fn the_settings_of_uvicorn_are_those_of_a_server_that_demands_certificates() {
    let settings = Document::read("docs/rust-library.md").blocks_in("json").remove(0);
    // What uvicorn does with them.
    let use_them = "
import json, ssl, sys
settings = json.loads(open('settings.json').read().replace('/etc/certs', sys.argv[1]))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(settings.pop('ssl_certfile'), settings.pop('ssl_keyfile'))
context.verify_mode = ssl.VerifyMode(settings.pop('ssl_cert_reqs'))
context.load_verify_locations(settings.pop('ssl_ca_certs'))
assert not settings and context.verify_mode == ssl.CERT_REQUIRED and len(context.get_ca_certs()) == 1
print('certificates demanded')
";
    let write = |name: &str, text: &str| format!("cat > {name} <<'END'\n{text}\nEND");
    let session = [
        session_of("README.md"),
        write("settings.json", &settings),
        write("use.py", use_them),
        "python3 use.py \"$CERT_DIR\"".to_owned(),
    ];
    let ended = run(&session.join("\n"));
    assert!(ended.success && ended.output.contains("certificates demanded"), "{}", ended.output);
}
