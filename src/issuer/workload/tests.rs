//! The issuer against a Workload API that says whatever a test wants.

use std::path::Path;

use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::*;
use crate::identity::{CertificateBundle, RequestedIdentity, SpiffeId};
use crate::testing::{TestCa, identity};

const ID: &str = "spiffe://crank.local/worker/streaming";
const NOW: time::OffsetDateTime = time::macros::datetime!(2026-01-01 00:00 UTC);

/// What the API does on a call.
#[derive(Clone)]
enum Act {
    Head(u16, &'static [(&'static str, &'static str)]),
    Data(Bytes),
    Trailers(&'static [(&'static str, &'static str)]),
    /// Wakes up the test, and waits until it says to go on.
    Pause,
    Reset,
    Silence,
}

const GRPC: Act = Act::Head(200, &[("content-type", "application/grpc")]);

struct Api {
    directory: tempfile::TempDir,
    calls: mpsc::UnboundedReceiver<Request<()>>,
    go_on: mpsc::UnboundedSender<()>,
    _task: AbortOnDropHandle<()>,
}

impl Api {
    /// Answers each call by the same acts.
    fn start(acts: Vec<Act>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        let (told, calls) = mpsc::unbounded_channel();
        let (go_on, mut going_on) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut connection) = h2::server::handshake(stream).await else { continue };
                let Some(Ok((request, respond))) = connection.accept().await else { continue };
                let _ = told.send(request.map(drop));
                tokio::select! {
                    () = act(respond, &acts, &mut going_on) => {}
                    _ = connection.accept() => {}
                }
                connection.graceful_shutdown();
                let _ = std::future::poll_fn(|context| connection.poll_closed(context)).await;
            }
        });
        Self { directory, calls, go_on, _task: AbortOnDropHandle::new(task) }
    }

    fn issuer(&self) -> WorkloadIssuer {
        issuer(&self.directory.path().join("api.sock"), None, None)
    }
}

async fn act(mut respond: h2::server::SendResponse<Bytes>, acts: &[Act], going_on: &mut mpsc::UnboundedReceiver<()>) {
    let headers = |of: &[(&'static str, &'static str)]| {
        of.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
    };
    let mut stream = None;
    for act in acts {
        match act {
            Act::Head(status, of) => {
                let mut response = Response::new(());
                *response.status_mut() = (*status).try_into().unwrap();
                *response.headers_mut() = headers(of);
                stream = Some(respond.send_response(response, false).unwrap());
            }
            Act::Data(data) => stream.as_mut().unwrap().send_data(data.clone(), false).unwrap(),
            Act::Trailers(of) => stream.as_mut().unwrap().send_trailers(headers(of)).unwrap(),
            Act::Pause => going_on.recv().await.unwrap(),
            Act::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            Act::Silence => std::future::pending().await,
        }
    }
}

fn issuer(socket: &Path, spiffe_id: Option<&str>, hint: Option<&str>) -> WorkloadIssuer {
    let spiffe_id = spiffe_id.map(|id| SpiffeId::new(id).unwrap());
    let source = SvidSource { socket: socket.to_owned(), spiffe_id, hint: hint.map(str::to_owned) };
    WorkloadIssuer::new(source, Duration::from_secs(30))
}

async fn ask(issuer: &WorkloadIssuer) -> Result<Issued, IssueError> {
    let (identity, known) = (identity("streaming"), KnownRoots::default());
    let identity: &RequestedIdentity = &identity;
    let order = Order { csr_pem: "", identity, correlation_id: "", current: None, lapsed: None, known: &known };
    issuer.issue(&order).await
}

fn bundle() -> CertificateBundle {
    TestCa::new().bundle(&identity("streaming"), NOW, Duration::from_hours(1))
}

fn svid(bundle: &CertificateBundle) -> X509Svid {
    X509Svid::of(bundle, ID, "").unwrap()
}

fn response(svids: Vec<X509Svid>) -> X509SvidResponse {
    X509SvidResponse { svids, crl: Vec::new(), federated_bundles: BTreeMap::new() }
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

fn frame(response: &X509SvidResponse) -> Bytes {
    framed(&response.encode_to_vec())
}

#[tokio::test]
async fn key_chain_and_roots_are_taken_from_an_answer_however_it_is_cut() {
    let bundle = bundle();
    let whole = frame(&response(vec![svid(&bundle)]));
    let mut acts = vec![GRPC];
    acts.extend(whole.chunks(301).map(|piece| Act::Data(Bytes::copy_from_slice(piece))));
    acts.push(Act::Silence);
    let mut api = Api::start(acts);
    let issued = ask(&api.issuer()).await.unwrap();
    assert_eq!((issued.chain.as_slice(), issued.trusted.as_slice()), (bundle.chain(), bundle.roots()));
    assert_eq!(issued.publish.roots, bundle.roots());
    assert_eq!(issued.key.unwrap().public_key_der(), bundle.key().public_key_der());
    let call = api.calls.recv().await.unwrap();
    assert_eq!(
        (call.uri().path(), call.uri().authority().unwrap().as_str()),
        ("/SpiffeWorkloadAPI/FetchX509SVID", "localhost")
    );
    for (name, value) in [("workload.spiffe.io", "true"), ("content-type", "application/grpc"), ("te", "trailers")] {
        assert_eq!(call.headers()[name], value);
    }
}

#[tokio::test]
async fn roots_of_other_trust_domains_are_taken_unless_they_are_of_no_use() {
    let (bundle, other) = (bundle(), TestCa::new().roots());
    let mut answer = response(vec![svid(&bundle)]);
    let of = |id: &str, roots: &[u8]| (id.to_owned(), roots.to_vec());
    answer.federated_bundles = [
        of("spiffe://other.example", &other[0]),
        of("spiffe://none.example", &[]),
        of("spiffe://broken.example", &[0x30]),
        of("other.example.org", &other[0]),
    ]
    .into();
    let issued = ask(&Api::start(vec![GRPC, Act::Data(frame(&answer)), Act::Silence]).issuer()).await.unwrap();
    assert_eq!(issued.federated.into_iter().collect::<Vec<_>>(), [(TrustDomain::new("other.example").unwrap(), other)]);
}

#[tokio::test]
async fn whatever_is_broken_is_an_error_of_its_kind() {
    use IssueErrorKind::{BrokenReply, NotRegistered, RateLimited, Unavailable};
    let good = bundle();
    let change = |change: fn(&mut X509Svid)| {
        let mut svid = svid(&good);
        change(&mut svid);
        vec![GRPC, Act::Data(frame(&response(vec![svid]))), Act::Silence]
    };
    let data = |data: &[u8]| vec![GRPC, Act::Data(Bytes::copy_from_slice(data)), Act::Silence];
    let ended = |trailers| vec![GRPC, Act::Trailers(trailers)];
    for (what, acts, kind) in [
        ("no entry", ended(&[("grpc-status", "7"), ("grpc-message", "no identity issued")]), NotRegistered),
        ("no entry, in the head", vec![Act::Head(200, &[("grpc-status", "7")]), Act::Silence], NotRegistered),
        ("no identity", vec![GRPC, Act::Data(frame(&response(Vec::new()))), Act::Silence], NotRegistered),
        ("busy", ended(&[("grpc-status", "8")]), RateLimited(None)),
        ("away", ended(&[("grpc-status", "14")]), Unavailable),
        ("details that are no base64", ended(&[("grpc-status", "14"), ("grpc-status-details-bin", "%")]), Unavailable),
        ("a status that is none", ended(&[("grpc-status", "x")]), Unavailable),
        ("no such method", ended(&[("grpc-status", "12")]), BrokenReply),
        ("an end without an answer", ended(&[("grpc-status", "0")]), Unavailable),
        ("a reset", vec![GRPC, Act::Reset], Unavailable),
        ("no gRPC", vec![Act::Head(404, &[]), Act::Silence], BrokenReply),
        ("compressed", data(&[1, 0, 0, 0, 1, 0]), BrokenReply),
        ("too large", data(&[0, 0, 0x40, 0, 1]), BrokenReply),
        ("no message", data(&framed(&[0xff; 20])), BrokenReply),
        (
            "half a message",
            vec![GRPC, Act::Data(Bytes::from_static(&[0, 0, 0, 0, 9, 1])), Act::Trailers(&[("grpc-status", "0")])],
            Unavailable,
        ),
        ("no certificate", change(|svid| svid.chain.clear()), BrokenReply),
        ("half a certificate", change(|svid| svid.chain.truncate(100)), BrokenReply),
        ("no roots", change(|svid| svid.bundle.clear()), BrokenReply),
        ("a root and a half", change(|svid| svid.bundle.extend([0x30, 0x82])), BrokenReply),
        ("many certificates", change(|svid| svid.chain = svid.chain.repeat(CHAIN_LIMIT + 1)), BrokenReply),
        ("no key", change(|svid| svid.key.truncate(10)), BrokenReply),
        ("another id beside the certificate", change(|svid| svid.spiffe_id.push('x')), BrokenReply),
    ] {
        let error = ask(&Api::start(acts).issuer()).await.map(|_| what).unwrap_err();
        assert_eq!(error.kind, kind, "{what}: {error}");
        assert!(error.message.starts_with("Workload API unix:///"), "{error}");
    }
}

#[tokio::test]
async fn what_it_says_is_told_printably_with_what_to_do() {
    let acts = vec![GRPC, Act::Trailers(&[("grpc-status", "7"), ("grpc-message", "no\tidentity")])];
    let error = ask(&Api::start(acts).issuer()).await.unwrap_err();
    assert!(error.message.contains("spire-server entry create") && !error.message.contains('\t'), "{error}");
}

#[tokio::test(start_paused = true)]
async fn silence_is_waited_for_no_longer_than_configured() {
    for acts in [vec![Act::Silence], vec![GRPC, Act::Data(Bytes::from_static(&[0, 0])), Act::Silence]] {
        let error = ask(&Api::start(acts).issuer()).await.unwrap_err();
        assert_eq!(error.kind, IssueErrorKind::Unavailable);
        assert!(error.message.ends_with("gave no answer within 30 s"), "{error}");
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let error = ask(&issuer(Path::new("/nonexistent/api.sock"), None, None)).await.unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Unavailable);
    assert!(error.message.starts_with("Workload API unix:///nonexistent/api.sock cannot be reached: "), "{error}");
}

#[tokio::test]
async fn each_change_is_announced_once_and_the_newest_is_had_without_another_call() {
    let [first, second, third] = [(); 3].map(|()| bundle());
    let data = |bundle: &CertificateBundle| Act::Data(frame(&response(vec![svid(bundle)])));
    let end = Act::Trailers(&[("grpc-status", "14")]);
    let mut api = Api::start(vec![GRPC, data(&first), Act::Pause, data(&second), data(&third), Act::Pause, end]);
    let issuer = api.issuer();
    // Before there is a call, there is something to ask for.
    issuer.announced().await;
    assert_eq!(ask(&issuer).await.unwrap().chain, first.chain());
    let soon = |issuer| tokio::time::timeout(Duration::from_millis(50), WorkloadIssuer::announced(issuer));
    assert!(soon(&issuer).await.is_err(), "nothing is new");
    api.go_on.send(()).unwrap();
    issuer.announced().await;
    while !issuer.newest.is(&third) {
        issuer.announced().await;
    }
    assert_eq!(ask(&issuer).await.unwrap().chain, third.chain());
    assert!(soon(&issuer).await.is_err(), "nothing is new");
    api.calls.recv().await.unwrap();
    assert!(api.calls.try_recv().is_err(), "one call");
    api.go_on.send(()).unwrap();
    issuer.announced().await;
    assert_eq!(ask(&issuer).await.unwrap().chain, first.chain());
    assert!(api.calls.try_recv().is_ok(), "another call");
}

#[tokio::test]
async fn one_of_several_is_chosen_by_its_id_or_hint() {
    let path = Path::new("/nonexistent");
    let offer = || {
        let one = |id: &str, hint: &str| X509Svid {
            spiffe_id: id.to_owned(),
            chain: Vec::new(),
            key: Vec::new(),
            bundle: Vec::new(),
            hint: hint.to_owned(),
        };
        response(vec![one("spiffe://td/a", "inside"), one("spiffe://td/a", "outside"), one("spiffe://td/b\n", "")])
    };
    let pick =
        |id, hint| issuer(path, id, hint).pick(&mut offer()).map(|svid| (svid.spiffe_id.clone(), svid.hint.clone()));
    assert_eq!(pick(None, Some("inside")).unwrap(), ("spiffe://td/a".to_owned(), "inside".to_owned()));
    assert_eq!(pick(Some("spiffe://td/a"), Some("outside")).unwrap().1, "outside");
    let error = pick(None, None).unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::Refused);
    let offered = "spiffe://td/a (hint inside), spiffe://td/a (hint outside), spiffe://td/b\\n";
    assert!(error.message.contains(offered), "{error}");
    assert_eq!(pick(Some("spiffe://td/a"), None).unwrap_err().kind, IssueErrorKind::Refused);
    let error = pick(Some("spiffe://td/c"), None).unwrap_err();
    assert_eq!(error.kind, IssueErrorKind::NotRegistered);
    assert!(error.message.contains(offered) && error.message.contains("-spiffeID spiffe://td/c"), "{error}");
}
