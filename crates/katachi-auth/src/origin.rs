//! Whether a browser's request comes from our own page.
//!
//! A cookie travels with every request to its site, whoever's page made it. Browsers
//! say in `Sec-Fetch-Site` whose page that was; older ones at least send `Origin`.
//! Neither can be set by a page.

/// What a browser says about where a request comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Provenance<'a> {
    /// `Sec-Fetch-Site`.
    pub sec_fetch_site: Option<&'a str>,
    /// `Sec-Fetch-Mode`.
    pub sec_fetch_mode: Option<&'a str>,
    /// `Sec-Fetch-Dest`.
    pub sec_fetch_dest: Option<&'a str>,
    /// `Origin`.
    pub origin: Option<&'a str>,
}

/// The request comes from another site's page, or from nowhere: 403.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the request was not made by a page of this origin")]
pub struct ForeignOrigin;

/// Whether a request with a session cookie may be acted on.
///
/// `own` are the origins of our pages, such as `https://relay.example:8443`. Safe
/// methods (`GET`, `HEAD`) may also come from a link on another site, when a person
/// navigates there; so they must change nothing.
///
/// ```
/// use katachi_auth::origin::{Provenance, check};
///
/// let own = ["https://relay.example"];
/// let ours = Provenance { sec_fetch_site: Some("same-origin"), ..Provenance::default() };
/// let foreign = Provenance { origin: Some("https://evil.example"), ..Provenance::default() };
/// assert!(check("POST", &ours, &own).is_ok());
/// assert!(check("POST", &foreign, &own).is_err());
/// ```
///
/// # Errors
///
/// Returns [`ForeignOrigin`] if the browser names another site, or nothing is known
/// about an unsafe request.
pub fn check<O: AsRef<str>>(
    method: &str,
    from: &Provenance<'_>,
    own: &[O],
) -> Result<(), ForeignOrigin> {
    let safe = matches!(method, "GET" | "HEAD");
    match (from.sec_fetch_site, from.origin) {
        // A page of ours; or typed in and bookmarked.
        (Some("same-origin"), _) => Ok(()),
        (Some("none"), _) if safe => Ok(()),
        (Some("cross-site" | "same-site"), _) if safe && is_navigation(from) => Ok(()),
        (Some(_), _) => Err(ForeignOrigin),
        (None, Some(origin)) if own.iter().any(|own| own.as_ref() == origin) => Ok(()),
        (None, Some(_)) => Err(ForeignOrigin),
        (None, None) if safe => Ok(()),
        (None, None) => Err(ForeignOrigin),
    }
}

/// A link followed in a window of its own, not a frame or an embedded object.
fn is_navigation(from: &Provenance<'_>) -> bool {
    from.sec_fetch_mode == Some("navigate") && from.sec_fetch_dest == Some("document")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&str; 1] = ["https://relay.example"];

    fn verdict(method: &str, site: Option<&str>, origin: Option<&str>) -> bool {
        let from = Provenance {
            sec_fetch_site: site,
            origin,
            ..Provenance::default()
        };
        check(method, &from, &OWN).is_ok()
    }

    #[test]
    fn d13_l09_unsafe_requests_from_anywhere_else_are_refused() {
        assert!(verdict("POST", Some("same-origin"), None));
        for site in ["cross-site", "same-site", "none", "", "SAME-ORIGIN"] {
            assert!(!verdict("POST", Some(site), Some(OWN[0])), "{site}");
        }
        assert!(verdict("POST", None, Some(OWN[0])));
        for origin in [
            "null",
            "https://relay.example.evil",
            "http://relay.example",
            "",
        ] {
            assert!(!verdict("POST", None, Some(origin)), "{origin}");
        }
        assert!(!verdict("DELETE", None, None));
    }

    #[test]
    fn d13_l09_a_person_follows_a_link_and_a_frame_does_not() {
        let link = Provenance {
            sec_fetch_site: Some("cross-site"),
            sec_fetch_mode: Some("navigate"),
            sec_fetch_dest: Some("document"),
            origin: None,
        };
        assert!(check("GET", &link, &OWN).is_ok());
        assert!(check("POST", &link, &OWN).is_err());
        let frame = Provenance {
            sec_fetch_dest: Some("iframe"),
            ..link
        };
        assert!(check("GET", &frame, &OWN).is_err());
        assert!(!verdict("GET", Some("cross-site"), None));
    }
}
