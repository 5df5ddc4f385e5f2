//! What a plan explains is what the kernel does.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use katachi_sandbox::bundle::BUNDLES;
use katachi_sandbox::plan::{NewConfiguration, Records};
use katachi_sandbox::policy::{GitAccess, Limits};
use katachi_sandbox::report::Tier;
use katachi_sandbox::{Plan, PlanOptions, Policy, Query};

use super::Case;
use crate::bed::{Bed, Verdict, must, offers, text};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "explain and the kernel agree on random policies",
        run: random,
        needs: &[],
    },
    Case {
        name: "explain and the tracer agree on random argument rules",
        run: arguments,
        needs: &["sh", "touch"],
    },
    Case {
        name: "explain and the start agree on commands",
        run: commands,
        needs: &[],
    },
    Case {
        name: "plans with one hash confine alike",
        run: hashes,
        needs: &[],
    },
    Case {
        name: "a plan shows all that a bundle became",
        run: bundles,
        needs: &[],
    },
];

fn hashes(bed: &Bed) -> Verdict {
    bed.shows(Seen::Agrees);
    let program = bed.outside.join("tool");
    std::fs::copy("/usr/bin/true", &program).unwrap();
    for directory in ["a", "b", ".vscode"] {
        std::fs::create_dir(bed.workspace.join(directory)).unwrap();
    }
    bed.repository("");
    let base = bed.policy().allow(text(&program));
    let mut limits = Limits::default();
    limits.processes = Some(7);
    let others = [
        base.clone().read(bed.out("")),
        base.clone().deny("a"),
        base.clone().deny("b"),
        base.clone().deny("**/.env"),
        base.clone().exec_from("a"),
        base.clone().read("a"),
        base.clone().git(GitAccess::Commit),
        base.clone().allow("true"),
        base.clone().allow(["true", "x"]),
        base.clone().ask("true"),
        base.clone().set_env("A", "b"),
        base.clone().pass_env("A"),
        base.clone().limits(limits),
        // Not everywhere.
        base.clone().allow_host("example.com:443"),
        base.clone().publish(3000),
    ];
    let plan = |policy: &Policy, options: &PlanOptions| {
        let plan = policy.plan(options);
        plan.map(|plan| plan.hash().to_owned())
            .map_err(|error| error.to_string())
    };
    let usual = bed.options();
    let first = plan(&base, &usual)?;
    must(first == plan(&base, &usual)?, "one policy has two hashes")?;
    let mut seen = vec![first];
    for policy in &others {
        match plan(policy, &usual) {
            Ok(hash) => seen.push(hash),
            Err(error) => must(error.contains("cannot be enforced"), &error)?,
        }
    }
    let options = [
        bed.options().new_configuration(NewConfiguration::Report),
        bed.options().records(Records::Files),
    ];
    for options in &options {
        seen.push(plan(&base, options)?);
    }
    // Another file under the name of a program, or of a directory.
    std::fs::copy("/usr/bin/env", &program).unwrap();
    seen.push(plan(&base, &usual)?);
    std::fs::rename(bed.workspace.join(".vscode"), bed.workspace.join("old")).unwrap();
    std::fs::create_dir(bed.workspace.join(".vscode")).unwrap();
    seen.push(plan(&base, &usual)?);
    let different: std::collections::BTreeSet<_> = seen.iter().collect();
    must(
        different.len() == seen.len() && seen.len() >= 18,
        &format!("different plans have one hash: {seen:#?}"),
    )
}

fn bundles(bed: &Bed) -> Verdict {
    bed.shows(Seen::Agrees);
    for bundle in BUNDLES {
        let policy = Policy::default().read("@system").write(".");
        let plan = match bed.plan(&policy.allow(bundle.name)) {
            Ok(plan) => plan,
            // Not every machine has every toolchain.
            Err(error) => {
                must(error.contains("is installed"), &error)?;
                offers(false, bundle.name)?;
                continue;
            }
        };
        let shown = plan.to_string();
        let (files, rest) = shown.split_once("\nprograms\n").ok_or("no programs")?;
        let (programs_shown, _) = rest.split_once("\nnetwork\n").ok_or("no network")?;
        let programs = bundle.programs.iter().filter(|name| {
            let answer = plan.explain(&Query::Exec(vec![name.into()]));
            answer.allowed && shown.contains(&answer.target)
        });
        must(programs.count() > 0, &format!("no program is in {shown}"))?;
        for name in bundle.programs {
            let answer = plan.explain(&Query::Exec(vec![name.into()]));
            must(
                !answer.allowed
                    || programs_shown
                        .lines()
                        .any(|line| line.split_whitespace().next() == Some(answer.target.as_str())),
                &format!("{} is not in {shown}", answer.target),
            )?;
        }
        let paths = [bundle.read, bundle.libraries, bundle.execute].concat();
        for path in paths
            .into_iter()
            .filter(|path| std::fs::metadata(path).is_ok())
        {
            let answer = plan.explain(&Query::Read(path.into()));
            must(answer.allowed, &answer.to_string())?;
            // By itself, or with a directory that it lies in.
            let above = Path::new(&answer.target).ancestors();
            let mut named = above.filter(|place| place.parent().is_some());
            let lists = |place: &Path| {
                let mut words = files.split_whitespace();
                words.any(|word| Path::new(word) == place)
            };
            must(
                named.any(lists),
                &format!("{} is not in {files}", answer.target),
            )?;
        }
    }
    Ok(())
}

/// A small generator, so that a failure comes back with its number.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const DIRECTORIES: &[&str] = &["a", "a/b", "a/b/c", "a/.git", "d", "d/e", "d/.vscode", "f"];
const NAMES: &[&str] = &["x", "y.pem", ".env"];
const PATTERNS: &[&str] = &[
    "**/.env",
    "a/**",
    "a/b",
    "d/e/x",
    "*.pem",
    "d/*/y.pem",
    "f",
    "**/e",
];

/// A program in each directory.
const PROGRAM: &str = "program";
/// What is not there.
const ABSENT: &str = "absent";

/// The same tree in the workspace and outside it.
fn tree(bed: &Bed) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for root in [&bed.workspace, &bed.outside] {
        for directory in DIRECTORIES {
            let directory = root.join(directory);
            std::fs::create_dir_all(&directory).unwrap();
            for name in NAMES {
                let file = directory.join(name);
                std::fs::write(&file, "content").unwrap();
                files.push(file);
            }
            std::fs::copy("/usr/bin/true", directory.join(PROGRAM)).unwrap();
        }
        std::os::unix::fs::symlink("../d", root.join("a/link")).unwrap();
        files.push(root.join("a/link/x"));
        std::fs::hard_link(
            root.join("f/x"),
            bed.outside.join(format!("{}", files.len())),
        )
        .unwrap();
    }
    files
}

/// How many times as many policies as usual.
pub(super) fn longer() -> u64 {
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    if long { 25 } else { 1 }
}

/// Every argv of up to three words, started by a shell, under random prefixes.
fn arguments(bed: &Bed) -> Verdict {
    bed.shows(Seen::Agrees);
    let words = ["a", "b", "-c"];
    let mut lines: Vec<Vec<&str>> = vec![vec!["touch"]];
    let mut begin = 0;
    for _ in 0..3 {
        let end = lines.len();
        for index in begin..end {
            for word in words {
                let mut line = lines[index].clone();
                line.push(word);
                lines.push(line);
            }
        }
        begin = end;
    }
    let script: String = lines
        .iter()
        .map(|line| format!("{}; test $? = 137; echo $?\n", line.join(" ")))
        .collect();
    let mut seen = [0; 2];
    for seed in 0..8 * longer() {
        let mut dice = Dice(seed);
        let mut policy = bed.policy().allow("sh");
        for ask in [false, false, true] {
            let mut rule = vec!["touch".to_owned()];
            for _ in 0..dice.below(3) {
                rule.push(dice.pick(&words).to_owned());
            }
            let rule = katachi_sandbox::policy::CommandRule::Argv(rule);
            match (ask, dice.below(3)) {
                (_, 0) => {}
                (true, _) => policy.commands.ask.push(rule),
                (false, _) => policy.commands.allow.push(rule),
            }
        }
        // Without a rule it would be the kernel that refuses.
        policy = policy.allow(["touch", "a", "b", "-c"]);
        let plan = bed.plan(&policy)?;
        let output = plan
            .command(["sh", "-c", &script])
            .stderr(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .and_then(|child| Ok(child.wait_with_output()?))
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        must(
            said.lines().count() == lines.len(),
            "the shell said too little",
        )?;
        for (line, killed) in lines.iter().zip(said.lines()) {
            let answer = plan.explain(&Query::Exec(line.iter().map(Into::into).collect()));
            seen[usize::from(answer.allowed)] += 1;
            must(
                answer.allowed == (killed == "1"),
                &format!("seed {seed}, {line:?}: {answer}\n{}", policy.to_toml()),
            )?;
        }
    }
    must(
        seen.iter().all(|count| *count > 20),
        "one answer was missing",
    )
}

fn random(bed: &Bed) -> Verdict {
    bed.shows(Seen::Agrees);
    let files = tree(bed);
    let mut planned = 0;
    let mut answers = Answers::default();
    for seed in 0..40 * longer() {
        let mut dice = Dice(seed);
        let mut policy = bed.policy();
        policy.filesystem.write.clear();
        for _ in 0..dice.below(3) {
            policy = policy.write(dice.pick(&[".", "a", "a/b", "d", "d/e", "f"]));
        }
        for _ in 0..dice.below(3) {
            policy = policy.read(dice.pick(&[".", "a/b/c", "d", "../outside/a", "../outside/d/e"]));
        }
        for _ in 0..dice.below(3) {
            policy = policy.deny(dice.pick(PATTERNS));
        }
        policy.filesystem.git = [
            GitAccess::Hidden,
            GitAccess::Read,
            GitAccess::Commit,
            GitAccess::Full,
        ][dice.below(4)];
        for _ in 0..dice.below(3) {
            policy = policy.exec_from(dice.pick(&["a", "a/b", "d", "f", "../outside/d"]));
        }
        // Many of them contradict themselves, and say so.
        let Ok(plan) = bed.plan(&policy) else {
            continue;
        };
        planned += 1;
        compare(bed, &plan, &files, &mut answers)
            // What this one matches is denied once it is there.
            .and_then(
                |()| match policy.filesystem.deny.iter().any(|each| each == "a/**") {
                    false => compare_new(bed, &plan, &mut answers),
                    true => Ok(()),
                },
            )
            .map_err(|problem| format!("seed {seed}: {problem}\n{}\n{plan}", policy.to_toml()))?;
    }
    must(
        planned >= 15,
        &format!("only {planned} policies could be planned"),
    )?;
    answers.are_both()
}

/// How often each question was answered with no and with yes, so that agreeing on
/// one alone is noticed.
#[derive(Debug, Default)]
struct Answers {
    read: [usize; 2],
    write: [usize; 2],
    make: [usize; 2],
    execute: [usize; 2],
}

impl Answers {
    fn are_both(&self) -> Verdict {
        let all = [self.read, self.write, self.make, self.execute];
        must(
            all.iter().flatten().all(|count| *count >= 20),
            &format!("an answer was missing: {self:?}"),
        )
    }
}

/// What an attempt says of each of these, inside.
fn said_of(plan: &Plan, attempt: &str, names: &[PathBuf]) -> Result<Vec<String>, String> {
    let names: Vec<String> = names.iter().map(|name| text(name)).collect();
    let mut words = vec![attempt];
    words.extend(names.iter().map(String::as_str));
    let mut command = plan.command(Bed::argv(&words));
    if plan.enforcement().tier == Tier::Namespaces {
        command = command.current_dir("/tmp");
    }
    let output = command
        .stderr(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<String> = said.lines().map(str::to_owned).collect();
    must(said.len() == names.len(), "the attempt said too little")?;
    Ok(said)
}

/// One name in each directory, in the workspace and outside it.
fn in_each(bed: &Bed, name: &str) -> Vec<PathBuf> {
    let roots = [&bed.workspace, &bed.outside];
    let below = |root: &PathBuf| {
        DIRECTORIES
            .iter()
            .map(|part| root.join(part).join(name))
            .collect()
    };
    roots
        .into_iter()
        .flat_map(|root| -> Vec<PathBuf> { below(root) })
        .collect()
}

fn compare(bed: &Bed, plan: &Plan, files: &[PathBuf], answers: &mut Answers) -> Verdict {
    for (file, line) in files.iter().zip(said_of(plan, "verdicts", files)?) {
        let read = plan.explain(&Query::Read(file.clone()));
        let write = plan.explain(&Query::Write(file.clone()));
        answers.read[usize::from(read.allowed)] += 1;
        answers.write[usize::from(write.allowed)] += 1;
        must(
            format!("{} {}", read.allowed, write.allowed) == line,
            &format!(
                "{}: the kernel {line}, explained {read}; {write}",
                file.display()
            ),
        )?;
    }
    let programs = in_each(bed, PROGRAM);
    for (program, line) in programs.iter().zip(said_of(plan, "executions", &programs)?) {
        let answer = plan.explain(&Query::Exec(vec![program.into()]));
        answers.execute[usize::from(answer.allowed)] += 1;
        must(
            answer.allowed.to_string() == line,
            &format!(
                "{}: the kernel {line}, explained {answer}",
                program.display()
            ),
        )?;
    }
    Ok(())
}

/// The same for what is not there. What counts is that it is there on the host
/// afterwards: a private directory takes whatever is made in it.
fn compare_new(bed: &Bed, plan: &Plan, answers: &mut Answers) -> Verdict {
    let absent = in_each(bed, ABSENT);
    said_of(plan, "creations", &absent)?;
    for name in absent {
        let made = std::fs::remove_file(&name).is_ok();
        let answer = plan.explain(&Query::Write(name.clone()));
        answers.make[usize::from(answer.allowed)] += 1;
        must(
            answer.allowed == made,
            &format!("{}: made {made}, explained {answer}", name.display()),
        )?;
    }
    Ok(())
}

fn commands(bed: &Bed) -> Verdict {
    bed.shows(Seen::Agrees);
    let plan = bed.plan(&bed.policy().allow("true").ask("env"))?;
    for argv in [
        &["true"][..],
        &["/usr/bin/true", "x"],
        &["env"],
        &["cat"],
        &["no-such-program"],
        &["./true"],
    ] {
        let answer = plan.explain(&Query::Exec(argv.iter().map(Into::into).collect()));
        let started = plan.command(argv.iter().copied()).spawn();
        let denied = started
            .as_ref()
            .err()
            .is_some_and(|error| error.denial().is_some());
        must(
            answer.allowed == started.is_ok() && answer.allowed != denied,
            &answer.to_string(),
        )?;
    }
    Ok(())
}
