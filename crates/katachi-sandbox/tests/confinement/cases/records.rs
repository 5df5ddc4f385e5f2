//! What is refused leaves a record, with its reason and the line that would
//! allow it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use katachi_sandbox::plan::Records;
use katachi_sandbox::report::Enforced;
use katachi_sandbox::{Outcome, Plan, Policy, Violation};

use super::Case;
use crate::bed::{Bed, Ground, Verdict, must, text};
use crate::raw;
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "every start that is refused leaves a record",
        run: starts,
        needs: &["sh", "expr"],
    },
    Case {
        name: "the line of a record allows what was refused",
        run: lines,
        needs: &["expr"],
    },
    Case {
        name: "a flood of refused starts is cut and hides nobody else's",
        run: flood,
        needs: &["sh", "expr"],
    },
    Case {
        name: "a name in a record is one word of its line",
        run: names,
        needs: &[],
    },
    Case {
        name: "a start that changes while it is looked at is no other",
        run: flipping,
        needs: &["touch"],
    },
    Case {
        name: "refused files are noted where that is wanted",
        run: files,
        needs: &["sh", "expr"],
    },
    Case {
        name: "a caller whose calls others hear of starts commands all the same",
        run: heard_before,
        needs: &["true"],
    },
];

/// The program that makes the attempts, as records name it.
fn own_name() -> String {
    let program = Bed::program();
    program.file_name().unwrap().to_str().unwrap().to_owned()
}

fn outcome(
    plan: &Plan,
    argv: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
) -> Result<Outcome, String> {
    plan.command(argv)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .and_then(|mut child| Ok(child.wait()?))
        .map_err(|error| error.to_string())
}

/// The one record of an attempt that is refused.
fn record(bed: &Bed, policy: &Policy, attempt: &[&str]) -> Result<Violation, String> {
    let outcome = outcome(&bed.plan(policy)?, Bed::argv(attempt))?;
    must(
        outcome.exit_code() == 1,
        &format!("{attempt:?} ended with {:?}", outcome.ending),
    )?;
    match outcome.violations.as_slice() {
        [one] => Ok(one.clone()),
        other => Err(format!("{attempt:?} left {other:#?}")),
    }
}

/// Makes an executable file.
fn program(place: &Path, content: &str) {
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(place, content).unwrap();
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn starts(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let policy = bed.policy().deny("secret").deny("lone");
    let policy = policy.exec_from("target");
    program(&bed.workspace.join("lone"), "#!/bin/sh\n");
    let lone = bed.inside("lone");
    program(&bed.workspace.join("target/script"), "#!/usr/bin/expr\n");
    program(&bed.workspace.join("secret/tool"), "#!/bin/sh\n");
    std::fs::copy("/usr/bin/true", bed.workspace.join("copy")).unwrap();
    let (copy, script, hidden) = (
        bed.inside("copy"),
        bed.inside("target/script"),
        bed.inside("secret/tool"),
    );
    let allow = |name: &str| Some(format!("[commands] allow = [{name:?}]"));
    let kinds: &[(&[&str], &str, &str, Option<String>)] = &[
        // No rule names it, by its path and by a name that is looked up.
        (
            &["execute", "/usr/bin/expr"],
            "/usr/bin/expr",
            "commands.allow",
            allow("expr"),
        ),
        (
            &["execute", "expr"],
            "/usr/bin/expr",
            "commands.allow",
            allow("expr"),
        ),
        // The command could have written it.
        (
            &["execute", &copy],
            &copy,
            "what the command can write",
            Some("[filesystem] exec_from = [\".\"]".to_owned()),
        ),
        // Its interpreter may not be started.
        (
            &["execute", &script],
            "/usr/bin/expr",
            "commands.allow",
            allow("expr"),
        ),
        // A rule hides it.
        (
            &["execute", &hidden],
            &hidden,
            "hides it",
            Some("remove filesystem.deny = \"secret\"".to_owned()),
        ),
    ];
    for (attempt, target, reason, line) in kinds {
        bed.possible_outside(attempt);
        let record = record(bed, &policy, attempt)?;
        let fits = record.control == "exec"
            && record.operation == "exec"
            && record.target == *target
            && record.reason.starts_with(&own_name())
            && record.reason.contains(reason)
            && record.allow_with == *line;
        must(fits, &format!("{attempt:?}: {record:#?}"))?;
    }
    let found = record(bed, &policy, &["execute", &lone])?;
    must(
        found.target == lone
            && found.allow_with.as_deref() == Some("remove filesystem.deny = \"lone\""),
        &format!("{found:#?}"),
    )?;
    // A file that never had a name has no line either.
    let nameless = ["execute-nameless", "/usr/bin/true", &bed.inside("")];
    bed.control(&nameless)?;
    let found = record(bed, &bed.policy().allow("true"), &nameless)?;
    must(
        found.reason.contains("what the command can write") && found.target.contains("(deleted)"),
        &format!("{found:#?}"),
    )?;
    // By a descendant, and told while the command runs.
    let plan = bed.plan(&bed.policy().allow("sh").allow("cat"))?;
    let mut child = plan
        .command(["sh", "-c", "sh -c '/usr/bin/expr 1 + 1'; cat"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let first = child.violation_stream().next().ok_or("the stream ended")?;
    must(first.target == "/usr/bin/expr", &format!("{first:#?}"))?;
    let outcome = child.wait().map_err(|error| error.to_string())?;
    must(outcome.violations == [first], "the end tells another story")?;
    // What is not there, is no program, or may be started is no refusal.
    std::fs::write(bed.workspace.join("plain"), "x").unwrap();
    let innocent = "no-such-program; ./plain; ./absent; /usr/bin/none; cat /dev/null; sh -c true";
    let outcome = self::outcome(&plan, ["sh", "-c", innocent])?;
    must(outcome.violations.is_empty(), &format!("{outcome:#?}"))
}

fn lines(bed: &Bed) -> Verdict {
    let with = |policy: &Policy, line: &str| -> Result<Policy, String> {
        let added = Policy::from_toml(&line.replacen(' ', "\n", 1), "line")
            .map_err(|error| format!("{line}: {error}"))?;
        let mut policy = policy.clone();
        policy.commands.allow.extend(added.commands.allow);
        policy
            .filesystem
            .exec_from
            .extend(added.filesystem.exec_from);
        Ok(policy)
    };
    std::fs::create_dir(bed.workspace.join("bin")).unwrap();
    std::fs::copy("/usr/bin/true", bed.workspace.join("bin/copy")).unwrap();
    std::fs::copy("/usr/bin/true", bed.outside.join("odd \"name\"")).unwrap();
    let tries = [
        ["execute", "/usr/bin/true"],
        ["execute", &bed.inside("bin/copy")],
        ["execute", &bed.out("odd \"name\"")],
    ];
    for attempt in tries {
        bed.control(&attempt)?;
        let record = record(bed, &bed.policy(), &attempt)?;
        let line = record.allow_with.ok_or("there is no line")?;
        bed.allowed_by(&bed.plan(&with(&bed.policy(), &line)?)?, &attempt)?;
    }
    Ok(())
}

fn flood(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let many = 3000;
    program(&bed.outside.join("p0"), "#!/bin/sh\n");
    for index in 1..many {
        let place = bed.outside.join(format!("p{index}"));
        std::fs::hard_link(bed.outside.join("p0"), place).unwrap();
    }
    let plan = bed.plan(&bed.policy().allow("sh"))?;
    let own = text(&Bed::program());
    let prefix = bed.out("p");
    let tell = |count: usize| -> Result<Outcome, String> {
        let script =
            format!("{own} --attempt execute-each {prefix} {count}; /usr/bin/expr 1 + 1; exit 0");
        outcome(&plan, ["sh", "-c", &script])
    };
    let of = |outcome: &Outcome, who: &str| {
        let all = outcome.violations.iter();
        all.filter(|one| one.control == "exec" && one.reason.starts_with(who))
            .count()
    };
    let told = |outcome: &Outcome| {
        let all = outcome.violations.iter();
        all.filter(|one| one.control == "records" && one.target == own_name())
            .count()
    };
    let few = tell(40)?;
    must(
        of(&few, &own_name()) == 40
            && told(&few) == 0
            && of(&few, "sh wanted") + of(&few, "dash wanted") == 1,
        &format!("{few:#?}"),
    )?;
    let all = tell(many)?;
    must(
        of(&all, &own_name()) == 50 && told(&all) == 1,
        &format!("{} and {}", of(&all, &own_name()), told(&all)),
    )?;
    must(
        of(&all, "sh wanted") + of(&all, "dash wanted") == 1,
        "a flood hides what another program did",
    )
}

fn names(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    // Its line must not become a rule about something else.
    let name = "x\"]\n[network]\nallow = [\"evil.example";
    program(&bed.outside.join(name), "#!/bin/sh\n");
    let record = record(bed, &bed.policy(), &["execute", &bed.out(name)])?;
    let line = record.allow_with.clone().ok_or("there is no line")?;
    must(
        line.lines().count() == 1 && record.to_string().lines().count() == 1,
        &line,
    )?;
    let read = Policy::from_toml(&line.replacen(' ', "\n", 1), "line");
    let read = read.map_err(|error| format!("{line}: {error}"))?;
    must(
        read.network.allow.is_empty() && read.commands.allow.len() == 1,
        &format!("{read:#?}"),
    )
}

fn flipping(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    // Two programs whose names have one length; neither is allowed.
    for name in ["aaaa", "bbbb"] {
        std::fs::copy("/usr/bin/touch", bed.outside.join(name)).unwrap();
    }
    let (one, other, marker) = (bed.out("aaaa"), bed.out("bbbb"), bed.inside("marker"));
    let attempt = ["start-flipping", &one, &other, &marker, "300"];
    bed.control(&attempt)?;
    std::fs::remove_file(bed.workspace.join("marker")).unwrap();
    let outcome = outcome(&bed.plan(&bed.policy())?, Bed::argv(&attempt))?;
    must(outcome.exit_code() == 1, "one of them ran")?;
    must(!bed.workspace.join("marker").exists(), "one of them ran")?;
    let known = |one: &&Violation| one.control == "exec" && one.reason.starts_with(&own_name());
    must(
        outcome.violations.iter().filter(known).count() >= 1 && outcome.violations.len() < 60,
        &format!("{:#?}", outcome.violations),
    )
}

fn files(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    std::fs::write(bed.workspace.join("hidden"), "x").unwrap();
    let policy = bed.policy().allow("sh").deny("hidden");
    std::os::unix::fs::symlink(&bed.outside, bed.workspace.join("link")).unwrap();
    let (secret, new) = (bed.out("secret"), bed.out("new"));
    let (hidden, linked) = (bed.inside("hidden"), bed.inside("link/victim"));
    let script = format!(
        "read x < {secret}; echo x > {new}; read x < {hidden}; read x < {linked}; \
         cd {}; read z < /nowhere; read a < {}; echo x > {}; expr 1 + 1; exit 0",
        bed.outside.display(),
        bed.inside("absent"),
        bed.inside("made"),
    );
    let run = |records: Records| {
        let plan = policy.plan(&bed.options().records(records));
        let plan = plan.map_err(|error| error.to_string())?;
        let output = plan.command(["sh", "-c", &script]).output();
        Ok::<_, String>(output.map_err(|error| error.to_string())?.outcome)
    };
    let noted = run(Records::Files)?;
    let all = format!("{:#?}", noted.violations);
    let has = |operation: &str, target: &str, line: Option<String>| {
        let mut found = noted.violations.iter();
        found
            .any(|one| one.operation == operation && one.target == target && one.allow_with == line)
    };
    let line = |key: &str, place: &str| Some(format!("[filesystem] {key} = [{place:?}]"));
    must(noted.success(), &all)?;
    must(
        has("read", &secret, line("read", &secret))
            && has("write", &new, line("write", &text(&bed.outside)))
            && has("read", &linked, line("read", &linked))
            && has(
                "exec",
                "/usr/bin/expr",
                Some("[commands] allow = [\"expr\"]".to_owned()),
            ),
        &all,
    )?;
    must(
        has(
            "read",
            &hidden,
            Some("remove filesystem.deny = \"hidden\"".to_owned()),
        ),
        &all,
    )?;
    // Without namespaces every directory can be entered, and where one name is
    // hidden no other can be made beside it.
    let (outside, made) = (text(&bed.outside), bed.inside("made"));
    let entered = !has("read", &outside, line("read", &outside));
    let mut all_there = noted.violations.iter();
    let kept_out = all_there.any(|one| one.operation == "write" && one.target == made);
    let without = Ground::here() == Ground::Nothing;
    must(
        (entered, kept_out) == (without, without) && noted.violations.len() == 6,
        &all,
    )?;
    // Without being asked for, only starts are noted; a shell that finds no
    // program starts none.
    let usual = run(Records::Starts)?;
    must(
        usual.violations.iter().all(|one| one.control == "exec"),
        &format!("{:#?}", usual.violations),
    )
}

fn heard_before(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    // As in a container whose manager hears of calls: one listener is all that
    // the kernel gives.
    let listener = raw::hear_of_nothing().map_err(|error| error.to_string())?;
    let plan = bed.plan(&bed.policy().allow("true"))?;
    let started = plan.command(["true"]).spawn();
    if Ground::here() == Ground::Nothing {
        let refused = started
            .err()
            .ok_or("it started without the first process's ear")?;
        return must(
            refused.to_string().contains("hear of system calls"),
            &refused.to_string(),
        );
    }
    let mut child = started.map_err(|error| error.to_string())?;
    let exec = child.enforcement().control("exec").cloned();
    let outcome = child.wait().map_err(|error| error.to_string())?;
    drop(listener);
    must(outcome.success(), &format!("{outcome:?}"))?;
    let exec = exec.ok_or("no control")?.enforced;
    must(
        matches!(&exec, Enforced::Partial(gap) if gap.contains("are not noted")),
        &format!("{exec:?}"),
    )
}
