//! Published vectors that reach below the public interface.
//!
//! Project Wycheproof for AES-GCM, HMAC, HKDF and C2SP chunked encryption, and
//! the examples of RFC 4231, RFC 5869 and (with the feature) RFC 9106.

use wycheproof::TestResult;

use crate::kdf::extract_and_expand;
use crate::mac::HmacKey;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("digits are ASCII");
            u8::from_str_radix(pair, 16).expect("they are digits")
        })
        .collect()
}

#[test]
fn hmac_agrees_with_wycheproof() {
    let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::HmacSha256).unwrap();
    let mut checked = 0;
    for group in set.test_groups {
        for test in group.tests {
            let key = HmacKey::from_slice(&test.key);
            let agrees = key.verify(&test.msg, &test.tag).is_ok();
            // Shortened tags are refused whatever their content.
            let expected = group.tag_size == 256 && test.result == TestResult::Valid;
            assert_eq!(agrees, expected, "case {}: {}", test.tc_id, test.comment);
            if test.result == TestResult::Valid {
                let made = key.sign(&test.msg);
                assert_eq!(made.as_bytes()[..test.tag.len()], test.tag[..]);
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 174);
}

#[test]
fn hmac_agrees_with_rfc_4231() {
    let cases: [(Vec<u8>, Vec<u8>, &str); 6] = [
        (
            vec![0x0b; 20],
            b"Hi There".to_vec(),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?".to_vec(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            vec![0xaa; 20],
            vec![0xdd; 50],
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        ),
        (
            (1..=25).collect(),
            vec![0xcd; 50],
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        ),
        (
            vec![0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            vec![0xaa; 131],
            b"This is a test using a larger than block-size key and a larger than \
              block-size data. The key needs to be hashed before being used by the HMAC algorithm."
                .to_vec(),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ];
    for (key, message, tag) in cases {
        let key = HmacKey::from_slice(&key);
        key.verify(&message, &hex(tag)).unwrap();
        // The same in pieces.
        let mut stream = key.start();
        message.chunks(7).for_each(|piece| {
            stream.update(piece);
        });
        assert_eq!(stream.finish().as_bytes()[..], hex(tag));
    }
}

#[test]
fn hkdf_agrees_with_wycheproof() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let mut checked = 0;
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let mut okm = vec![0; test.size];
        let outcome = extract_and_expand(&test.ikm, &test.salt, &test.info, &mut okm);
        assert_eq!(
            outcome.is_ok(),
            test.result == TestResult::Valid,
            "case {}: {}",
            test.tc_id,
            test.comment
        );
        if outcome.is_ok() {
            assert_eq!(okm, test.okm[..], "case {}", test.tc_id);
        }
        checked += 1;
    }
    assert_eq!(checked, 86);
}

#[test]
fn hkdf_agrees_with_rfc_5869() {
    let cases = [
        (
            vec![0x0b; 22],
            (0..=0x0c).collect::<Vec<u8>>(),
            (0xf0..=0xf9).collect::<Vec<u8>>(),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            (0x00..=0x4f).collect(),
            (0x60..=0xaf).collect(),
            (0xb0..=0xff).collect(),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            vec![],
            vec![],
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    for (ikm, salt, info, okm) in cases {
        let expected = hex(okm);
        let mut made = vec![0; expected.len()];
        extract_and_expand(&ikm, &salt, &info, &mut made).unwrap();
        assert_eq!(made, expected);
    }
}

#[cfg(feature = "password")]
#[test]
fn argon2id_agrees_with_rfc_9106() {
    // Section 5.3 uses a secret and associated data, and costs below our floor;
    // so this is the library that `stretch` calls, as it calls it.
    let params = argon2::ParamsBuilder::new()
        .m_cost(32)
        .t_cost(3)
        .p_cost(4)
        .data(argon2::AssociatedData::new(&[4; 12]).unwrap())
        .build()
        .unwrap();
    let argon = argon2::Argon2::new_with_secret(
        &[3; 8],
        argon2::Algorithm::Argon2id,
        argon2::Version::V0x13,
        params,
    )
    .unwrap();
    let mut tag = [0; 32];
    argon
        .hash_password_into(&[1; 32], &[2; 16], &mut tag)
        .unwrap();
    assert_eq!(
        tag[..],
        hex("0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659")
    );
}

/// What reaches into the sealing code, for whichever backends are there.
#[cfg(any(feature = "ring", feature = "rustcrypto"))]
mod sealing {
    use std::io::{self, Cursor, Read, Seek, SeekFrom};

    use wycheproof::TestResult;
    use wycheproof::chunked_encryption::{Test, TestFlag, TestName, TestSet};

    use crate::Error;
    use crate::backend::{Aead, Default as Backend};
    use crate::envelope::{COMMITMENT, Expander, Message, SALT};
    use crate::stream::{OpenAt, OpenReader};

    fn aes_gcm_agrees_with_wycheproof<A: Aead>() {
        let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
        let mut checked = 0;
        for group in set.test_groups {
            if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
                continue;
            }
            // An envelope has no associated data: its context goes into the key.
            for test in group.tests.into_iter().filter(|test| test.aad.is_empty()) {
                let cipher = A::new(test.key[..].try_into().unwrap());
                let nonce = test.nonce[..].try_into().unwrap();
                let tag = test.tag[..].try_into().unwrap();
                let mut text = test.ct.to_vec();
                let opened = cipher.open(nonce, &mut text, 0, tag);
                let valid = test.result == TestResult::Valid;
                assert_eq!(opened.is_ok(), valid, "case {}", test.tc_id);
                if valid {
                    assert_eq!(text, test.pt[..], "case {}", test.tc_id);
                    assert_eq!(cipher.seal(nonce, &mut text), *tag);
                    assert_eq!(text, test.ct[..], "case {}", test.tc_id);
                }
                checked += 1;
            }
        }
        assert_eq!(checked, 48);
    }

    #[cfg(feature = "ring")]
    #[test]
    fn aes_gcm_of_ring_agrees_with_wycheproof() {
        aes_gcm_agrees_with_wycheproof::<crate::backend::ring::Cipher>();
    }

    #[cfg(feature = "rustcrypto")]
    #[test]
    fn aes_gcm_of_rustcrypto_agrees_with_wycheproof() {
        aes_gcm_agrees_with_wycheproof::<crate::backend::rustcrypto::Cipher>();
    }

    /// The message's keys, once its commitment was found right, and its chunks.
    fn begin<'a>(test: &Test, sealed: &'a [u8]) -> Result<(Message<Backend>, &'a [u8]), Error> {
        let key = test.key[..].try_into().map_err(|_| Error::KeyMismatch)?;
        let (salt, rest) = sealed.split_first_chunk::<SALT>().ok_or(Error::Truncated)?;
        let (commitment, chunks) = rest
            .split_first_chunk::<COMMITMENT>()
            .ok_or(Error::Truncated)?;
        let message = Message::derive(&Expander::new(key), salt, [&test.ctx, &[], &[]]);
        message.check(commitment)?;
        Ok((message, chunks))
    }

    /// Reads to the end or to the first error; gives what was released.
    fn read_all(mut reader: impl Read) -> (Vec<u8>, io::Result<()>) {
        let mut released = Vec::new();
        let mut buffer = [0; 5_000];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return (released, Ok(())),
                Ok(count) => released.extend_from_slice(&buffer[..count]),
                Err(error) => {
                    assert!(reader.read(&mut buffer).is_err(), "a failure lasts");
                    return (released, Err(error));
                }
            }
        }
    }

    #[test]
    fn chunked_encryption_agrees_with_wycheproof() {
        let set = TestSet::load(TestName::Cobblestone256).unwrap();
        let tests: Vec<Test> = set
            .test_groups
            .into_iter()
            .flat_map(|group| group.tests)
            .collect();
        assert_eq!(tests.len(), 35);
        for test in &tests {
            let case = format!("case {}: {}", test.tc_id, test.comment);
            let has = |flag| test.flags.contains(&flag);
            let sealed = miniz_oxide::inflate::decompress_to_vec_zlib(&test.ct).unwrap();
            let Ok((message, chunks)) = begin(test, &sealed) else {
                assert!(has(TestFlag::HeaderFailure), "{case}");
                continue;
            };
            assert!(!has(TestFlag::HeaderFailure), "{case}");
            let valid = test.result == TestResult::Valid;

            // Read in order: exactly the longest valid prefix is released.
            let (released, end) = read_all(OpenReader::of_message(chunks, message));
            assert_eq!(end.is_ok(), valid, "{case}");
            assert_eq!(released.len(), test.msg_length.unwrap_or(0), "{case}");
            if let Some(digest) = &test.msg_sha512 {
                use sha2::Digest;
                assert_eq!(sha2::Sha512::digest(&released)[..], digest[..], "{case}");
            }

            // The same with threads.
            let message = begin(test, &sealed).unwrap().0;
            let threads = std::num::NonZeroUsize::new(2).unwrap();
            let reader = OpenReader::of_message(chunks, message).on(threads).unwrap();
            let (on_threads, end) = read_all(reader);
            assert_eq!(
                (on_threads, end.is_ok()),
                (released.clone(), valid),
                "{case}"
            );

            // Opened at once, into a buffer and in place: all or nothing.
            let message = begin(test, &sealed).unwrap().0;
            let mut plain = crate::SecretBytes::default();
            assert_eq!(
                message.open_over(chunks, &mut plain).is_ok(),
                valid,
                "{case}"
            );
            let mut buffer = sealed.clone();
            let opened = message.open_within(&mut buffer, SALT + COMMITMENT);
            assert_eq!(opened.is_ok(), valid, "{case}");
            if valid {
                assert_eq!(plain.expose_secret(), released, "{case}");
                assert_eq!(buffer[..released.len()], released, "{case}");
                // Sealed again under the same salt it is the same message.
                let mut again = Vec::new();
                message.seal_onto(&released, &mut again);
                assert_eq!(again, chunks, "{case}");
            }

            // Opened from the end: its length is authentic or it does not open.
            let at = OpenAt::of_message(Cursor::new(chunks), message, 0);
            assert_eq!(
                at.is_ok(),
                valid || has(TestFlag::ValidFinalChunk),
                "{case}"
            );
            if let Ok(mut at) = at {
                let all = at.read_to_end(&mut Vec::new());
                assert_eq!(all.is_ok(), valid, "{case}");
                at.seek(SeekFrom::End(0)).unwrap();
                assert_eq!(at.read(&mut [0; 8]).unwrap(), 0, "{case}");
            }
        }
    }
}
