//! What a command left whose caller was killed.

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use katachi_sandbox::policy::GitAccess;
use katachi_sandbox::report::Tier;
use katachi_sandbox::{PlanOptions, Policy, Violation};

use super::Case;
use super::appeared::{NEW, VECTORS, git, is_clean, script, tools};
use crate::bed::{Bed, Verdict, must, text};
use crate::raw;
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "what a command left is looked at when its caller was killed",
        run: killed_caller,
        needs: &["git"],
    },
    Case {
        name: "a caller that ends without waiting leaves nothing behind",
        run: silent_caller,
        needs: &["git"],
    },
    Case {
        name: "commands of a caller that lives are left alone",
        run: living_caller,
        needs: &["git"],
    },
    Case {
        name: "a caller killed at any moment of a start leaves nothing",
        run: killed_at_any_moment,
        needs: &["sleep"],
    },
    Case {
        name: "records are kept in no directory that others prepared",
        run: prepared_place,
        needs: &["git"],
    },
    Case {
        name: "a policy that lets a command write the records is refused",
        run: writable_records,
        needs: &[],
    },
];

/// A program that uses this crate. Its words: what it does, the workspace, a shell
/// script for the command, and `commit` where that may commit.
pub(crate) fn caller(words: &[String]) -> io::Result<()> {
    let [what, workspace, script, git @ ..] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if what == "recover" {
        tell(&katachi_sandbox::recover()?);
        return Ok(());
    }
    let git = match git {
        [] => GitAccess::Read,
        _ => GitAccess::Commit,
    };
    let plan = tools(Policy::default().read("@system").write(".").git(git))
        .plan(&PlanOptions::new(workspace).accept(Tier::Landlock))
        .map_err(io::Error::other)?;
    tell(plan.recovered());
    if what == "plan" {
        std::fs::write(Path::new(workspace).with_file_name("planned"), "")?;
        // Until somebody has made something meanwhile.
        io::stdin().read_line(&mut String::new())?;
    }
    if what == "start" {
        println!("now");
    }
    let mut child = plan
        .command(["sh", "-c", script.as_str()])
        .spawn()
        .map_err(io::Error::other)?;
    if what == "start" {
        println!("started");
    }
    if what == "leave" {
        let done = Path::new(workspace).join("new/done");
        wait_for(&done);
        // Runs no destructor.
        std::process::exit(0);
    }
    tell(&child.wait()?.violations);
    Ok(())
}

fn tell(found: &[Violation]) {
    for violation in found {
        println!("{}: {}", violation.target, violation.reason);
    }
    let _ = io::stdout().flush();
}

fn wait_for(path: &Path) -> bool {
    (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        path.exists()
    })
}

/// A caller that is killed, here if not before.
struct Doomed(Child);

impl Doomed {
    fn end(&mut self) {
        // It is dead already where this was called before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        self.end();
    }
}

fn start(bed: &Bed, state: &Path, what: &str, script: &str) -> Child {
    start_with(bed, state, &[what, &text(&bed.workspace), script])
}

fn start_with(bed: &Bed, state: &Path, words: &[&str]) -> Child {
    Command::new(Bed::program())
        .args(["--attempt", "be-caller"])
        .args(words)
        .env("XDG_STATE_HOME", state)
        .current_dir(&bed.workspace)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a caller says until its end.
fn said(child: Child) -> Result<String, String> {
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    must(output.status.success(), "the caller failed")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A script that makes a repository with whatever runs programs, and stays.
fn planting(bed: &Bed) -> (PathBuf, String) {
    let repository = bed.workspace.join("new/.git");
    let plants: String = VECTORS[..3]
        .iter()
        .map(|(_, plant, _)| format!("{plant}; "))
        .collect();
    let steps = format!("{NEW}{plants}touch done; sleep 60");
    let steps = script(bed, &repository, &steps);
    (repository, steps)
}

fn records(state: &Path) -> usize {
    fs::read_dir(state.join("katachi-sandbox")).map_or(0, |list| list.flatten().count())
}

fn runs_outside(bed: &Bed, repository: &Path) -> bool {
    git(bed, repository.parent().unwrap(), &["status"]).1
}

fn killed_caller(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let state = bed.outside.join("state");
    let (repository, steps) = planting(bed);
    for way in ["again", "recover", "plan"] {
        // One made its plan before, and has to look as well.
        let planned = (way == "plan").then(|| start(bed, &state, "plan", "true"));
        if planned.is_some() {
            let made = bed.workspace.with_file_name("planned");
            must(wait_for(&made), "no plan was made")?;
        }
        let mut caller = Doomed(start(bed, &state, "run", &steps));
        must(
            wait_for(&bed.workspace.join("new/done")),
            "nothing was made",
        )?;
        caller.end();
        if way == "recover" {
            must(runs_outside(bed, &repository), "the control shows nothing")?;
        }
        let found = match planned {
            Some(mut planned) => {
                planned.stdin.take().unwrap().write_all(b"\n").unwrap();
                said(planned)?
            }
            None => said(start(bed, &state, way, "true"))?,
        };
        for part in ["core.fsmonitor", "hooks/post-commit", "was killed"] {
            must(
                found.contains(&text(&repository)) && found.contains(part),
                &format!("{way}: {part} is not reported: {found}"),
            )?;
        }
        is_clean(bed, repository.parent().unwrap())?;
        must(records(&state) == 0, &format!("{way}: the record stays"))?;
        must(
            said(start(bed, &state, "recover", ""))?.is_empty(),
            "it is told twice",
        )?;
        fs::remove_dir_all(repository.parent().unwrap()).unwrap();
    }
    Ok(())
}

fn silent_caller(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let state = bed.outside.join("state");
    let (repository, steps) = planting(bed);
    said(start(bed, &state, "leave", &steps))?;
    must(runs_outside(bed, &repository), "the control shows nothing")?;
    let found = said(start(bed, &state, "recover", ""))?;
    must(found.contains("core.fsmonitor"), &found)?;
    is_clean(bed, repository.parent().unwrap())?;
    must(records(&state) == 0, "the record stays")
}

fn living_caller(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let state = bed.outside.join("state");
    let (repository, steps) = planting(bed);
    let mut caller = Doomed(start(bed, &state, "run", &steps));
    must(
        wait_for(&bed.workspace.join("new/done")),
        "nothing was made",
    )?;
    let found = said(start(bed, &state, "recover", ""))?;
    must(found.is_empty(), &format!("it was looked at: {found}"))?;
    must(runs_outside(bed, &repository), "it was set aside")?;
    must(records(&state) == 2, "the record is gone")?;
    // Its own look still takes place, and then there is nothing to know.
    let own = start(bed, &state, "run", "true");
    said(own)?;
    must(records(&state) == 2, "the record is gone")?;
    caller.end();
    said(start(bed, &state, "recover", ""))?;
    is_clean(bed, repository.parent().unwrap())?;
    must(records(&state) == 0, "the record stays")
}

/// Whoever knows where they would lie could have made the place before.
fn prepared_place(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, symlink};

    let state = bed.outside.join("state");
    let (place, elsewhere) = (state.join("katachi-sandbox"), bed.outside.join("elsewhere"));
    let mut private = fs::DirBuilder::new();
    private.mode(0o700).create(&state).unwrap();
    let is_root = raw::call(libc::SYS_geteuid, &[]).is_ok_and(|user| user == 0);
    let ways: &[&str] = match is_root {
        true => &["own", "link", "open", "another's"],
        false => &["own", "link", "open"],
    };
    let (here, go) = (bed.workspace.join("here"), bed.workspace.join("go"));
    for way in ways {
        let made = if *way == "link" { &elsewhere } else { &place };
        private.create(made).unwrap();
        match *way {
            "link" => symlink(&elsewhere, &place).unwrap(),
            "open" => fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap(),
            "another's" => chown(&place, Some(65534), Some(65534)).unwrap(),
            _ => {}
        }
        let wait = "touch here; while ! test -e go; do sleep 0.02; done";
        let mut caller = Doomed(start(bed, &state, "run", wait));
        must(wait_for(&here), "nothing was started")?;
        let kept = fs::read_dir(made).unwrap().count();
        fs::write(&go, "").unwrap();
        let ended = caller.0.wait();
        must(
            ended.is_ok_and(|ended| ended.success()),
            "the caller failed",
        )?;
        // Kept in its own place, and elsewhere where that is none.
        must(
            (kept > 0) == (*way == "own"),
            &format!("{way}: {kept} files of the record are there"),
        )?;
        let _ = fs::remove_file(&place);
        let _ = fs::remove_dir(made);
        for used in [&here, &go] {
            fs::remove_file(used).unwrap();
        }
    }
    Ok(())
}

fn writable_records(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedPlanned);
    let state = bed.workspace.join("state");
    let output = start(bed, &state, "run", "true");
    let status = output.wait_with_output().map_err(|e| e.to_string())?.status;
    must(!status.success(), "it was planned")?;
    let status = start(bed, &bed.outside.join("state"), "run", "true");
    said(status).map(drop)
}

/// How many moments of a start are tried.
const MOMENTS: u32 = 60;
/// How many of them have to lie between the fork of the command and its program.
const HELD: u32 = 5;

fn killed_at_any_moment(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let state = bed.outside.join("state");
    bed.repository("repository");
    let before = tree(&bed.workspace);
    // Whoever loses its parent becomes a child of this process, and is seen.
    raw::call(
        libc::SYS_prctl,
        &[libc::PR_SET_CHILD_SUBREAPER as u64, 1, 0, 0, 0],
    )
    .map_err(|error| error.to_string())?;
    let workspace = text(&bed.workspace);
    let begin = || {
        // Committing is where a start makes directories that hold a place.
        let words = ["start", &workspace, "exec sleep 1000", "commit"];
        let mut caller = start_with(bed, &state, &words);
        let mut said = io::BufReader::new(caller.stdout.take().unwrap());
        said.read_line(&mut String::new()).unwrap();
        (Doomed(caller), said)
    };
    let (mut caller, mut said) = begin();
    let began = Instant::now();
    said.read_line(&mut String::new()).unwrap();
    let whole = began.elapsed();
    must(descendants().len() >= 3, "the control shows nothing")?;
    let held = tree(&bed.workspace);
    must(
        !bed.has_namespaces() || held.len() > before.len(),
        "no directory holds a place",
    )?;
    caller.end();
    nothing_is_left("after the start")?;
    recovers(bed, &state, &before)?;

    for moment in 0..MOMENTS {
        let (mut caller, _said) = begin();
        std::thread::sleep(whole * moment / MOMENTS);
        caller.end();
        nothing_is_left(&format!("at moment {moment}"))?;
    }
    // One that never comes to its program must not keep the others.
    let (mut tries, mut held) = (0, 0);
    while held < HELD {
        must(tries < 20 * HELD, "no moment lies before the program")?;
        tries += 1;
        let (mut caller, _said) = begin();
        held += u32::from(hold_command());
        caller.end();
        nothing_is_left(&format!("with {held} held"))?;
    }
    recovers(bed, &state, &before)?;
    // What is no record yet is none, and goes when it is a minute old.
    let records = tree(&state);
    let mut whole = records
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "record"));
    must(whole.next().is_none(), &format!("{records:?} stay"))
}

/// What is looked at after a caller was killed leaves the workspace as it was.
fn recovers(bed: &Bed, state: &Path, before: &[PathBuf]) -> Verdict {
    said(start(bed, state, "recover", ""))?;
    let after = tree(&bed.workspace);
    must(after == before, &format!("{before:?} became {after:?}"))
}

/// Stops the command between its fork and its program, if it is seen there.
fn hold_command() -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        if let [_caller, _helper, _first, (command, name)] = descendants().as_slice() {
            let stop = [u64::from(*command), libc::SIGSTOP as u64];
            return !["sh", "sleep"].contains(&name.as_str())
                && raw::call(libc::SYS_kill, &stop).is_ok();
        }
    }
    false
}

/// Processes that this one and its descendants started and that run, with their
/// names, each after its parent.
fn descendants() -> Vec<(u32, String)> {
    let mut found: Vec<(u32, String)> = vec![(std::process::id(), String::new())];
    let mut next = 0;
    while next < found.len() {
        let threads = fs::read_dir(format!("/proc/{}/task", found[next].0));
        for thread in threads.into_iter().flatten().flatten() {
            let list = fs::read_to_string(thread.path().join("children"));
            let children = list.unwrap_or_default();
            let children = children.split(' ').filter_map(|child| child.parse().ok());
            found.extend(children.filter_map(|child| Some((child, name_of(child)?))));
        }
        next += 1;
    }
    found.remove(0);
    found
}

/// What a process is called that has not ended.
fn name_of(process: u32) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name is in brackets and may have any letter in it.
    let (head, rest) = line.rsplit_once(") ")?;
    (!rest.starts_with('Z')).then(|| head.split_once('(').map_or("", |(_, name)| name).to_owned())
}

/// Whoever loses its parent while this looks is seen the next time.
pub(super) fn nothing_is_left(when: &str) -> Verdict {
    let began = Instant::now();
    let mut times = 0;
    while times < 3 && began.elapsed() < Duration::from_secs(30) {
        times = if descendants().is_empty() {
            times + 1
        } else {
            0
        };
        std::thread::sleep(Duration::from_millis(1));
    }
    let left = descendants();
    for (process, _) in &left {
        // What stays would keep this case from ending.
        let _ = raw::call(libc::SYS_kill, &[u64::from(*process), libc::SIGKILL as u64]);
    }
    must(left.is_empty(), &format!("{when} these stay: {left:?}"))
}

/// Every name below a directory.
pub(super) fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}
