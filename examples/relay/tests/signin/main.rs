//! Sign-in at providers and links in mail, at the wire and in a real browser: against
//! npm `oidc-provider`, a stand-in for GitHub, a mail folder and an SMTP server, with the
//! records in the embedded database and in a real PostgreSQL.
//!
//! Needs node with the packages in `NODE_PATH` or `.tools`, and for some cases
//! PostgreSQL, PyPI `aiosmtpd` or Chromium; what cannot run is listed as ignored, and
//! fails under `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(dead_code, reason = "the helpers are shared with other tests")]

#[path = "../service/agent.rs"]
mod agent;
mod browser;
#[path = "../console/chromium.rs"]
mod chromium;
#[path = "../service/embedded.rs"]
mod embedded;
mod github;
mod linking;
mod mail;
mod octo;
mod openid;
mod peer;
mod person;
#[cfg(target_os = "linux")]
#[path = "../../../../crates/katachi-store/tests/support/postgres.rs"]
mod postgres;
#[path = "../service/relay.rs"]
mod relay;
#[cfg(target_os = "linux")]
#[path = "../service_postgres/server.rs"]
mod server;
mod smtp;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use katachi_relay::DatabaseSource;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

use peer::{Peer, Place};

type Outcome = Result<(), Failed>;

/// Where a relay of this place keeps its records.
fn database_of(place: &Place, state: &Path) -> DatabaseSource {
    #[cfg(target_os = "linux")]
    if place.postgres {
        return server::database(state);
    }
    assert!(
        !place.postgres,
        "the tests start a PostgreSQL on Linux alone"
    );
    database(state)
}

fn database(_state: &Path) -> DatabaseSource {
    DatabaseSource::Embedded
}

/// Every table of a relay of this place, each with its rows as JSON.
fn tables(place: &Place, state: &Path) -> Vec<(String, Vec<Value>)> {
    #[cfg(target_os = "linux")]
    if place.postgres {
        return server::tables(state);
    }
    let _ = place;
    embedded::tables(state)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let peer = (!arguments.list).then(Peer::start).flatten().map(Arc::new);
    let missing = |needs: &[&'static str]| {
        let here = |what: &str| match what {
            "npm oidc-provider" => peer.is_some(),
            "Chromium" => chromium::missing().is_none(),
            #[cfg(target_os = "linux")]
            "PostgreSQL" => postgres::binaries().is_some(),
            _ => smtp::installed(),
        };
        let absent = needs.iter().find(|what| !arguments.list && !here(what));
        absent.copied()
    };
    let mut trials = Vec::new();
    macro_rules! tests {
        ($postgres:literal, $place:literal, $needs:expr; $($module:ident::$name:ident),* $(,)?) => {$({
            let name = concat!($place, "::", stringify!($module), "::", stringify!($name));
            let missing = missing($needs);
            let peer = peer.clone();
            let run = move || match (missing, peer) {
                (None, Some(peer)) => runtime().block_on($module::$name(Place {
                    peer,
                    postgres: $postgres,
                })),
                (what, _) => Err(format!("needs {}", what.unwrap_or("a peer")).into()),
            };
            trials.push(match missing {
                Some(what) if !required => {
                    Trial::test(format!("{name} (needs {what})"), run).with_ignored_flag(true)
                }
                _ => Trial::test(name, run),
            });
        })*};
    }
    macro_rules! on_both {
        ($($module:ident::$name:ident),* $(,)?) => {
            tests!(false, "embedded", &["npm oidc-provider"]; $($module::$name),*);
            #[cfg(target_os = "linux")]
            tests!(true, "postgres", &["npm oidc-provider", "PostgreSQL"]; $($module::$name),*);
        };
    }
    on_both!(
        openid::a_person_comes_in_and_is_known_again,
        openid::l01_a_state_is_good_once_in_its_own_browser,
        openid::l01_of_two_answers_at_once_one_comes_in,
        openid::l02_l03_a_code_is_worth_nothing_in_another_sign_in,
        openid::d17_no_table_holds_what_a_sign_in_under_way_is_opened_by,
        linking::l06_an_equal_address_links_nothing,
        linking::l06_only_who_is_signed_in_links,
        linking::the_last_way_in_cannot_be_unlinked,
        openid::a_closed_relay_lets_in_whom_it_knows,
        openid::beginning_is_throttled_across_restarts,
        github::a_person_of_github_is_known_by_number,
        github::l06_an_unverified_address_at_github_opens_nothing,
        mail::a_new_account_opens_by_its_link_and_its_password,
        mail::an_address_is_verified_by_who_opened_the_account,
        mail::a_forgotten_password_is_reset_once_and_ends_every_session,
        mail::asking_tells_nobody_who_has_an_account,
        mail::guessing_a_token_is_throttled,
        mail::who_opened_an_account_in_anothers_name_keeps_no_way_in,
        mail::an_account_of_a_provider_can_be_given_a_password,
    );
    tests!(false, "embedded", &["npm oidc-provider"];
        openid::l05_an_id_token_that_is_wrong_in_one_way_opens_nothing,
        openid::l09_another_site_can_begin_nothing,
        openid::l16_nobody_is_sent_elsewhere_afterwards,
        openid::l17_the_pages_of_a_sign_in_carry_every_header,
        openid::an_answer_of_another_provider_is_refused,
        openid::a_refusal_is_said_in_plain_words,
        openid::a_provider_that_is_down_keeps_nobody_else_out,
        openid::a_provider_that_breaks_off_is_not_waited_for,
        github::l02_a_code_of_github_is_bound_to_its_sign_in,
        mail::without_mail_nothing_is_promised,
    );
    #[cfg(target_os = "linux")]
    tests!(true, "postgres", &["npm oidc-provider", "PostgreSQL"];
        mail::postgres_holds_digests_and_sealed_columns,
    );
    tests!(false, "embedded", &["npm oidc-provider", "PyPI aiosmtpd"];
        mail::mail_goes_through_a_server_over_tls,
    );
    tests!(false, "embedded", &["npm oidc-provider", "Chromium"];
        browser::a_person_comes_in_every_way_there_is,
    );
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}
