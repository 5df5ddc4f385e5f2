//! Running programs that no rule names.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use katachi_sandbox::SpawnError;
use katachi_sandbox::plan::ArgvRules;
use katachi_sandbox::policy::CommandRule;

use super::Case;
use crate::bed::{Bed, Verdict, must, offers, text};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a command that no rule names is refused with the reason",
        run: not_listed,
        needs: &[],
    },
    Case {
        name: "programs that no rule names cannot be started by others",
        run: by_others,
        needs: &[],
    },
    Case {
        name: "interpreters cannot start what no rule names",
        run: by_interpreters,
        needs: &[],
    },
    Case {
        name: "a copy of a program cannot be executed",
        run: copies,
        needs: &[],
    },
    Case {
        name: "the loader does not run a copy",
        run: loader,
        needs: &[],
    },
    Case {
        name: "a file in memory cannot be executed",
        run: memory,
        needs: &[],
    },
    Case {
        name: "a script for a listed interpreter in the workspace does not run by itself",
        run: script,
        needs: &[],
    },
    Case {
        name: "exec_from makes a directory executable and no other",
        run: exec_from,
        needs: &[],
    },
    Case {
        name: "a program the command could replace is refused",
        run: writable_program,
        needs: &[],
    },
    Case {
        name: "a program changed after planning is refused",
        run: changed_program,
        needs: &[],
    },
    Case {
        name: "a digest that does not fit is refused",
        run: digest,
        needs: &[],
    },
    Case {
        name: "argument rules can be kept to the first process",
        run: first_process,
        needs: &[],
    },
    Case {
        name: "asking comes before allowing",
        run: asking,
        needs: &[],
    },
    Case {
        name: "a library in the workspace is not loaded",
        run: preload,
        needs: &[],
    },
    Case {
        name: "what variables make programs run is confined like the command",
        run: variables,
        needs: &["sh", "bash"],
    },
];

fn not_listed(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedBefore);
    let plan = bed.plan(&bed.policy())?;
    for program in ["tail", "/usr/bin/tail", "no-such-program"] {
        let error = plan.command([program]).spawn().err().ok_or("it started")?;
        let violation = error.denial().ok_or("not a denial")?;
        must(violation.control == "exec", "another control")?;
        must(
            violation.reason.contains("commands.allow") || program == "no-such-program",
            &violation.reason,
        )?;
    }
    Ok(())
}

fn by_others(bed: &Bed) -> Verdict {
    bed.only_outside(&["execute", "/usr/bin/true"])?;
    bed.only_outside(&["execute", "/proc/self/root/usr/bin/true"])?;
    let plan = bed.plan(&bed.policy().allow("true"))?;
    bed.allowed_by(&plan, &["execute", "/usr/bin/true"])
}

/// A shell, `env`, `xargs`, `find`, Python and others, as far as they are
/// installed.
fn by_interpreters(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let marker = bed.inside("marker");
    let tail = "/usr/bin/touch";
    let python = format!("import os; os.execv('{tail}', ['touch', '{marker}'])");
    let makefile = bed.inside("makefile");
    std::fs::write(&makefile, format!("x:\n\t{tail} {marker}\n")).unwrap();
    let ways: &[(&str, Vec<String>)] = &[
        ("sh", vec!["-c".into(), format!("{tail} {marker}")]),
        ("env", vec![tail.into(), marker.clone()]),
        ("xargs", vec![tail.into(), marker.clone()]),
        (
            "find",
            vec![
                ".".into(),
                "-exec".into(),
                tail.into(),
                marker.clone(),
                ";".into(),
            ],
        ),
        ("python3", vec!["-c".into(), python]),
        (
            "git",
            vec!["-c".into(), format!("alias.x=!{tail} {marker}"), "x".into()],
        ),
        (
            "perl",
            vec!["-e".into(), format!("exec '{tail}', '{marker}'")],
        ),
        ("make", vec!["-f".into(), makefile.clone(), "x".into()]),
        (
            "awk",
            vec![format!("BEGIN {{ exit system(\"{tail} {marker}\") }}")],
        ),
    ];
    for (program, arguments) in ways {
        if !offers(Path::new("/usr/bin").join(program).exists(), program)? {
            continue;
        }
        let path = format!("/usr/bin/{program}");
        let control = std::process::Command::new(&path)
            .args(arguments)
            .current_dir(&bed.workspace)
            .stdin(Stdio::null())
            .status()
            .unwrap();
        must(
            control.success() && Path::new(&marker).exists(),
            "the control shows nothing",
        )?;
        std::fs::remove_file(&marker).unwrap();
        let mut argv: Vec<OsString> = vec![path.clone().into()];
        argv.extend(arguments.iter().map(OsString::from));
        let plan = bed.plan(&bed.policy().allow(path.as_str()))?;
        let mut child = plan
            .command(argv)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        child.wait().unwrap();
        must(!Path::new(&marker).exists(), program)?;
    }
    Ok(())
}

fn copies(bed: &Bed) -> Verdict {
    let program = text(&Bed::program());
    let control = bed.inside("control");
    bed.control(&[
        "execute-copy",
        &program,
        &control,
        "--attempt",
        "variable",
        "PATH",
    ])?;
    let inside = bed.inside("copy");
    for place in [inside.as_str(), "/tmp/copy", "/dev/shm/copy", "~/copy"] {
        bed.denied(&[
            "execute-copy",
            &program,
            place,
            "--attempt",
            "variable",
            "PATH",
        ])?;
    }
    Ok(())
}

fn loader(bed: &Bed) -> Verdict {
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    offers(loader.is_some(), "loader at a known place")?;
    let Some(loader) = loader else { return Ok(()) };
    std::fs::copy("/usr/bin/true", bed.workspace.join("copy")).unwrap();
    bed.only_outside(&["execute", loader, &bed.inside("copy")])?;
    // As the interpreter of a script, too.
    let called = format!("{loader} /usr/bin/true");
    bed.control(&["execute-script", &bed.inside("control"), &called])?;
    bed.denied(&["execute-script", &bed.inside("script"), &called])?;
    bed.only_outside(&["execute", loader, "/usr/bin/true"])
}

fn memory(bed: &Bed) -> Verdict {
    const MFD_EXEC: &str = "16";
    let program = "/usr/bin/true";
    let plan = bed.plan(&bed.policy().allow("true"))?;
    bed.allowed_by(&plan, &["execute", program])?;
    for flags in ["0", MFD_EXEC] {
        for how in ["by-place", "by-descriptor"] {
            let attempt = ["execute-memory", program, flags, how];
            bed.control(&attempt)?;
            bed.denied_by(&plan, &attempt)?;
        }
    }
    // Nor one that never had a name.
    bed.control(&["execute-nameless", program, &bed.inside("")])?;
    for place in [&bed.inside(""), "/tmp", "/dev/shm"] {
        bed.denied_by(&plan, &["execute-nameless", program, place])?;
    }
    Ok(())
}

fn script(bed: &Bed) -> Verdict {
    bed.control(&["execute-script", &bed.inside("control"), "/usr/bin/true"])?;
    let plan = bed.plan(&bed.policy().allow("true"))?;
    bed.denied_by(
        &plan,
        &["execute-script", &bed.inside("script"), "/usr/bin/true"],
    )
}

fn exec_from(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let program = text(&Bed::program());
    std::fs::create_dir(bed.workspace.join("target")).unwrap();
    let plan = bed.plan(&bed.policy().exec_from("target"))?;
    let attempt = |place: &str| -> Vec<String> {
        [
            "execute-copy",
            program.as_str(),
            place,
            "--attempt",
            "variable",
            "PATH",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let run = |place: &str| attempt(&bed.inside(place));
    let words = run("target/copy");
    bed.allowed_by(&plan, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let words = run("copy");
    bed.denied_by(&plan, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    // As the command itself, too.
    let outcome = plan
        .command([
            bed.inside("target/copy"),
            "--attempt".into(),
            "variable".into(),
            "PATH".into(),
        ])
        .spawn()
        .and_then(|mut child| Ok(child.wait()?))
        .map_err(|error| error.to_string())?;
    must(outcome.success(), "a program below exec_from did not start")
}

fn own_program(bed: &Bed, name: &str) -> std::path::PathBuf {
    let place = bed.outside.join(name);
    std::fs::copy("/usr/bin/true", &place).unwrap();
    place
}

fn writable_program(bed: &Bed) -> Verdict {
    std::fs::copy("/usr/bin/true", bed.workspace.join("tool")).unwrap();
    let policy = bed.policy().allow("./tool");
    let error = bed.plan(&policy).err().ok_or("it was accepted")?;
    must(error.contains("could replace"), &error)?;
    let link = bed.outside.join("link");
    std::os::unix::fs::symlink(bed.workspace.join("tool"), &link).unwrap();
    must(
        bed.plan(&bed.policy().allow(text(&link))).is_err(),
        "through a link",
    )
}

fn changed_program(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedStarted);
    let place = own_program(bed, "tool");
    let plan = bed.plan(&bed.policy().allow(text(&place)))?;
    let start = || {
        plan.command([&place])
            .spawn()
            .and_then(|mut child| Ok(child.wait()?))
    };
    must(
        start().is_ok_and(|outcome| outcome.success()),
        "it did not start at first",
    )?;
    // In place, then by another file.
    std::fs::OpenOptions::new()
        .append(true)
        .open(&place)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"x"))
        .unwrap();
    must(
        matches!(start(), Err(SpawnError::Replaced { .. })),
        "changed content was executed",
    )?;
    std::fs::remove_file(&place).unwrap();
    std::fs::copy("/usr/bin/env", &place).unwrap();
    must(
        matches!(start(), Err(SpawnError::Replaced { .. })),
        "another file was executed",
    )
}

fn digest(bed: &Bed) -> Verdict {
    let place = own_program(bed, "tool");
    let policy = |sha256: &str| {
        let mut policy = bed.policy();
        policy.commands.allow.push(CommandRule::File {
            path: place.clone(),
            sha256: Some(sha256.to_owned()),
        });
        policy
    };
    let error = bed.plan(&policy(&"0".repeat(64))).err();
    let error = error.ok_or("it was accepted")?;
    // The error names the right one, which is accepted and runs.
    let right = error
        .split(|letter: char| !letter.is_ascii_hexdigit())
        .find(|word| word.len() == 64 && *word != "0".repeat(64))
        .ok_or(&error)?;
    must(error.contains("SHA-256"), &error)?;
    let plan = bed.plan(&policy(right))?;
    bed.allowed_by(&plan, &["execute", &text(&place)])?;
    // Another program under that path is none of it.
    std::fs::copy("/usr/bin/env", &place).unwrap();
    let error = bed.plan(&policy(right)).err();
    must(
        error.is_some_and(|error| error.contains("SHA-256")),
        "another file was accepted",
    )
}

fn first_process(bed: &Bed) -> Verdict {
    let policy = bed.policy().allow(["true", "yes"]);
    let options = bed.options().argv_rules(ArgvRules::FirstProcess);
    let plan = policy.plan(&options).map_err(|error| error.to_string())?;
    let run = |argv: &[&str]| {
        plan.command(argv.iter().copied())
            .spawn()
            .and_then(|mut child| Ok(child.wait()?))
    };
    must(
        run(&["true", "yes", "more"]).is_ok_and(|outcome| outcome.success()),
        "the allowed form",
    )?;
    must(
        run(&["true", "no"]).is_err_and(|error| error.denial().is_some()),
        "another argument",
    )?;
    must(
        run(&["true"]).is_err_and(|error| error.denial().is_some()),
        "no argument",
    )?;
    // Started by another command it is not there at all.
    bed.denied_by(&plan, &["execute", "/usr/bin/true", "yes"])
}

fn asking(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedBefore);
    let plan = bed.plan(&bed.policy().ask("true"))?;
    let rule = |argv: &[&str]| plan.needs_approval(argv, plan.workspace());
    must(
        rule(&["true", "x"]).is_some_and(|rule| rule.contains("commands.ask"))
            && rule(&["no-such-program"]).is_none()
            && rule(&[]).is_none(),
        "it is not said what needs approval",
    )?;
    let refused = plan
        .command(["true"])
        .spawn()
        .err()
        .ok_or("it started unasked")?;
    must(
        refused
            .denial()
            .is_some_and(|denial| denial.reason.contains("approval")),
        "another reason",
    )?;
    bed.denied_by(&plan, &["execute", "/usr/bin/true"])?;
    let outcome = plan
        .command(["true"])
        .approved()
        .spawn()
        .and_then(|mut child| Ok(child.wait()?));
    must(
        outcome.is_ok_and(|outcome| outcome.success()),
        "it did not start after approval",
    )
}

fn preload(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let library = [
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/lib/aarch64-linux-gnu/libm.so.6",
        "/usr/lib64/libm.so.6",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists());
    offers(library.is_some(), "library at a known place")?;
    let Some(library) = library else {
        return Ok(());
    };
    std::fs::copy(library, bed.workspace.join("libattack.so")).unwrap();
    // Every program asks for this one.
    let libc = Path::new(library).with_file_name("libc.so.6");
    std::fs::copy(libc, bed.workspace.join("libc.so.6")).unwrap();
    let place = bed.inside("libattack.so");
    // Which is how the loader says that it may not be mapped as code.
    let loaded = |errors: &[u8]| !String::from_utf8_lossy(errors).contains("failed to map");
    for (name, value) in [
        ("LD_PRELOAD", place.clone()),
        ("LD_AUDIT", place),
        ("LD_LIBRARY_PATH", bed.inside("")),
    ] {
        let control = std::process::Command::new("/usr/bin/true")
            .env(name, &value)
            .output()
            .unwrap();
        must(
            loaded(&control.stderr),
            &format!("the control shows nothing: {name}"),
        )?;
        let plan = bed.plan(&bed.policy().allow("true").set_env(name, &value))?;
        let output = plan
            .command(["true"])
            .output()
            .map_err(|error| error.to_string())?;
        must(
            !loaded(&output.stderr),
            &format!("{name}: the library was loaded"),
        )?;
    }
    Ok(())
}

/// A command can have the programs it may start run its own code. That code
/// sees what the command sees.
fn variables(bed: &Bed) -> Verdict {
    bed.shows(Seen::Residual);
    let (secret, stolen, ran) = (bed.out("secret"), bed.inside("stolen"), bed.inside("ran"));
    let shell = format!("read x < {secret}; echo \"$x\" > {stolen}\n: > {ran}\n");
    let python = format!(
        "try: open('{stolen}', 'w').write(open('{secret}').read())\n\
         except OSError: pass\n\
         open('{ran}', 'w')\n"
    );
    let perl = format!(
        "if (open(my $in, '<', '{secret}')) {{ open(my $out, '>', '{stolen}'); print {{$out}} <$in>; }}\n\
         open(my $ran, '>', '{ran}');\n1;\n"
    );
    let node = format!(
        "const f = require('fs');\n\
         try {{ f.writeFileSync('{stolen}', f.readFileSync('{secret}')) }} catch {{}}\n\
         f.writeFileSync('{ran}', '');\n"
    );
    for (name, content) in [
        ("begin", shell),
        ("sitecustomize.py", python),
        ("Begin.pm", perl),
        ("begin.cjs", node),
    ] {
        std::fs::write(bed.workspace.join(name), content).unwrap();
    }
    let here = bed.workspace.display();
    let ways = [
        ("bash", "bash", format!("BASH_ENV={here}/begin bash -c :")),
        (
            "git",
            "@git",
            format!("GIT_SSH_COMMAND='sh {here}/begin' git ls-remote ssh://no.test/x"),
        ),
        (
            "python3",
            "@python",
            format!("PYTHONPATH={here} /usr/bin/python3 -c ''"),
        ),
        (
            "perl",
            "perl",
            format!("PERL5OPT='-I{here} -MBegin' perl -e ''"),
        ),
        (
            "node",
            "@node",
            format!("NODE_OPTIONS='--require {here}/begin.cjs' node -e ''"),
        ),
    ];
    for (program, rule, script) in ways {
        let script = format!("{script}; exit 0");
        let mut outside = std::process::Command::new("sh");
        outside.args(["-c", &script]).current_dir(&bed.workspace);
        let _ = outside.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let taken = || std::fs::read(&stolen).is_ok_and(|content| content.starts_with(b"secret"));
        if !Path::new(&ran).exists() {
            must(!installed(program), &format!("{program} ran nothing"))?;
            continue;
        }
        must(taken(), &format!("the control shows nothing: {program}"))?;
        for made in [&stolen, &ran] {
            std::fs::remove_file(made).unwrap();
        }
        // One of several, where they are several.
        let mut policy = bed.policy().allow("sh").allow(rule);
        if program == "python3" {
            policy = policy.allow("/usr/bin/python3");
        }
        let plan = bed.plan(&policy)?;
        let output = plan.command(["sh", "-c", &script]).output();
        let output = output.map_err(|error| error.to_string())?;
        must(
            Path::new(&ran).exists(),
            &format!("{program} ran nothing inside: {output:?}"),
        )?;
        must(!taken(), &format!("{program} saw what the command cannot"))?;
        std::fs::remove_file(&ran).unwrap();
    }
    Ok(())
}

fn installed(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin"]
        .iter()
        .any(|place| Path::new(place).join(program).exists())
}
