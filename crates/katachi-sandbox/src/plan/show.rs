//! The plan as a person reads it: everything that is visible, executable and
//! missing.

use std::fmt;

use super::Plan;
use super::entry::Kind;
use super::programs::Gate;
use crate::report::one_line;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.0;
        writeln!(f, "workspace {}", one_line(plan.workspace.display()))?;
        writeln!(f, "plan {}", plan.hash)?;
        writeln!(f, "files")?;
        for entry in &plan.entries {
            let access = match (&entry.kind, entry.access.write, entry.access.load) {
                (Kind::Private, ..) => "private",
                (Kind::HiddenDirectory | Kind::HiddenFile, ..) => "hidden",
                (_, false, false) => "read",
                (_, false, true) => "read, load",
                (_, true, false) => "write",
                (_, true, true) => "write, load",
            };
            writeln!(
                f,
                "  {access:<11} {}  ({})",
                one_line(entry.target.display()),
                one_line(&entry.rule)
            )?;
        }
        for (place, target) in &plan.links {
            writeln!(
                f,
                "  {:<11} {} -> {}",
                "link",
                one_line(place.display()),
                one_line(target.display())
            )?;
        }
        writeln!(f, "programs")?;
        for program in &plan.programs {
            let gate = match program.gate {
                Gate::Always => "",
                Gate::Checked => " [checked at each start]",
                Gate::Loader => " [to start others]",
                Gate::Rules(_) => " [only as the command itself]",
            };
            let path = one_line(program.path.display());
            writeln!(f, "  {path}{gate}  ({})", one_line(&program.rule))?;
        }
        for (tree, rule) in &plan.exec_trees {
            let tree = one_line(tree.display());
            writeln!(f, "  everything in {tree}  ({})", one_line(rule))?;
        }
        writeln!(f, "network")?;
        let network = &plan.network.rules;
        if network.allow.is_empty() {
            let own = match plan.system {
                None => " but a loopback of its own",
                Some(_) => "",
            };
            writeln!(f, "  none{own}")?;
        }
        for rule in &network.allow {
            writeln!(f, "  {}", one_line(rule.shown()))?;
        }
        for rule in &network.deny {
            writeln!(f, "  never {}", one_line(rule.shown()))?;
        }
        for port in &plan.network.publish {
            writeln!(f, "  port {port} on the host's loopback")?;
        }
        for socket in &plan.sockets {
            writeln!(f, "  unix socket {}", one_line(socket.display()))?;
        }
        writeln!(f, "environment")?;
        let named = plan
            .policy
            .env
            .pass
            .iter()
            .chain(plan.policy.env.set.keys());
        let names: Vec<&str> = ["PATH", "HOME", "TMPDIR", "LANG"]
            .into_iter()
            .chain(named.map(String::as_str))
            .collect();
        writeln!(f, "  {}", names.join(" "))?;
        if let Some(system) = plan.system {
            let system = system.name();
            writeln!(f, "unwitnessed: nobody has seen {system} hold any of this")?;
        }
        for (control, gap) in &plan.gaps {
            writeln!(f, "partial {control}: {}", one_line(gap))?;
        }
        Ok(())
    }
}
