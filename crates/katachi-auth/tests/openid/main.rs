//! Sign-in against a real OpenID provider, npm `oidc-provider`, on loopback: with a
//! redirect to a server, with one to 127.0.0.1, and by device flow.
//!
//! Needs node and the packages in `NODE_PATH` or `.tools`; without them the tests are
//! listed as ignored, and fail under `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod device;
mod loopback;
mod provider;
mod sign_in;
mod tampering;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use provider::Peer;

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
    let peer = (!arguments.list).then(Peer::start).flatten().map(Arc::new);

    let mut trials = Vec::new();
    macro_rules! tests {
        ($($module:ident::$name:ident),* $(,)?) => {$({
            let name = concat!(stringify!($module), "::", stringify!($name));
            let (runtime, here) = (Arc::clone(&runtime), peer.clone());
            let run = move || match &here {
                Some(peer) => runtime.block_on($module::$name(peer)),
                None => Err("needs node and npm oidc-provider".into()),
            };
            let absent = peer.is_none() && !required && !arguments.list;
            trials.push(if absent {
                Trial::test(format!("{name} (needs npm oidc-provider)"), run).with_ignored_flag(true)
            } else {
                Trial::test(name, run)
            });
        })*};
    }
    tests!(
        sign_in::a_person_signs_in_and_is_known_by_issuer_and_subject,
        sign_in::the_store_holds_digests_alone,
        sign_in::l01_a_wrong_used_foreign_or_old_state_is_refused,
        sign_in::l02_a_code_is_good_once_and_only_for_its_own_sign_in,
        sign_in::a_code_that_is_too_old_is_refused,
        sign_in::l03_nothing_works_without_the_pkce_verifier_or_with_plain,
        sign_in::an_answer_of_another_provider_is_refused,
        sign_in::an_answer_without_the_promised_issuer_is_refused,
        sign_in::of_two_answers_at_once_one_signs_in,
        sign_in::a_person_who_refuses_is_not_signed_in,
        sign_in::another_name_of_the_same_provider_is_refused,
        tampering::l05_a_token_that_is_wrong_in_one_way_is_refused,
        tampering::l05_a_token_altered_in_any_part_is_refused,
        tampering::a_new_key_is_fetched_once_and_an_unknown_one_refused,
        tampering::the_keys_are_remembered_for_an_hour,
        tampering::an_answer_that_is_too_large_or_late_is_refused,
        tampering::l06_userinfo_about_somebody_else_or_unverified_is_not_believed,
        loopback::a_program_signs_a_person_in_through_127_0_0_1,
        loopback::l11_strangers_and_foreign_host_names_cannot_end_the_wait,
        loopback::the_wait_ends_by_itself,
        device::our_client_gets_tokens_from_their_server,
        device::our_client_proves_its_key_to_their_server,
        device::our_client_stops_when_the_person_says_no,
    );
    libtest_mimic::run(&arguments, trials).exit_code()
}
