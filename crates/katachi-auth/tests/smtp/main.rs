//! Mail through a real SMTP server, PyPI `aiosmtpd`, run by the interpreter named in
//! `KATACHI_PYTHON` (`python3` unless set). Where it is missing the tests are listed as
//! ignored, and fail under `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

use katachi_auth::mail::{Address, Mail, MailError, Mailer as _, Security, SmtpMailer};
use katachi_crypto::SecretString;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

type Test = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let present = python()
        .args(["-c", "import aiosmtpd"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let tests: [(&str, Test); 4] = [
        ("a_mail_arrives_over_tls_and_starttls", arrives),
        ("a_server_with_another_certificate_gets_nothing", stranger),
        ("a_server_without_starttls_gets_nothing", plain),
        ("a_wrong_password_is_reported", wrong_password),
    ];
    let trials = tests
        .into_iter()
        .map(|(name, test)| match (present, required) {
            (true, _) => Trial::test(name, test),
            (false, true) => Trial::test(name, || Err("needs PyPI aiosmtpd".into())),
            (false, false) => {
                Trial::test(format!("{name} (needs PyPI aiosmtpd)"), test).with_ignored_flag(true)
            }
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn python() -> Command {
    Command::new(std::env::var_os("KATACHI_PYTHON").unwrap_or_else(|| "python3".into()))
}

struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    port: u16,
    root: String,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start(mode: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert"), folder.path().join("key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/smtp/server.py");
        let mut child = python()
            .arg(script)
            .args([&certificate, &key])
            .arg(mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the server starts");
        Self {
            child,
            lines,
            port,
            root: made.cert.pem(),
            _folder: folder,
        }
    }

    fn send(&self, security: Security, root: &str, password: &str) -> Result<(), MailError> {
        let mailer = SmtpMailer::new(
            ("127.0.0.1", self.port),
            security,
            Some(("katachi".into(), SecretString::new(password.into()))),
            Some(root),
            Address::parse("relay@example.com").unwrap(),
        )?;
        let text = "Open this:\n.\nhttps://relay.example/verify?token=abc\n";
        mailer.send(&Mail::new(
            Address::parse("ana@example.com").unwrap(),
            "Your address",
            SecretString::new(text.into()),
        )?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arrives() -> Result<(), Failed> {
    for (mode, security) in [("tls", Security::Tls), ("starttls", Security::StartTls)] {
        let mut server = Server::start(mode);
        server.send(security, &server.root, "mail password")?;
        let mut line = String::new();
        server.lines.read_line(&mut line)?;
        let mail: Value = serde_json::from_str(&line)?;
        assert_eq!(mail["from"], "relay@example.com");
        assert_eq!(mail["to"], serde_json::json!(["ana@example.com"]));
        assert_eq!(mail["tls"], true);
        let content = mail["content"].as_str().unwrap();
        assert!(content.contains("Subject: Your address"));
        // A line with a lone dot does not end the mail.
        assert!(content.contains("token=abc"));
    }
    Ok(())
}

fn stranger() -> Result<(), Failed> {
    let server = Server::start("tls");
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let outcome = server.send(Security::Tls, &other.cert.pem(), "mail password");
    assert!(matches!(outcome, Err(MailError::Refused(_))));
    Ok(())
}

fn plain() -> Result<(), Failed> {
    let server = Server::start("plain");
    let outcome = server.send(Security::StartTls, &server.root, "mail password");
    assert!(matches!(outcome, Err(MailError::Refused(_))));
    Ok(())
}

fn wrong_password() -> Result<(), Failed> {
    let server = Server::start("starttls");
    let outcome = server.send(Security::StartTls, &server.root, "wrong");
    let error = outcome.unwrap_err();
    assert!(matches!(error, MailError::Refused(_)));
    assert!(!error.to_string().contains("wrong"));
    Ok(())
}
