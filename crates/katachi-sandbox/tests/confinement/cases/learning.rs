//! Monitor mode: confined as ever, and telling what was looked for in vain.

use std::os::unix::fs::PermissionsExt as _;

use katachi_sandbox::learn::Proposal;
use katachi_sandbox::plan::Records;
use katachi_sandbox::{Outcome, Plan, PlanOptions, Policy};

use super::Case;
use crate::bed::{Bed, Verdict, must};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "what is observed is confined as ever",
        run: confined,
        needs: &["sh"],
    },
    Case {
        name: "files and programs missed are reported with their line",
        run: reported,
        needs: &["sh"],
    },
    Case {
        name: "a flood of misses is cut and said to be",
        run: flood,
        needs: &[],
    },
    Case {
        name: "secrets are proposed as comments alone",
        run: secrets,
        needs: &["sh"],
    },
    Case {
        name: "learning leads to a policy that a script works with",
        run: script,
        needs: &["python3", "sh", "expr"],
    },
    Case {
        name: "learning leads to a policy that git works with",
        run: git,
        needs: &["git", "sh"],
    },
];

fn observed(plan: &Plan, argv: &[&str]) -> Result<(Outcome, String), String> {
    let output = plan
        .command(argv)
        .observed()
        .output()
        .map_err(|error| error.to_string())?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.outcome, String::from_utf8_lossy(&said).into_owned()))
}

fn confined(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    std::fs::write(bed.workspace.join("file"), "here").unwrap();
    std::fs::write(bed.workspace.join(".env"), "hidden").unwrap();
    std::os::unix::fs::symlink(&bed.outside, bed.workspace.join("link")).unwrap();
    bed.repository("repository");
    let (secret, victim) = (bed.out("secret"), bed.out("victim"));
    let config = bed.inside("repository/.git/config");
    let attempts: &[&[&str]] = &[
        &["read", &secret],
        &["read", &bed.inside("link/secret")],
        &["append", &victim],
        &["truncate", &victim],
        &["mode", &victim],
        &["create", &bed.out("new")],
        &["set-user-id", &bed.inside("file")],
        &["rename", &bed.inside("file"), &bed.out("moved")],
        &["append", &config],
        &["read", &bed.inside(".env")],
        &["execute", "/usr/bin/true"],
        &["execute-copy", "/usr/bin/true", &bed.inside("copy")],
    ];
    let policy = bed.policy().deny("**/.env");
    let plan = bed.plan(&policy)?;
    let recorded = policy
        .plan(&bed.options().records(Records::Files))
        .map_err(|error| error.to_string())?;
    for attempt in attempts {
        let run = |plan: &Plan, observed: bool| {
            let command = plan
                .command(Bed::argv(attempt))
                .stderr(std::process::Stdio::null());
            let command = match observed {
                true => command.observed(),
                false => command,
            };
            let outcome = command.spawn().and_then(|mut child| Ok(child.wait()?));
            outcome
                .map(|outcome| outcome.exit_code())
                .map_err(|error| format!("{attempt:?}: {error}"))
        };
        let all = [
            run(&plan, false)?,
            run(&recorded, false)?,
            run(&plan, true)?,
        ];
        must(
            all == [1; 3],
            &format!("{attempt:?} ended with {all:?}: as usual, recorded, observed"),
        )?;
    }
    // And each has its effect unconfined.
    for attempt in attempts {
        bed.control(attempt)?;
    }
    std::fs::write(bed.workspace.join("file"), "here").unwrap();
    // The report is the same, and what is allowed works.
    let command = || plan.command(Bed::argv(&["read", &bed.inside("file")]));
    let usual = command().spawn().map_err(|error| error.to_string())?;
    let mut child = command()
        .observed()
        .spawn()
        .map_err(|error| error.to_string())?;
    must(
        child.enforcement() == usual.enforcement(),
        "the report is another",
    )?;
    let outcome = child.wait().map_err(|error| error.to_string())?;
    must(outcome.success(), &format!("{outcome:?}"))
}

fn reported(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = bed.plan(&bed.policy().allow("sh"))?;
    let (secret, new) = (bed.out("secret"), bed.out("new"));
    let script = format!(
        "read x < {secret}; echo x > {new}; cd {}; read y < {secret}; \
         read z < /nowhere; read a < {}; expr 1 + 1; /usr/bin/env",
        bed.outside.display(),
        bed.inside("absent"),
    );
    let (outcome, said) = observed(&plan, &["sh", "-c", &script])?;
    let lines: Vec<&str> = outcome
        .violations
        .iter()
        .filter_map(|violation| violation.allow_with.as_deref())
        .collect();
    let count = |line: String| lines.iter().filter(|known| **known == line).count();
    let all = format!("{lines:#?} {said}");
    must(
        count(format!("[filesystem] read = [{secret:?}]")) == 1
            && count(format!("[filesystem] write = [{:?}]", bed.outside)) == 1
            && outcome
                .violations
                .iter()
                .any(|violation| violation.target == new)
            && count(format!("[filesystem] read = [{:?}]", bed.outside)) >= 1,
        &all,
    )?;
    must(
        count("[commands] allow = [\"expr\"]".to_owned()) >= 1
            && count("[commands] allow = [\"env\"]".to_owned()) >= 1,
        &all,
    )?;
    // What is not there, or is free to use, is no refusal.
    must(
        !all.contains("nowhere\"") && !all.contains("absent\""),
        &all,
    )?;
    // Without being asked for, only starts are noted.
    let output = plan
        .command(["sh", "-c", &script])
        .output()
        .map_err(|error| error.to_string())?;
    let others = |one: &katachi_sandbox::Violation| one.control != "exec";
    must(
        !output.outcome.violations.iter().any(others),
        "it is noted always",
    )
}

fn flood(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let plan = bed.plan(&bed.policy())?;
    let look = |count: usize, length: usize| -> Result<(Outcome, u64), String> {
        let attempt = ["look-for", &count.to_string(), &length.to_string()];
        let mut child = plan
            .command(Bed::argv(&attempt))
            .observed()
            .spawn()
            .map_err(|error| error.to_string())?;
        let first = first_process().ok_or("there is no first process")?;
        let most = std::thread::spawn(move || {
            let mut most = 0;
            while let Some(memory) = memory(first) {
                most = memory.max(most);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            most
        });
        let outcome = child.wait().map_err(|error| error.to_string())?;
        Ok((outcome, most.join().unwrap()))
    };
    let cut = |outcome: &Outcome| {
        let told = outcome.violations.iter();
        told.filter(|violation| violation.reason.contains("not noted"))
            .count()
    };
    let (few, usual) = look(1000, 2)?;
    must(few.success() && cut(&few) == 0, &format!("{few:?}"))?;
    for (many, length) in [(10_500, 2), (1200, 4000)] {
        let (outcome, most) = look(if long { 1_000_000 } else { many }, length)?;
        must(
            outcome.success() && cut(&outcome) == 1 && outcome.violations.len() < 100,
            &format!("{:?}", outcome.ending),
        )?;
        must(
            most < usual + (16 << 10),
            &format!("the first process has {most} KiB, {usual} before"),
        )?;
        let options = bed.options();
        let text = Proposal::new(plan.policy(), &options, &outcome.violations).to_toml();
        must(text.contains("not noted") && text.len() < 1 << 16, &text)?;
    }
    Ok(())
}

/// The process of the sandbox that started last: the child of our child.
fn first_process() -> Option<u32> {
    let child = |of: &str| {
        let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
        list.split_whitespace().last().map(str::to_owned)
    };
    child(&child(&std::process::id().to_string())?)?
        .parse()
        .ok()
}

/// What it has in memory, in KiB.
fn memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What is proposed after one run, which is kept to plan the next.
fn learn(bed: &Bed, policy: &Policy, argv: &[&str]) -> Result<(Outcome, Proposal, String), String> {
    let (outcome, said) = observed(&bed.plan(policy)?, argv)?;
    let options = PlanOptions::new(&bed.workspace);
    let proposal = Proposal::new(policy, &options, &outcome.violations);
    Ok((outcome, proposal, said))
}

/// Learns until a run asks for nothing more.
fn rounds(bed: &Bed, mut policy: Policy, argv: &[&str]) -> Result<(Policy, String), String> {
    let mut text = String::new();
    for _ in 0..8 {
        let (outcome, proposal, said) = learn(bed, &policy, argv)?;
        if outcome.success() {
            // It works without being observed too.
            let output = bed
                .plan(&policy)?
                .command(argv)
                .output()
                .map_err(|error| error.to_string())?;
            let plain = String::from_utf8_lossy(&output.stdout).into_owned();
            must(output.outcome.success(), "it works only when observed")?;
            return Ok((policy, plain));
        }
        text = format!("{said}\n{}", proposal.to_toml());
        if proposal.added() == 0 {
            break;
        }
        policy = Policy::from_toml(&proposal.to_toml(), "proposed")
            .map_err(|error| error.to_string())?;
    }
    Err(format!("it never works: {text}"))
}

fn secrets(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let names = [".ssh/id", "site/.env", "cards/token.json", "plain"];
    let mut script = String::new();
    for name in names {
        let path = bed.outside.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "x").unwrap();
        script.push_str(&format!("read x < {}; ", path.display()));
    }
    script.push_str("echo x > /etc/profile; read x < /etc/shadow; cd /home; cd /etc; exit 0");
    let policy = bed.policy().allow("sh");
    let (_, proposal, said) = learn(bed, &policy, &["sh", "-c", &script])?;
    let text = proposal.to_toml();
    let read = Policy::from_toml(&text, "proposed").map_err(|error| error.to_string())?;
    let opened: Vec<&String> = read
        .filesystem
        .read
        .iter()
        .chain(&read.filesystem.write)
        .filter(|path| !policy.filesystem.read.contains(path) && path.as_str() != ".")
        .collect();
    must(
        opened == [&bed.out("plain")],
        &format!("{opened:?}\n{said}\n{text}"),
    )?;
    must(
        names.iter().all(|name| text.contains(name)) && text.contains("held back"),
        &text,
    )
}

fn script(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    std::fs::set_permissions(&bed.outside, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(bed.outside.join("config.json"), "{\"add\": 40}").unwrap();
    let script = format!(
        "import json, subprocess\n\
         add = json.load(open('{}'))['add']\n\
         print(subprocess.run(['expr', str(add), '+', '2'], check=True, capture_output=True, \
         text=True).stdout.strip())\n",
        bed.out("config.json")
    );
    std::fs::write(bed.workspace.join("script.py"), script).unwrap();
    let argv = ["python3", "script.py"];
    let policy = bed.policy().allow("python3");
    must(
        !observed(&bed.plan(&policy)?, &argv)?.0.success(),
        "it works without learning",
    )?;
    let (learned, said) = rounds(bed, policy.clone(), &argv)?;
    must(said == "42\n", &said)?;
    let added: Vec<&String> = learned
        .filesystem
        .read
        .iter()
        .filter(|path| !policy.filesystem.read.contains(path))
        .collect();
    must(
        added.contains(&&bed.out("config.json"))
            && !added.contains(&&bed.out("."))
            && learned.filesystem.write == policy.filesystem.write,
        &format!("{learned:?}"),
    )
}

fn git(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let run = |argv: &[&str]| {
        let status = std::process::Command::new("git")
            .args(argv)
            .current_dir(&bed.workspace)
            .env("HOME", &bed.workspace)
            .status()
            .unwrap();
        must(status.success(), "git does not work here")
    };
    run(&["init", "--quiet", "."])?;
    std::fs::write(bed.workspace.join("new"), "x").unwrap();
    let policy = Policy::default().read("@system").read(".").allow("sh");
    let argv = ["sh", "-c", "git status --short"];
    must(
        !observed(&bed.plan(&policy)?, &argv)?.0.success(),
        "it works without learning",
    )?;
    let (learned, said) = rounds(bed, policy, &argv)?;
    must(said == "?? new\n", &said)?;
    must(
        learned.filesystem.write.is_empty() && learned.network.allow.is_empty(),
        &format!("{learned:?}"),
    )
}
