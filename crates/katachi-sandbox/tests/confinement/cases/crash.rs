//! What a command left whose caller was killed.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use katachi_sandbox::report::Tier;
use katachi_sandbox::{PlanOptions, Policy, Violation};

use super::Case;
use super::appeared::{NEW, VECTORS, git, is_clean, script, tools};
use crate::bed::{Bed, Verdict, must, text};

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
        name: "a policy that lets a command write the records is refused",
        run: writable_records,
        needs: &[],
    },
];

/// A program that uses this crate. Its words: what it does, the workspace, and
/// a shell script for the command.
pub(crate) fn caller(words: &[String]) -> io::Result<()> {
    let [what, workspace, script] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if what == "recover" {
        tell(&katachi_sandbox::recover()?);
        return Ok(());
    }
    let plan = tools(Policy::default().read("@system").write("."))
        .plan(&PlanOptions::new(workspace).accept(Tier::Landlock))
        .map_err(io::Error::other)?;
    tell(plan.recovered());
    if what == "plan" {
        // Until somebody has made something meanwhile.
        io::stdin().read_line(&mut String::new())?;
    }
    let mut child = plan
        .command(["sh", "-c", script.as_str()])
        .spawn()
        .map_err(io::Error::other)?;
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
    Command::new(Bed::program())
        .args(["--attempt", "be-caller", what])
        .args([&text(&bed.workspace), script])
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
    let state = bed.outside.join("state");
    let (repository, steps) = planting(bed);
    for way in ["again", "recover", "plan"] {
        // One made its plan before, and has to look as well.
        let planned = (way == "plan").then(|| start(bed, &state, "plan", "true"));
        std::thread::sleep(Duration::from_millis(if planned.is_some() {
            1000
        } else {
            0
        }));
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

fn writable_records(bed: &Bed) -> Verdict {
    let state = bed.workspace.join("state");
    let output = start(bed, &state, "run", "true");
    let status = output.wait_with_output().map_err(|e| e.to_string())?.status;
    must(!status.success(), "it was planned")?;
    let status = start(bed, &bed.outside.join("state"), "run", "true");
    said(status).map(drop)
}
