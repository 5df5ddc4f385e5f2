//! The hot-path parser against its dull twin, built on the `sfv` crate.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use katachi_auth::replay::Nonce;
use katachi_auth::signature::{KeyId, Profile, RequestInput};
use proptest::prelude::*;
use sfv::{BareItem, Dictionary, FieldType as _, ListEntry, Parser};
use support::{Sent, World};

const PROFILE: Profile = Profile::AGENT_REQUEST;
const FIXED: [&str; 6] = [
    "@method",
    "@authority",
    "@path",
    "@query",
    "content-digest",
    "katachi-epoch",
];
const OPTIONAL: [&str; 4] = [
    "content-type",
    "content-encoding",
    "idempotency-key",
    "authorization",
];

/// Says what the parser should say, by parsing everything and comparing afterwards.
fn twin(value: &str) -> Option<(u64, u64, Nonce, String)> {
    let fields: Dictionary = Parser::new(value).parse().ok()?;
    if fields.serialize()? != value || fields.len() != 1 {
        return None;
    }
    let Some(ListEntry::InnerList(list)) = fields.get("katachi") else {
        return None;
    };
    let mut names = Vec::new();
    for item in &list.items {
        if !item.params.is_empty() {
            return None;
        }
        names.push(item.bare_item.as_string()?.as_str());
    }
    let (fixed, optional) = names.split_at_checked(FIXED.len())?;
    if fixed != FIXED {
        return None;
    }
    let mut order = OPTIONAL.iter();
    if !optional.iter().all(|name| order.any(|next| next == name)) {
        return None;
    }
    let params: Vec<&str> = list.params.keys().map(|key| key.as_str()).collect();
    if params != ["created", "expires", "nonce", "keyid", "tag"] {
        return None;
    }
    let time = |name: &str| match list.params.get(name) {
        Some(BareItem::Integer(seconds)) => u64::try_from(i64::from(*seconds)).ok(),
        _ => None,
    };
    let text = |name: &str| Some(list.params.get(name)?.as_string()?.as_str());
    let key_id = KeyId::parse(text("keyid")?).ok()?;
    if text("tag")? != "katachi-agent/1" {
        return None;
    }
    let nonce = Nonce::parse(text("nonce")?).ok()?;
    Some((
        time("created")?,
        time("expires")?,
        nonce,
        key_id.to_string(),
    ))
}

fn both_agree(value: &str) -> Result<bool, TestCaseError> {
    let ours = RequestInput::parse(&PROFILE, value.as_bytes()).ok();
    let theirs = if value.len() <= 2048 {
        twin(value)
    } else {
        None
    };
    let said = ours.map(|input| {
        (
            input.created(),
            input.expires(),
            *input.nonce(),
            input.key_id().into(),
        )
    });
    prop_assert_eq!(&said, &theirs, "for {}", value);
    if let Some(input) = ours {
        let written = input.serialise(&PROFILE);
        prop_assert_eq!(std::str::from_utf8(&written).unwrap(), value);
    }
    Ok(ours.is_some())
}

fn good() -> String {
    let world = World::agent();
    let mut sent = Sent::post("/", b"");
    sent.set("authorization", "Bearer x");
    world.sign(sent).header("signature-input")
}

#[test]
fn what_the_signer_writes_both_read() {
    assert!(both_agree(&good()).unwrap());
}

/// One small wound to a valid value.
#[derive(Clone, Debug)]
enum Wound {
    Replace(usize, char),
    Insert(usize, char),
    Remove(usize, usize),
    Repeat(usize, usize),
    Swap(&'static str, &'static str),
}

fn wound() -> impl Strategy<Value = Wound> {
    let letter = prop::sample::select(
        "\"\\;=() ,:?-+.0189azAZ@*_/\t\n%é"
            .chars()
            .collect::<Vec<_>>(),
    );
    let swap = prop::sample::select(vec![
        ("created", "expires"),
        ("nonce", "keyid"),
        ("\"@path\"", "\"@query\""),
        (" \"content-type\"", ""),
        (
            " \"content-type\"",
            " \"content-type\" \"content-encoding\"",
        ),
        (
            " \"authorization\"",
            " \"authorization\" \"content-encoding\"",
        ),
        (";tag", ";alg=\"hmac-sha256\";tag"),
        ("katachi-agent/1", "katachi-agent/2"),
        ("=18", "=018"),
        ("=18", "=-18"),
        ("=18", "=0;x=18"),
    ]);
    prop_oneof![
        (0_usize..400, letter.clone()).prop_map(|(at, to)| Wound::Replace(at, to)),
        (0_usize..400, letter).prop_map(|(at, what)| Wound::Insert(at, what)),
        (0_usize..400, 1_usize..40).prop_map(|(at, length)| Wound::Remove(at, length)),
        (0_usize..400, 1_usize..60).prop_map(|(at, length)| Wound::Repeat(at, length)),
        swap.prop_map(|(from, to)| Wound::Swap(from, to)),
    ]
}

fn apply(text: &str, wound: &Wound) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    let at = |at: &usize, letters: &[char]| at % (letters.len() + 1);
    match wound {
        Wound::Replace(place, to) => {
            let place = at(place, &letters);
            if let Some(letter) = letters.get_mut(place) {
                *letter = *to;
            }
        }
        Wound::Insert(place, what) => letters.insert(at(place, &letters), *what),
        Wound::Remove(place, length) => {
            let from = at(place, &letters);
            let to = (from + length).min(letters.len());
            letters.drain(from..to);
        }
        Wound::Repeat(place, length) => {
            let from = at(place, &letters);
            let to = (from + length).min(letters.len());
            let piece = letters[from..to].to_vec();
            letters.splice(to..to, piece);
        }
        Wound::Swap(from, to) => return text.replacen(from, to, 1),
    }
    letters.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_parser_agrees_with_its_twin_on_wounded_values(
        wounds in proptest::collection::vec(wound(), 0..4)
    ) {
        let wounded = wounds.iter().fold(good(), |text, wound| apply(&text, wound));
        both_agree(&wounded)?;
    }

    #[test]
    fn the_parser_agrees_with_its_twin_on_other_texts(
        text in "katachi=\\((\"@?[a-z-]{1,8}\" ?){0,3}\\)(;[a-z]{1,7}(=[\"a-z0-9?:]{0,6})?){0,5}|\\PC{0,80}"
    ) {
        both_agree(&text)?;
    }

    #[test]
    fn every_valid_value_is_accepted_by_both(
        mask in 0_u8..16, created in 0_u64..999_999_999_999_999, life in 0_u64..100,
        bytes: [u8; 16], key_id in "[!#-\\[\\]-~]{1,64}"
    ) {
        let list: Vec<String> = FIXED
            .into_iter()
            .chain((0..4).filter(|bit| mask & (1 << bit) != 0).map(|bit| OPTIONAL[bit]))
            .map(|name| format!("\"{name}\""))
            .collect();
        let expires = (created + life).min(999_999_999_999_999);
        let value = format!(
            "katachi=({});created={created};expires={expires};nonce=\"{}\";keyid=\"{key_id}\";tag=\"katachi-agent/1\"",
            list.join(" "), Nonce::Random(bytes)
        );
        prop_assert!(both_agree(&value)?);
    }
}
