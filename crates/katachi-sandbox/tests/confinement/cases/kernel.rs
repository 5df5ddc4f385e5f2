//! Other processes, privileges, and the kernel's own interfaces.

use std::process::{Command, Stdio};

use super::Case;
use crate::attempts::keep_open;
use crate::bed::{Bed, Verdict, must};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "other processes are neither seen nor reached",
        run: processes,
        needs: &[],
    },
    Case {
        name: "where the system forbids user namespaces nothing starts",
        run: forbidden_by_system,
        needs: &["unshare", "sh"],
    },
    Case {
        name: "where a container forbids user namespaces nothing starts",
        run: forbidden_by_container,
        needs: &[],
    },
    Case {
        name: "no capability is held",
        run: capabilities,
        needs: &[],
    },
    Case {
        name: "root's command is nobody outside",
        run: outside_identity,
        needs: &[],
    },
    Case {
        name: "set-user-id programs gain nothing",
        run: no_new_privileges,
        needs: &[],
    },
    Case {
        name: "no namespace can be made",
        run: namespaces,
        needs: &[],
    },
    Case {
        name: "mounts cannot be changed",
        run: mounts,
        needs: &[],
    },
    Case {
        name: "files cannot be opened by handle",
        run: handles,
        needs: &[],
    },
    Case {
        name: "keyrings, bpf, io_uring and the like are closed",
        run: interfaces,
        needs: &[],
    },
    Case {
        name: "32-bit and x32 calls are closed",
        run: architectures,
        needs: &[],
    },
    Case {
        name: "open descriptors of the caller are not inherited",
        run: descriptors,
        needs: &[],
    },
    Case {
        name: "the caller's environment is not inherited",
        run: environment,
        needs: &[],
    },
];

fn processes(bed: &Bed) -> Verdict {
    let mut host = Command::new("/usr/bin/sleep")
        .arg("60")
        .env("KATACHI_SECRET", "host-secret")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = host.id().to_string();
    let attempts: &[&[&str]] = &[
        &["signal", &pid],
        &["environment-of", &pid, "host-secret"],
        &["trace", &pid],
    ];
    let verdict = attempts.iter().try_for_each(|attempt| {
        must(bed.possible_outside(attempt), "the control shows nothing")?;
        bed.denied(attempt)
    });
    host.kill().unwrap();
    host.wait().unwrap();
    verdict?;
    // The first process of the sandbox keeps its memory to itself.
    bed.denied(&["read", "/proc/1/environ"])?;
    bed.denied(&["read", "/proc/1/maps"])?;
    bed.denied(&["signal", "1"])?;
    bed.denied(&["trace", "1"])
}

fn capabilities(bed: &Bed) -> Verdict {
    bed.only_outside(&["capability"])
}

fn outside_identity(bed: &Bed) -> Verdict {
    bed.control(&["outside-root"])?;
    bed.denied(&["outside-root"])
}

fn no_new_privileges(bed: &Bed) -> Verdict {
    bed.denied(&["may-gain-privileges"])?;
    let plan = bed.plan(&bed.policy().allow("cat"))?;
    let output = plan
        .command(["cat", "/proc/self/status"])
        .output()
        .map_err(|error| error.to_string())?;
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    must(status.contains("NoNewPrivs:\t1"), "no_new_privs is off")?;
    must(status.contains("Seccomp:\t2"), "there is no filter")?;
    must(
        status.contains("CapBnd:\t0000000000000000"),
        "the bounding set is not empty",
    )?;
    let mounts = plan
        .command(["cat", "/proc/self/mounts"])
        .output()
        .map_err(|error| error.to_string())?;
    let mounts = String::from_utf8_lossy(&mounts.stdout).into_owned();
    must(mounts.lines().count() > 5, "no mounts were seen")?;
    must(
        mounts.lines().all(|line| line.contains("nosuid")),
        "a mount honours set-user-id",
    )
}

fn namespaces(bed: &Bed) -> Verdict {
    let user = libc::CLONE_NEWUSER.to_string();
    bed.only_outside(&["new-namespace", &user])?;
    bed.only_outside(&["clone-namespace"])?;
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWCGROUP,
    ] {
        bed.denied(&["new-namespace", &flag.to_string()])?;
    }
    // clone3 says that it does not exist, so that libraries fall back.
    bed.denied(&["call", &libc::SYS_clone3.to_string(), "0", "0"])
}

fn mounts(bed: &Bed) -> Verdict {
    for call in [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_mount_setattr,
        libc::SYS_setns,
    ] {
        bed.denied(&["call", &call.to_string()])?;
    }
    Ok(())
}

fn handles(bed: &Bed) -> Verdict {
    bed.denied(&["call", &libc::SYS_open_by_handle_at.to_string()])?;
    bed.denied(&["call", &libc::SYS_name_to_handle_at.to_string()])
}

fn interfaces(bed: &Bed) -> Verdict {
    // Asks for the number of the session keyring; makes nothing.
    let keyring = [
        "call",
        &libc::SYS_keyctl.to_string(),
        "0",
        "18446744073709551613",
        "0",
    ];
    bed.only_outside(&keyring)?;
    bed.possible_outside(&["io-uring"]);
    bed.denied(&["io-uring"])?;
    // Only asks for the current value.
    let personality = libc::SYS_personality.to_string();
    bed.only_outside(&["call", &personality, "4194304"])?;
    for call in [
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_swapon,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_syslog,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_memfd_secret,
    ] {
        bed.denied(&["call", &call.to_string()])?;
    }
    Ok(())
}

fn architectures(bed: &Bed) -> Verdict {
    #[cfg(target_arch = "x86_64")]
    {
        let plan = bed.plan(&bed.policy())?;
        // Kernels can be built without it; then there is nothing to close.
        bed.possible_outside(&["call-32-bit"]);
        let outcome = bed.run(&plan, &["call-32-bit"])?;
        let killed = outcome.ending == katachi_sandbox::Ending::Signal(libc::SIGSYS);
        must(killed, &format!("{:?}", outcome.ending))?;
        must(outcome.violations.len() == 1, "the kill was not reported")?;
        bed.denied(&["call-x32"])?;
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bed;
    Ok(())
}

fn descriptors(bed: &Bed) -> Verdict {
    let file = std::fs::File::open(bed.outside.join("secret")).unwrap();
    let fd = keep_open(&file).to_string();
    bed.control(&["descriptor", &fd])?;
    let again = std::fs::File::open(bed.outside.join("secret")).unwrap();
    let fd = keep_open(&again).to_string();
    bed.denied(&["descriptor", &fd])?;
    for fd in 3..20 {
        bed.denied(&["descriptor", &fd.to_string()])?;
    }
    Ok(())
}

fn environment(bed: &Bed) -> Verdict {
    // The harness sets HOME and PATH; cargo sets more. One that is there:
    let Some((name, _)) = std::env::vars()
        .find(|(name, _)| !["PATH", "HOME", "TMPDIR", "LANG"].contains(&name.as_str()))
    else {
        return Err("the control shows nothing: there is no other variable".to_owned());
    };
    bed.only_outside(&["variable", &name])?;
    let plan = bed.plan(&bed.policy().pass_env(name.as_str()))?;
    bed.allowed_by(&plan, &["variable", &name])?;
    bed.denied(&["variable", "LD_PRELOAD"])
}

/// Starts a sandbox from a place that forbids it, and looks at what is said.
fn refused_with(bed: &Bed, mut place: Command, wanted: &str) -> Verdict {
    let output = place.current_dir(&bed.workspace).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    must(
        said.contains("tier none") && said.contains("start refused") && said.contains(wanted),
        &format!("{said}\n{}", String::from_utf8_lossy(&output.stderr)),
    )?;
    must(
        !bed.workspace.join("started").exists(),
        "the command ran unconfined",
    )
}

/// The same program, where nothing forbids it.
fn starts_elsewhere(bed: &Bed) -> Verdict {
    bed.control(&["start-sandbox"])?;
    must(
        bed.workspace.join("started").exists(),
        "the control shows nothing",
    )?;
    std::fs::remove_file(bed.workspace.join("started")).unwrap();
    Ok(())
}

fn forbidden_by_system(bed: &Bed) -> Verdict {
    starts_elsewhere(bed)?;
    let mut place = Command::new("unshare");
    let forbid =
        "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" --attempt start-sandbox";
    place.args(["--user", "--map-root-user", "sh", "-c", forbid]);
    place.arg(Bed::program());
    refused_with(bed, place, "max_user_namespaces")
}

fn forbidden_by_container(bed: &Bed) -> Verdict {
    starts_elsewhere(bed)?;
    let mut place = Command::new(Bed::program());
    place.args(["--attempt", "start-sandbox-without-namespaces"]);
    refused_with(bed, place, "allow unprivileged user namespaces")
}
