//! The cases. A name is a sentence about the sandbox.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use katachi_sandbox::plan::Children;
use katachi_sandbox::{PlanOptions, Policy, SpawnError};

use crate::SECRET;
use crate::bed::{Bed, Verdict, must, text};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Bed) -> Verdict,
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = vec![
        case("files outside cannot be read", read_outside),
        case("files outside cannot be written", write_outside),
        case("files outside cannot be removed", remove_outside),
        case("the workspace can be read and written", workspace_works),
        case("denied files in the workspace are hidden", denied_file),
        case("hooks of a repository cannot be changed", hooks),
        case("no connection leads to the host", connect),
        case("a program that no rule names does not run", unlisted),
        case("a program in the workspace does not run", in_workspace),
        case("variables of the caller are not seen", variables),
        case("what the caller holds open is not inherited", handles),
        case("pipes and the exit code lead through", pipes),
        case("wall time ends the command", wall_time),
        case("memory is bounded", memory),
        case("dropping the child ends all it started", drop_ends_all),
        case("a directory outside is no place to start in", directory),
    ];
    if cfg!(unix) {
        cases.push(case("a link in the workspace does not lead outside", link));
        cases.push(case("sockets outside cannot be reached", socket));
    }
    if !cfg!(target_os = "linux") {
        cases.push(case("nothing starts unless that is accepted", not_accepted));
        cases.push(case("the report says that nobody saw it hold", report));
        cases.push(case("what cannot be held is refused when planned", refused));
    }
    if cfg!(windows) {
        cases.push(case("hosts are refused when planned", hosts));
    }
    if cfg!(target_os = "macos") {
        let name = "programs that know no proxy do not reach an allowed host";
        cases.push(case(name, without_proxy));
    }
    cases
}

const fn case(name: &'static str, run: fn(&Bed) -> Verdict) -> Case {
    Case { name, run }
}

fn read_outside(bed: &Bed) -> Verdict {
    bed.only_outside(&["read", &text(&bed.outside.join("secret"))])
}

fn write_outside(bed: &Bed) -> Verdict {
    let secret = bed.outside.join("secret");
    bed.only_outside(&["append", &text(&secret)])?;
    let seen = std::fs::read_to_string(secret).unwrap();
    must(seen == "secretappended", "it was appended to twice")?;
    let made = bed.outside.join("made");
    bed.control(&["create", &text(&made)])?;
    std::fs::remove_file(&made).unwrap();
    let plan = bed.plan(&Bed::policy())?;
    Bed::denied_by(&plan, &["create", &text(&made)])?;
    must(!made.exists(), "it was made")
}

fn remove_outside(bed: &Bed) -> Verdict {
    let victim = bed.outside.join("victim");
    let attempt = ["remove", &text(&victim)];
    std::fs::write(&victim, "").unwrap();
    bed.control(&attempt)?;
    std::fs::write(&victim, "").unwrap();
    Bed::denied_by(&bed.plan(&Bed::policy())?, &attempt)?;
    must(victim.exists(), "it is gone")
}

fn workspace_works(bed: &Bed) -> Verdict {
    let plan = bed.plan(&Bed::policy())?;
    let file = text(&plan.workspace().join("file"));
    Bed::works(&plan, &["create", &file])?;
    Bed::works(&plan, &["append", &file])?;
    Bed::works(&plan, &["read", &file])?;
    Bed::works(&plan, &["remove", &file])
}

fn denied_file(bed: &Bed) -> Verdict {
    let file = bed.workspace.join("hidden");
    std::fs::write(&file, "secret").unwrap();
    let attempt = ["read", &text(&file)];
    bed.control(&attempt)?;
    Bed::works(&bed.plan(&Bed::policy())?, &attempt)?;
    let plan = bed.plan(&Bed::policy().deny("hidden"))?;
    Bed::denied_by(&plan, &attempt)
}

fn hooks(bed: &Bed) -> Verdict {
    let git = bed.workspace.join(".git");
    for part in ["objects", "refs", "hooks"] {
        std::fs::create_dir_all(git.join(part)).unwrap();
    }
    std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
    std::fs::write(git.join("config"), "[core]\n").unwrap();
    let hook = git.join("hooks").join("post-checkout");
    bed.control(&["create", &text(&hook)])?;
    std::fs::remove_file(&hook).unwrap();
    bed.control(&["append", &text(&git.join("config"))])?;
    let plan = bed.plan(&Bed::policy())?;
    Bed::denied_by(&plan, &["create", &text(&hook)])?;
    Bed::denied_by(&plan, &["append", &text(&git.join("config"))])
}

fn connect(bed: &Bed) -> Verdict {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    bed.only_outside(&["connect", &address])
}

fn unlisted(bed: &Bed) -> Verdict {
    let other = copy_to(&bed.outside);
    bed.only_outside(&["start", &text(&other), "--attempt", "code", "0"])
}

fn in_workspace(bed: &Bed) -> Verdict {
    let other = copy_to(&bed.workspace);
    bed.only_outside(&["start", &text(&other), "--attempt", "code", "0"])
}

fn copy_to(directory: &Path) -> std::path::PathBuf {
    let name = format!("other{}", std::env::consts::EXE_SUFFIX);
    let place = directory.join(name);
    std::fs::copy(Bed::program(), &place).unwrap();
    place
}

fn variables(bed: &Bed) -> Verdict {
    bed.only_outside(&["variable", SECRET])?;
    let plan = bed.plan(&Bed::policy().pass_env(SECRET))?;
    Bed::works(&plan, &["variable", SECRET])
}

fn handles(bed: &Bed) -> Verdict {
    let held = File::open(bed.outside.join("secret")).unwrap();
    let number = pass_on(&held);
    bed.only_outside(&["handle", &number])
}

/// Lets every program that this one starts inherit an open file.
#[cfg(unix)]
fn pass_on(file: &File) -> String {
    use std::os::fd::AsRawFd as _;
    // SAFETY: F_SETFD takes one integer and touches no memory.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
    assert_ne!(result, -1);
    file.as_raw_fd().to_string()
}

#[cfg(windows)]
fn pass_on(file: &File) -> String {
    use std::os::windows::io::AsRawHandle as _;
    use windows_sys::Win32::Foundation::{HANDLE_FLAG_INHERIT, SetHandleInformation};
    let handle = file.as_raw_handle();
    // SAFETY: it is open.
    let done = unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) };
    assert_ne!(done, 0);
    handle.addr().to_string()
}

fn pipes(bed: &Bed) -> Verdict {
    let plan = bed.plan(&Bed::policy())?;
    let mut child = plan
        .command(Bed::argv(&["echo"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"what was written").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    must(
        said == "heard <what was written>",
        &format!("it said {said:?}"),
    )?;
    must(
        output.stderr == b"to the error output",
        "the error output is another",
    )?;
    let ended = Bed::run(&plan, &["code", "7"])?;
    must(ended.exit_code() == 7, &format!("{ended:?}"))
}

fn wall_time(bed: &Bed) -> Verdict {
    let mut control = bed.unconfined(&["sleep"]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let goes_on = control.try_wait().unwrap().is_none();
    control.kill().unwrap();
    control.wait().unwrap();
    must(goes_on, "the control ended by itself")?;
    let limited = Policy::from_toml("[limits]\nwall_time = \"1s\"", "limits").unwrap();
    let plan = bed.plan(&Bed::policy().limits(limited.limits))?;
    let began = Instant::now();
    let ended = Bed::run(&plan, &["sleep"])?;
    must(ended.exit_code() == 124, &format!("{ended:?}"))?;
    must(began.elapsed() < Duration::from_secs(30), "far too late")
}

fn memory(bed: &Bed) -> Verdict {
    let attempt = ["allocate", "300"];
    bed.control(&attempt)?;
    let limited = Policy::from_toml("[limits]\nmemory = \"100MiB\"", "limits").unwrap();
    let plan = bed.plan(&Bed::policy().limits(limited.limits))?;
    let ended = Bed::run(&plan, &attempt)?;
    must(!ended.success(), "it used three times its limit")
}

fn drop_ends_all(bed: &Bed) -> Verdict {
    let plan = bed.plan_of_many(&Bed::policy())?;
    let file = plan.workspace().join("beat");
    let attempt = ["family", &text(&file)];
    let length = || std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
    let grows = |patience: u64| {
        let (before, until) = (length(), Instant::now() + Duration::from_millis(patience));
        while length() == before && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        length() > before
    };
    let mut control = bed.unconfined(&attempt).spawn().unwrap();
    let begun = grows(20_000);
    control.kill().unwrap();
    control.wait().unwrap();
    let goes_on = grows(2000);
    std::fs::write(file.with_file_name("stop"), "").unwrap();
    must(begun && goes_on, "the control ended with its parent")?;
    while grows(500) {}
    std::fs::remove_file(file.with_file_name("stop")).unwrap();
    let child = Bed::start(&plan, &attempt)?;
    must(grows(20_000), "what the command starts does nothing")?;
    drop(child);
    must(!grows(1000), "what the command started goes on")
}

fn directory(bed: &Bed) -> Verdict {
    let plan = bed.plan(&Bed::policy())?;
    let started = plan
        .command(Bed::argv(&["code", "0"]))
        .current_dir(&bed.outside)
        .spawn();
    must(
        matches!(started, Err(SpawnError::Request { .. })),
        "it started there",
    )
}

#[cfg(unix)]
fn link(bed: &Bed) -> Verdict {
    let link = bed.workspace.join("link");
    std::os::unix::fs::symlink(&bed.outside, &link).unwrap();
    bed.only_outside(&["read", &text(&link.join("secret"))])
}

#[cfg(unix)]
fn socket(bed: &Bed) -> Verdict {
    let place = bed.outside.join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&place).unwrap();
    bed.only_outside(&["socket", &text(&place)])
}

#[cfg(not(unix))]
fn link(_: &Bed) -> Verdict {
    Err("links are for administrators here".to_owned())
}

#[cfg(not(unix))]
fn socket(_: &Bed) -> Verdict {
    Err("sockets have no names here".to_owned())
}

fn not_accepted(bed: &Bed) -> Verdict {
    let plan = Bed::policy()
        .plan(&PlanOptions::new(&bed.workspace))
        .map_err(|error| error.to_string())?;
    let started = plan.command(Bed::argv(&["code", "0"])).spawn();
    must(
        matches!(started, Err(SpawnError::Unwitnessed(_))),
        "it started",
    )?;
    Bed::works(&bed.plan(&Bed::policy())?, &["code", "0"])
}

fn report(bed: &Bed) -> Verdict {
    let found = bed.plan(&Bed::policy())?.enforcement();
    must(!found.is_full(), "it says that all is full")?;
    must(
        found.to_string().contains("unwitnessed"),
        &format!("it says nothing of that: {found}"),
    )
}

fn without_proxy(bed: &Bed) -> Verdict {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    bed.control(&["connect", &address])?;
    let plan = bed.plan(&Bed::policy().allow_host(&address))?;
    Bed::denied_by(&plan, &["connect", &address])
}

fn hosts(bed: &Bed) -> Verdict {
    let refused = bed.plan(&Bed::policy().allow_host("a.example:443"));
    must(
        refused.is_err_and(|error| error.contains("network.allow")),
        "it was planned",
    )
}

/// Each names the rule, and says what to write instead.
fn refused(bed: &Bed) -> Verdict {
    // Windows looks at the command itself and lets it start nothing else.
    let arguments = "[commands]\nallow = [[\"git\", \"status\"]]";
    let ask = "[commands]\nask = [\"git\"]";
    let rules = [
        (
            "[network]\npublish = [3000]",
            "network.publish",
            Children::None,
        ),
        ("[limits]\ndisk = \"1GiB\"", "limits.disk", Children::None),
        ("[limits]\ncpus = 0.5", "limits.cpus", Children::None),
        (arguments, "commands.allow", Children::Any),
        (ask, "commands.ask", Children::Any),
    ];
    for (policy, rule, children) in rules {
        let policy = Policy::from_toml(policy, "test").map_err(|error| error.to_string())?;
        let options = PlanOptions::new(&bed.workspace).children(children);
        let said = match policy.plan(&options) {
            Ok(_) => return Err(format!("{rule} was planned")),
            Err(error) => error.to_string(),
        };
        must(said.contains(rule) && said.contains("; "), &said)?;
        must(!said.contains("systemd"), &said)?;
    }
    Ok(())
}
