//! Signatures exchanged with other implementations in other languages: the PyPI package
//! `http-message-signatures`, run by the interpreter named in `KATACHI_PYTHON`
//! (`python3` unless set), and the npm packages `http-message-signatures` and
//! `http-message-sig`, run by `node` with `NODE_PATH`.
//!
//! Where one is missing its tests are listed as ignored, and fail under
//! `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::replay::{Epoch, Nonce};
use katachi_auth::signature::generic::{self, Message};
use katachi_auth::signature::{
    Context, Freshness, KeyId, KnownKey, Profile, Reason, RequestView, ResponseView, Signer,
    SigningKey, Verifier, VerifyingKey, sign_response,
};
use katachi_crypto::Secret;
use katachi_crypto::mac::HmacKey;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

type Test = fn(&Peer) -> Result<(), Failed>;
type Headers = Vec<(String, String)>;

const KEY: [u8; 32] = [0x42; 32];
const EPOCH: Epoch = Epoch::from_bytes([7; 16]);

/// Another implementation.
struct Peer {
    /// Where it comes from, and its name there.
    registry: &'static str,
    package: &'static str,
    /// Components that it speaks beside those that all do.
    also: &'static [&'static str],
}

static PEERS: [Peer; 3] = [
    Peer {
        registry: "pypi",
        package: "http-message-signatures",
        also: &["@request-target", "\"@query-param\";name=\"a\""],
    },
    Peer {
        registry: "npm",
        package: "http-message-signatures",
        also: &["\"@query-param\";name=\"a\""],
    },
    Peer {
        registry: "npm",
        package: "http-message-sig",
        also: &["@request-target"],
    },
];

/// What all of them speak.
const COMPONENTS: [&str; 7] = [
    "@method",
    "@target-uri",
    "@authority",
    "@scheme",
    "@path",
    "@query",
    "content-type",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let tests: [(&str, Test); 7] = [
        ("s02_they_accept_our_strict_requests", strict_requests),
        ("they_refuse_our_requests_altered", altered_requests),
        ("they_accept_our_signed_answers", answers),
        (
            "s02_we_accept_their_requests_in_their_own_order",
            their_requests,
        ),
        ("we_accept_their_answers_bound_to_a_request", their_answers),
        (
            "s02_they_accept_what_we_sign_in_the_generic_mode",
            our_generic,
        ),
        ("our_strict_verifier_refuses_their_order", strictness),
    ];
    let mut trials = Vec::new();
    for peer in &PEERS {
        let present = peer.is_present();
        for (name, test) in tests {
            let name = format!(
                "{}_{}::{name}",
                peer.registry,
                peer.package.replace('-', "_")
            );
            trials.push(match (present, required) {
                (true, _) => Trial::test(name, move || test(peer)),
                (false, true) => Trial::test(name, || {
                    Err(format!("needs {} {}", peer.registry, peer.package).into())
                }),
                (false, false) => {
                    let name = format!("{name} (needs {} {})", peer.registry, peer.package);
                    Trial::test(name, move || test(peer)).with_ignored_flag(true)
                }
            });
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

impl Peer {
    fn is_python(&self) -> bool {
        self.registry == "pypi"
    }

    fn command(&self) -> Command {
        if self.is_python() {
            return Command::new(
                std::env::var_os("KATACHI_PYTHON").unwrap_or_else(|| "python3".into()),
            );
        }
        Command::new("node")
    }

    fn is_present(&self) -> bool {
        let mut command = self.command();
        if self.is_python() {
            command.args(["-c", "import http_message_signatures"]);
        } else {
            command.args(["-e", &format!("require('{}')", self.package)]);
        }
        command
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Gives the other implementation a job.
    fn ask(&self, job: &Value) -> Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");
        let script = if self.is_python() {
            "peer.py"
        } else {
            "peer.cjs"
        };
        let mut child = self
            .command()
            .arg(format!("{folder}/{script}"))
            .arg(self.package)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter was there a moment ago");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(job.to_string().as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "the other implementation failed on {job}"
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn verifies(&self, algorithm: &str, tag: &str, message: &Value) -> bool {
        let job = json!({
            "do": "verify", "algorithm": algorithm, "key": STANDARD.encode(KEY),
            "tag": tag, "message": message,
        });
        self.ask(&job)["accepted"].as_bool().unwrap()
    }

    /// The headers of a message that they signed over `components`.
    fn signs(&self, algorithm: &str, message: &Value, components: &[&str]) -> Headers {
        let job = json!({
            "do": "sign", "algorithm": algorithm, "key": STANDARD.encode(KEY),
            "message": message, "components": components,
        });
        serde_json::from_value(self.ask(&job)["headers"].clone()).unwrap()
    }
}

fn signing(algorithm: &str) -> SigningKey {
    match algorithm {
        "ed25519" => SigningKey::ed25519(&Secret::new(KEY)),
        _ => HmacKey::from_slice(&KEY).into(),
    }
}

fn verifying(algorithm: &str) -> VerifyingKey {
    signing(algorithm)
        .public_key()
        .unwrap_or_else(|| HmacKey::from_slice(&KEY).into())
}

const ALGORITHMS: [&str; 2] = ["hmac-sha256", "ed25519"];
const URL: &str = "https://relay.example/v1/run?a=1&b=%2F";
const BODY: &[u8] = b"{\"argv\":[\"ls\"]}";

fn view<'a>(headers: &'a [(&'a str, &'a [u8])]) -> RequestView<'a> {
    RequestView {
        method: "POST",
        authority: "relay.example",
        path: "/v1/run",
        query: Some("a=1&b=%2F"),
        headers,
        body: BODY,
    }
}

fn borrowed(headers: &Headers) -> Vec<(&str, &[u8])> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect()
}

fn content_type() -> Headers {
    vec![("content-type".into(), "application/json".into())]
}

fn as_message(headers: &Headers) -> Value {
    json!({ "method": "POST", "url": URL, "headers": headers })
}

/// A request that we signed in our profile, and what an answer is bound to.
fn ours(algorithm: &str) -> (Headers, katachi_auth::signature::RequestBinding) {
    let id = KeyId::parse("k-1").unwrap();
    let signer = Signer::new(Profile::AGENT_REQUEST, id, signing(algorithm));
    let freshness = Freshness::new(SystemClock.now(), Nonce::random().unwrap(), EPOCH);
    let mut headers = content_type();
    let signed = signer.sign(&view(&borrowed(&headers)), &freshness).unwrap();
    headers.extend(
        signed
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    (headers, signed.binding().clone())
}

fn strict_requests(peer: &Peer) -> Result<(), Failed> {
    for algorithm in ALGORITHMS {
        let (headers, _) = ours(algorithm);
        assert!(peer.verifies(algorithm, "katachi-agent/1", &as_message(&headers)));
    }
    Ok(())
}

fn altered_requests(peer: &Peer) -> Result<(), Failed> {
    for algorithm in ALGORITHMS {
        let (headers, _) = ours(algorithm);
        let mut other = as_message(&headers);
        other["url"] = "https://relay.example/v1/run?a=2".into();
        assert!(!peer.verifies(algorithm, "katachi-agent/1", &other));
    }
    Ok(())
}

fn answers(peer: &Peer) -> Result<(), Failed> {
    for algorithm in ALGORITHMS {
        let (request, binding) = ours(algorithm);
        let response = ResponseView {
            status: 200,
            headers: &[],
            body: b"{}",
        };
        let headers: Headers = sign_response(
            &Profile::RELAY_RESPONSE,
            &KeyId::parse("k-1").unwrap(),
            &signing(algorithm),
            &response,
            &binding,
            SystemClock.now(),
        )
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let mut message =
            json!({ "status": 200, "headers": headers, "request": as_message(&request) });
        assert!(peer.verifies(algorithm, "katachi-relay/1", &message));
        message["request"]["url"] = "https://relay.example/v1/other".into();
        assert!(!peer.verifies(algorithm, "katachi-relay/1", &message));
    }
    Ok(())
}

fn their_requests(peer: &Peer) -> Result<(), Failed> {
    let components = [&COMPONENTS[..], peer.also].concat();
    for algorithm in ALGORITHMS {
        let headers = peer.signs(algorithm, &as_message(&content_type()), &components);
        let borrowed = borrowed(&headers);
        let check = |request: &RequestView<'_>| {
            let message = Message::Request {
                request,
                scheme: "https",
            };
            generic::verify(&message, "theirs", &verifying(algorithm))
        };
        let signed = check(&view(&borrowed))?;
        assert_eq!(
            (signed.key_id(), signed.nonce()),
            (Some("k-1"), Some("n-1"))
        );
        assert_eq!(
            signed.expires(),
            signed.created().map(|created| created + 60)
        );
        assert_eq!(signed.components().count(), components.len());
        assert!(
            check(&RequestView {
                path: "/v1/other",
                ..view(&borrowed)
            })
            .is_err()
        );
    }
    Ok(())
}

fn their_answers(peer: &Peer) -> Result<(), Failed> {
    for algorithm in ALGORITHMS {
        let request_headers = content_type();
        let message = json!({
            "status": 202, "headers": content_type(), "request": as_message(&request_headers),
        });
        let components = [
            "@status",
            "content-type",
            "\"@method\";req",
            "\"@path\";req",
        ];
        let headers = peer.signs(algorithm, &message, &components);
        let headers = borrowed(&headers);
        let response = ResponseView {
            status: 202,
            headers: &headers,
            body: b"",
        };
        let asked = borrowed(&request_headers);
        let check = |request: &RequestView<'_>| {
            let message = Message::Response {
                response: &response,
                request: Some((request, "https")),
            };
            generic::verify(&message, "theirs", &verifying(algorithm))
        };
        check(&view(&asked))?;
        let other = RequestView {
            method: "PUT",
            ..view(&asked)
        };
        assert!(check(&other).is_err());
    }
    Ok(())
}

fn our_generic(peer: &Peer) -> Result<(), Failed> {
    let now = SystemClock.now().as_unix();
    let speaks = peer.also.iter().any(|also| also.contains("@query-param"));
    let param = if speaks {
        " \"@query-param\";name=\"b\""
    } else {
        ""
    };
    for algorithm in ALGORITHMS {
        let input = format!(
            "(\"@target-uri\" \"content-type\" \"@method\"{param});\
             tag=\"g\";keyid=\"k-1\";created={now};alg=\"{algorithm}\""
        );
        let mut headers = content_type();
        let borrowed = borrowed(&headers);
        let message = Message::Request {
            request: &view(&borrowed),
            scheme: "https",
        };
        let (input, signature) = generic::sign(&message, "g", &input, &signing(algorithm))?;
        headers.push(("Signature-Input".into(), input));
        headers.push(("Signature".into(), signature));
        assert!(peer.verifies(algorithm, "g", &as_message(&headers)));
    }
    Ok(())
}

fn strictness(peer: &Peer) -> Result<(), Failed> {
    let components = ["@method", "@authority", "@path", "@query"];
    let headers = peer.signs("hmac-sha256", &as_message(&content_type()), &components);
    let verifier = Verifier::new(
        Profile::request("interop").label("theirs"),
        ["relay.example"],
    );
    let known = KnownKey::new(KeyId::parse("k-1")?, "a", verifying("hmac-sha256"));
    let keys = std::sync::Arc::new(known);
    let borrowed = borrowed(&headers);
    let context = Context::new(SystemClock.now(), EPOCH);
    let refusal = verifier
        .check(view(&borrowed), &keys, &context)
        .map(drop)
        .unwrap_err();
    assert!(matches!(refusal.reason(), Reason::Input(_)));
    Ok(())
}
