//! Real programs reach what is allowed, whether they know proxies or not.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use katachi_sandbox::{Output, Plan, Policy};

use super::Case;
use crate::bed::{Bed, Verdict, must, text};
use crate::servers::{Files, Fixed};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "curl reaches an allowed host",
        run: curl,
        needs: &["curl"],
    },
    Case {
        name: "git clones from an allowed host",
        run: git,
        needs: &["git"],
    },
    Case {
        name: "npm installs from an allowed host",
        run: npm,
        needs: &["node", "npm", "tar"],
    },
    Case {
        name: "node reaches an allowed host",
        run: node,
        needs: &["node"],
    },
    Case {
        name: "python reaches an allowed host",
        run: python,
        needs: &["python3"],
    },
    Case {
        name: "pip installs from an allowed host",
        run: pip,
        needs: &["python3"],
    },
    Case {
        name: "cargo builds what it gets from an allowed host",
        run: cargo,
        needs: &["cargo", "rustc", "cc", "tar", "sha256sum"],
    },
    Case {
        name: "ssh is refused cleanly",
        run: ssh,
        needs: &["ssh"],
    },
];

/// Files of the host behind `https://files.test`, and who may fetch them.
pub(super) fn serve(bed: &Bed, policy: Policy) -> Result<(Files, Plan), String> {
    let files = Files::new("files.test", &bed.outside, bed.workspace.join("ca.pem"));
    let ca = text(&files.certificate);
    let policy = policy
        .read("@system")
        .write(".")
        .allow_host(format!("files.test:{}", files.port))
        // The name leads to the host's loopback here.
        .allow_host(format!("127.0.0.1:{}", files.port))
        .set_env("CURL_CA_BUNDLE", &ca)
        .set_env("GIT_SSL_CAINFO", &ca)
        .set_env("NODE_EXTRA_CA_CERTS", &ca)
        .set_env("SSL_CERT_FILE", &ca);
    let plan = bed.plan_with(&policy, Fixed::loopback())?;
    Ok((files, plan))
}

fn run(plan: &Plan, argv: &[&str]) -> Result<Output, String> {
    plan.command(argv.iter().copied())
        .output()
        .map_err(|error| error.to_string())
}

fn works(plan: &Plan, argv: &[&str]) -> Result<String, String> {
    let output = run(plan, argv)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    must(
        output.outcome.success(),
        &format!("{argv:?} ended with {:?}: {said}", output.outcome),
    )?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn curl(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    std::fs::write(bed.outside.join("hello"), "hello").unwrap();
    let (files, plan) = serve(bed, Policy::default().allow("curl"))?;
    let url = format!("https://files.test:{}/hello", files.port);
    let get = ["curl", "-sS", "--max-time", "20"];
    must(
        works(&plan, &[&get[..], &[&url]].concat())? == "hello",
        "other content",
    )?;
    let direct = [&get[..], &["--noproxy", "*", &url]].concat();
    must(
        works(&plan, &direct)? == "hello",
        "other content past the proxy",
    )?;
    let socks = [&get[..], &["--proxy", "socks5h://198.18.0.1:3128", &url]].concat();
    must(
        works(&plan, &socks)? == "hello",
        "other content through SOCKS",
    )?;
    // Another name for the same server is refused, and the program is told.
    let other = format!("https://other.test:{}/hello", files.port);
    let output = run(&plan, &[&get[..], &[&other]].concat())?;
    must(!output.outcome.success(), "another name was reached")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    must(said.contains("403"), &said)?;
    // A name that curl is told to find elsewhere is judged by its TLS.
    let fronted = format!("other.test:{}:198.18.0.2", files.port);
    let pinned = [
        &get[..],
        &[
            "--noproxy",
            "*",
            "--insecure",
            "--resolve",
            &fronted,
            &other,
        ],
    ]
    .concat();
    must(
        !run(&plan, &pinned)?.outcome.success(),
        "a name was fronted",
    )
}

pub(super) fn outside(bed: &Bed, argv: &[&str]) -> Verdict {
    let status = Command::new(argv[0])
        .args(&argv[1..])
        .current_dir(&bed.outside)
        .env("HOME", &bed.outside)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    must(
        status.is_ok_and(|status| status.success()),
        &format!("{argv:?} fails outside"),
    )
}

fn git(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let identity = [
        "git",
        "-C",
        "source",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.com",
    ];
    outside(
        bed,
        &["git", "-c", "init.defaultBranch=main", "init", "source"],
    )?;
    std::fs::write(bed.outside.join("source/file"), "content").unwrap();
    outside(bed, &["git", "-C", "source", "add", "file"])?;
    outside(bed, &[&identity[..], &["commit", "-m", "first"]].concat())?;
    outside(bed, &["git", "clone", "--bare", "source", "repo.git"])?;
    outside(bed, &["git", "-C", "repo.git", "update-server-info"])?;
    let (files, plan) = serve(bed, Policy::default().allow("@git"))?;
    let url = format!("https://files.test:{}/repo.git", files.port);
    works(&plan, &["git", "clone", "--quiet", &url, "clone"])?;
    let content = std::fs::read(bed.workspace.join("clone/file"));
    must(
        content.is_ok_and(|content| content == b"content"),
        "the clone holds something else",
    )?;
    // Without a proxy in its configuration it works too.
    works(
        &plan,
        &[
            "git",
            "-c",
            "http.proxy=",
            "clone",
            "--quiet",
            &url,
            "other",
        ],
    )?;
    let elsewhere = format!("https://other.test:{}/repo.git", files.port);
    let output = run(&plan, &["git", "clone", "--quiet", &elsewhere, "third"])?;
    must(!output.outcome.success(), "it cloned from elsewhere")
}

fn npm(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    std::fs::create_dir_all(bed.outside.join("package")).unwrap();
    let manifest = r#"{"name":"tiny","version":"1.0.0","main":"index.js"}"#;
    std::fs::write(bed.outside.join("package/package.json"), manifest).unwrap();
    std::fs::write(bed.outside.join("package/index.js"), "module.exports = 7;").unwrap();
    outside(bed, &["tar", "czf", "tiny-1.0.0.tgz", "package"])?;
    let (files, plan) = serve(bed, Policy::default().allow("@node").allow("@system"))?;
    let registry = format!("https://files.test:{}/", files.port);
    let listing = format!(
        r#"{{"name":"tiny","dist-tags":{{"latest":"1.0.0"}},"versions":{{"1.0.0":{{"name":"tiny","version":"1.0.0","main":"index.js","dist":{{"tarball":"{registry}tiny-1.0.0.tgz"}}}}}}}}"#
    );
    std::fs::write(bed.outside.join("tiny"), listing).unwrap();
    std::fs::write(bed.workspace.join("package.json"), r#"{"name":"user"}"#).unwrap();
    let ca = text(&files.certificate);
    let install = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
    ];
    works(
        &plan,
        &[
            &install[..],
            &["--registry", &registry, "--cafile", &ca, "tiny"],
        ]
        .concat(),
    )?;
    let seven = works(&plan, &["node", "-p", "require('tiny')"])?;
    must(seven == "7\n", &seven)
}

fn node(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    std::fs::write(bed.outside.join("hello"), "hello").unwrap();
    let (files, plan) = serve(bed, Policy::default().allow("@node"))?;
    let script = |host: &str| {
        format!(
            "fetch('https://{host}:{}/hello').then(r => r.text()).then(console.log)",
            files.port
        )
    };
    must(
        works(&plan, &["node", "-e", &script("files.test")])? == "hello\n",
        "other content",
    )?;
    // As a node that knows no proxy.
    let output = plan
        .command(["node", "-e", &script("files.test")])
        .env("NODE_USE_ENV_PROXY", "0")
        .output()
        .map_err(|error| error.to_string())?;
    must(output.stdout == b"hello\n", "other content past the proxy")?;
    let refused = run(&plan, &["node", "-e", &script("other.test")])?;
    must(!refused.outcome.success(), "another host was reached")
}

fn python(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    std::fs::write(bed.outside.join("hello"), "hello").unwrap();
    let (files, plan) = serve(bed, Policy::default().allow("@python"))?;
    let script = |host: &str, opener: &str| {
        format!(
            "import urllib.request as u, ssl\n\
             c = u.HTTPSHandler(context=ssl.create_default_context(cafile='ca.pem'))\n\
             print(u.build_opener({opener}c).open('https://{host}:{}/hello', timeout=20).read())",
            files.port
        )
    };
    for opener in ["", "u.ProxyHandler({}), "] {
        let said = works(&plan, &["python3", "-c", &script("files.test", opener)])?;
        must(said == "b'hello'\n", &said)?;
        let refused = run(&plan, &["python3", "-c", &script("other.test", opener)])?;
        must(!refused.outcome.success(), "another host was reached")?;
    }
    Ok(())
}

fn pip(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let wheel = "tiny-1.0.0-py3-none-any.whl";
    let make = format!(
        "import zipfile as z, os\n\
         os.makedirs('simple/tiny')\n\
         f = z.ZipFile('{wheel}', 'w')\n\
         f.writestr('tiny.py', 'value = 7')\n\
         d = 'tiny-1.0.0.dist-info/'\n\
         f.writestr(d + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0.0\\n')\n\
         f.writestr(d + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
         f.writestr(d + 'RECORD', '')\n\
         f.close()\n\
         open('simple/tiny/index', 'w').write('<a href=\"/{wheel}\">{wheel}</a>')"
    );
    outside(bed, &["/usr/bin/python3", "-c", &make])?;
    std::fs::create_dir(bed.workspace.join("env")).unwrap();
    let policy = Policy::default().allow("/usr/bin/python3").allow("@python");
    let (files, plan) = serve(bed, policy.exec_from("env"))?;
    works(&plan, &["/usr/bin/python3", "-m", "venv", "env"])?;
    let python = bed.inside("env/bin/python3");
    let index = format!("https://files.test:{}/simple/", files.port);
    let install = [
        python.as_str(),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--cert",
        "ca.pem",
        "--retries",
        "0",
        "--index-url",
    ];
    works(&plan, &[&install[..], &[&index, "tiny"]].concat())?;
    let seven = works(&plan, &[&python, "-c", "import tiny; print(tiny.value)"])?;
    must(seven == "7\n", &seven)?;
    let elsewhere = format!("https://other.test:{}/simple/", files.port);
    let refused = run(&plan, &[&install[..], &[&elsewhere, "tiny2"]].concat())?;
    must(!refused.outcome.success(), "it installed from elsewhere")
}

/// A procedural macro from the registry, in a package with a build script.
fn cargo(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let write = |place: std::path::PathBuf, content: &str| {
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, content).unwrap();
    };
    let (out, inside) = (&bed.outside, &bed.workspace);
    write(
        out.join("tiny-1.0.0/Cargo.toml"),
        "[package]\nname = \"tiny\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n",
    );
    write(
        out.join("tiny-1.0.0/src/lib.rs"),
        "extern crate proc_macro;\n#[proc_macro]\npub fn seven(_: proc_macro::TokenStream) \
         -> proc_macro::TokenStream { \"7\".parse().unwrap() }\n",
    );
    outside(bed, &["tar", "czf", "tiny-1.0.0.crate", "tiny-1.0.0"])?;
    let sum = Command::new("sha256sum")
        .arg(out.join("tiny-1.0.0.crate"))
        .output()
        .unwrap();
    let sum = String::from_utf8_lossy(&sum.stdout)[..64].to_owned();
    write(
        out.join("index/ti/ny/tiny"),
        &format!(
            "{{\"name\":\"tiny\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"{sum}\",\"features\":{{}},\"yanked\":false}}\n"
        ),
    );
    write(
        inside.join("Cargo.toml"),
        "[package]\nname = \"user\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\ntiny = \"1\"\n",
    );
    write(
        inside.join("build.rs"),
        "fn main() { println!(\"cargo:rustc-env=BUILT=yes\"); }\n",
    );
    write(
        inside.join("src/main.rs"),
        "fn main() { println!(\"{} {}\", tiny::seven!(), env!(\"BUILT\")); }\n",
    );
    std::fs::create_dir(inside.join("target")).unwrap();
    let policy = Policy::default()
        .allow("@system")
        .allow("@cc")
        .allow("@rust")
        .exec_from("target")
        .set_env("CARGO_HOME", bed.inside("cargo-home"))
        .set_env("CARGO_HTTP_CAINFO", bed.inside("ca.pem"));
    let (files, plan) = serve(bed, policy)?;
    let host = format!("https://files.test:{}", files.port);
    write(
        out.join("index/config.json"),
        &format!("{{\"dl\":\"{host}/{{crate}}-{{version}}.crate\"}}"),
    );
    write(
        inside.join("cargo-home/config.toml"),
        &format!(
            "[source.crates-io]\nreplace-with = \"near\"\n[source.near]\nregistry = \"sparse+{host}/index/\"\n"
        ),
    );
    let said = works(&plan, &["cargo", "run", "--quiet"])?;
    must(said == "7 yes\n", &said)
}

fn ssh(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let (_files, plan) = serve(bed, Policy::default().allow("ssh"))?;
    let started = Instant::now();
    let options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"];
    let output = run(
        &plan,
        &[&["ssh"][..], &options, &["git@other.test"]].concat(),
    )?;
    must(
        started.elapsed() < Duration::from_secs(5),
        "it took its time to be refused",
    )?;
    must(
        output.outcome.exit_code() == 255,
        &format!("{:?}", output.outcome),
    )?;
    let refused = output
        .outcome
        .violations
        .iter()
        .any(|violation| violation.target.contains("other.test"));
    must(refused, "nothing was reported")
}
