//! Which hosts a policy names, and the decision about one.
//!
//! The decision needs no network: it is made before any name is resolved, so
//! that asking for a name tells nobody anything.

use super::host::{self, Host};

/// One entry of `network.allow` or `network.deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pattern: Pattern,
    /// `None` in a denial: every port.
    port: Option<u16>,
    /// As the policy wrote it.
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(Host),
    /// Every name that ends with this, which starts with a dot.
    Below(String),
}

/// What is wrong with a rule and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRule {
    pub(crate) problem: &'static str,
    pub(crate) next_step: &'static str,
    /// Whether it means something and opens too much.
    pub(crate) too_wide: bool,
}

impl Rule {
    /// Reads `host:port`, where the host may start with `*.`.
    pub(crate) fn allow(text: &str) -> Result<Self, BadRule> {
        let (host, port) = split(text);
        let Some(port) = port else {
            return Err(malformed("it names no port"));
        };
        Self::new(text, host, Some(port))
    }

    /// Reads `host:port`, or a host alone for each of its ports.
    pub(crate) fn deny(text: &str) -> Result<Self, BadRule> {
        let (host, port) = split(text);
        Self::new(text, host, port)
    }

    fn new(text: &str, host: &str, port: Option<&str>) -> Result<Self, BadRule> {
        let port = port.map(host::port).transpose().map_err(malformed)?;
        let pattern = match host.strip_prefix("*.") {
            Some(name) => match Host::read(name).map_err(malformed)? {
                Host::Name(name) if name.contains('.') => Pattern::Below(format!(".{name}")),
                Host::Name(_) => return Err(too_wide()),
                Host::Address(_) => return Err(malformed("an address has no names below it")),
            },
            None if host == "*" => return Err(too_wide()),
            None => Pattern::Exactly(Host::read(host).map_err(malformed)?),
        };
        Ok(Self {
            pattern,
            port,
            text: text.to_owned(),
        })
    }

    /// The rule for people: as it was written, or as it is compared where
    /// letters could be taken for others.
    pub(crate) fn shown(&self) -> String {
        if self.text.is_ascii() {
            return self.text.clone();
        }
        let host = match &self.pattern {
            Pattern::Exactly(host) => host.to_string(),
            Pattern::Below(end) => format!("*{end}"),
        };
        let port = self
            .port
            .map_or_else(String::new, |port| format!(":{port}"));
        format!("{host}{port}, written {:?}", self.text)
    }

    fn names(&self, host: &Host) -> bool {
        match (&self.pattern, host) {
            (Pattern::Exactly(named), host) => named == host,
            (Pattern::Below(end), Host::Name(name)) => name.ends_with(end.as_str()),
            (Pattern::Below(_), Host::Address(_)) => false,
        }
    }

    fn matches(&self, host: &Host, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.names(host)
    }

    /// The host, where the rule names one alone.
    pub(crate) fn host(&self) -> Option<&Host> {
        match &self.pattern {
            Pattern::Exactly(host) => Some(host),
            Pattern::Below(_) => None,
        }
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }
}

/// The host and the port of a rule, which an address in brackets or without
/// them may not have.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => (text, None),
        Some((host, _)) if host.starts_with('[') && !host.ends_with(']') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    }
}

fn malformed(problem: &'static str) -> BadRule {
    BadRule {
        problem,
        next_step: "write \"api.example.com:443\", \"*.example.com:443\" or \"10.0.0.7:5432\", names of other scripts in their xn-- form (or with the feature `idna`)",
        too_wide: false,
    }
}

fn too_wide() -> BadRule {
    BadRule {
        problem: "it allows hosts that anybody can own",
        next_step: "name the hosts, or everything below a name with a dot in it",
        too_wide: true,
    }
}

/// Everything `network` says about hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) allow: Vec<Rule>,
    pub(crate) deny: Vec<Rule>,
}

/// Whether a connection is allowed, by which rule, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) rule: String,
    pub(crate) allow_with: Option<String>,
}

/// What a policy says about one host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// A rule of `network.deny` names it.
    Denied,
    /// No rule names it, which denies it too.
    Unnamed,
}

impl Decision {
    pub(crate) fn allowed(&self) -> bool {
        self.verdict == Verdict::Allowed
    }
}

impl Rules {
    /// Decides about one connection. A denial wins over whatever allows.
    pub(crate) fn decide(&self, host: &Host, port: u16) -> Decision {
        if let Some(rule) = self.deny.iter().find(|rule| rule.matches(host, port)) {
            return Decision {
                verdict: Verdict::Denied,
                rule: format!("network.deny = {:?}", rule.text),
                allow_with: Some(format!("remove network.deny = {:?}", rule.text)),
            };
        }
        if let Some(rule) = self.allow.iter().find(|rule| rule.matches(host, port)) {
            return Decision {
                verdict: Verdict::Allowed,
                rule: format!("network.allow = {:?}", rule.text),
                allow_with: None,
            };
        }
        let rule = if self.allow.is_empty() {
            "network.allow is empty, so there is no network".to_owned()
        } else {
            format!("no rule of network.allow names {host}:{port}")
        };
        Decision {
            verdict: Verdict::Unnamed,
            rule,
            allow_with: Some(format!("[network] allow = [\"{host}:{port}\"]")),
        }
    }

    /// Every port that some rule allows, once.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.allow.iter().filter_map(Rule::port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Whether some port of the host is allowed, so that its name exists.
    pub(crate) fn knows(&self, host: &Host) -> bool {
        self.allow
            .iter()
            .filter(|rule| rule.names(host))
            .filter_map(Rule::port)
            .any(|port| self.decide(host, port).allowed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Rules {
        Rules {
            allow: allow
                .iter()
                .map(|text| Rule::allow(text).unwrap())
                .collect(),
            deny: deny.iter().map(|text| Rule::deny(text).unwrap()).collect(),
        }
    }

    fn allowed(rules: &Rules, target: &str) -> bool {
        let (host, port) = host::authority(target).unwrap();
        rules.decide(&host, port).allowed()
    }

    #[cfg(feature = "idna")]
    #[test]
    fn a_denial_holds_for_every_spelling() {
        let spellings = [
            "b\u{fc}cher.example",
            "B\u{dc}CHER.example",
            "bu\u{308}cher\u{3002}example",
            "xn--bcher-kva.example",
            "XN--BCHER-KVA.example.",
        ];
        let allow = Rule::allow("*.example.com:443").unwrap();
        for denied in spellings {
            let mut rules = Rules {
                allow: vec![
                    allow.clone(),
                    Rule::allow("b\u{fc}cher.example:443").unwrap(),
                ],
                deny: Vec::new(),
            };
            for spelled in spellings {
                let host = Host::read(spelled).unwrap();
                assert!(rules.decide(&host, 443).allowed(), "{spelled}");
            }
            rules.deny.push(Rule::deny(denied).unwrap());
            for spelled in spellings {
                let host = Host::read(spelled).unwrap();
                assert!(!rules.decide(&host, 443).allowed(), "{denied} {spelled}");
            }
        }
        // What looks alike is another host, and the plan shows it.
        let rule = Rule::allow("*.ex\u{430}mple.com:443").unwrap();
        assert!(rule.shown().starts_with("*.xn--exmple-4nf.com:443, "));
        let mut rules = Rules {
            allow: vec![rule],
            deny: Vec::new(),
        };
        let real = Host::read("a.example.com").unwrap();
        assert!(!rules.decide(&real, 443).allowed());
        rules.allow = vec![allow];
        assert!(rules.decide(&real, 443).allowed());
        let alike = Host::read("a.ex\u{430}mple.com").unwrap();
        assert!(!rules.decide(&alike, 443).allowed());
    }

    #[test]
    fn names_match_by_label_and_port() {
        let rules = rules(&["api.example.com:443", "*.crates.io:443"], &[]);
        for target in [
            "api.example.com:443",
            "API.example.com.:443",
            "a.b.crates.io:443",
        ] {
            assert!(allowed(&rules, target), "{target}");
        }
        for target in [
            "api.example.com:80",
            "example.com:443",
            "x.api.example.com:443",
            "api.example.com.evil.test:443",
            "crates.io:443",
            "evilcrates.io:443",
            "127.0.0.1:443",
        ] {
            assert!(!allowed(&rules, target), "{target}");
        }
    }

    #[test]
    fn a_denial_wins() {
        let rules = rules(
            &["*.example.com:443", "*.example.com:80"],
            &["telemetry.example.com", "*.internal.example.com:443"],
        );
        assert!(allowed(&rules, "api.example.com:443"));
        assert!(!allowed(&rules, "telemetry.example.com:443"));
        assert!(!allowed(&rules, "telemetry.example.com:80"));
        assert!(!allowed(&rules, "x.internal.example.com:443"));
        assert!(allowed(&rules, "x.internal.example.com:80"));
    }

    #[test]
    fn addresses_are_allowed_in_every_spelling_or_none() {
        let rules = rules(&["127.0.0.1:5432", "[fd00::1]:80"], &[]);
        for target in [
            "127.1:5432",
            "0x7f000001:5432",
            "[::ffff:7f00:1]:5432",
            "[fd00:0::1]:80",
        ] {
            assert!(allowed(&rules, target), "{target}");
        }
        assert!(!allowed(&rules, "localhost:5432"));
    }

    #[test]
    fn rules_that_mean_nothing_or_everything_say_so() {
        for text in [
            "example.com",
            "example.com:0",
            "exa mple.com:1",
            "::1:443",
            "*.1.2.3.4:1",
            "[::1]",
            "https://a.b:443",
            "a@b.c:443",
        ] {
            assert!(!Rule::allow(text).unwrap_err().too_wide, "{text}");
        }
        for text in ["*:443", "*.com:443"] {
            assert!(Rule::allow(text).unwrap_err().too_wide, "{text}");
        }
        assert!(Rule::deny("[::1]").is_ok());
        assert!(Rule::deny("::1").is_ok());
    }

    #[test]
    fn a_name_exists_when_one_of_its_ports_is_allowed() {
        let rules = rules(&["a.test:443", "*.b.test:80"], &["x.b.test"]);
        let known = |text| rules.knows(&Host::parse(text).unwrap());
        assert!(known("a.test") && known("y.b.test"));
        assert!(!known("x.b.test") && !known("b.test") && !known("c.test"));
    }
}
