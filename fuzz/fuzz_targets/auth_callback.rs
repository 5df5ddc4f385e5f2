//! A redirect that is believed to be a provider's: it names one state, one outcome and
//! at most one issuer, and the same ones as any other reader of forms would find.
#![no_main]

use katachi_auth::oauth::Callback;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let Ok(callback) = Callback::parse(query) else {
        return;
    };
    // What another reader finds, whichever of several it would take.
    let all = |name: &str| -> Vec<String> {
        form_urlencoded::parse(query.as_bytes())
            .filter(|(found, value)| found == name && !value.is_empty())
            .map(|(_, value)| value.into_owned())
            .collect()
    };
    assert_eq!(all("state"), [callback.state()]);
    let code = callback.code().map(|code| code.expose_secret());
    assert_eq!(all("code"), Vec::from_iter(code));
    assert_eq!(all("error"), Vec::from_iter(callback.error()));
    assert_eq!(all("iss"), Vec::from_iter(callback.issuer()));
    assert_ne!(code.is_some(), callback.error().is_some());
    for text in [code, callback.error()].into_iter().flatten() {
        assert!(text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
    }
});
