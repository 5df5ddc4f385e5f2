//! What must not compile: secrets are not copied, printed, serialised or handed
//! out by accident. A type that gains one of these abilities stops this file
//! from compiling. (`src/secret.rs` has the same as examples that must fail.)

use katachi_crypto::mac::{HmacKey, HmacStream};
use katachi_crypto::{BlindIndex, Secret, SecretBytes, SecretString};

/// Fails to compile if the type has the ability: then both implementations fit,
/// and the call is ambiguous.
macro_rules! cannot {
    ($ability:path: $($secret:ty),+ $(,)?) => {
        const _: () = {
            trait Ambiguous<Marker> {
                fn here() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            #[allow(dead_code, reason = "it exists to be ambiguous")]
            struct Able;
            impl<T: ?Sized + $ability> Ambiguous<Able> for T {}
            $(const _: fn() = <$secret as Ambiguous<_>>::here;)+
        };
    };
}

macro_rules! keeps_to_itself {
    ($($secret:ty),+ $(,)?) => {
        cannot!(Clone: $($secret),+);
        cannot!(Copy: $($secret),+);
        cannot!(std::fmt::Display: $($secret),+);
        cannot!(std::fmt::LowerHex: $($secret),+);
        cannot!(serde::Serialize: $($secret),+);
        cannot!(std::ops::Deref: $($secret),+);
        cannot!(AsRef<[u8]>: $($secret),+);
        cannot!(AsRef<str>: $($secret),+);
        cannot!(std::borrow::Borrow<[u8]>: $($secret),+);
        cannot!(Into<Vec<u8>>: $($secret),+);
        cannot!(Into<String>: $($secret),+);
        cannot!(IntoIterator: $($secret),+);
        cannot!(std::hash::Hash: $($secret),+);
        cannot!(PartialOrd: $($secret),+);
    };
}

keeps_to_itself!(
    Secret<32>,
    SecretBytes,
    SecretString,
    HmacKey,
    HmacStream,
    BlindIndex
);
// A secret of zeros by default would be one that everybody knows.
cannot!(Default: Secret<32>, HmacKey);

#[cfg(any(feature = "ring", feature = "rustcrypto"))]
mod sealing {
    use katachi_crypto::LocalKeyEncryptor;
    use katachi_crypto::envelope::DataKey;
    use katachi_crypto::keyset::Keyset;

    keeps_to_itself!(DataKey, Keyset, LocalKeyEncryptor);
    cannot!(Default: DataKey);
    cannot!(PartialEq: DataKey);
}

/// That the check can fail: it tells a type that has an ability from one that
/// has not.
#[test]
fn an_ability_is_told_from_its_absence() {
    trait Told {
        const CLONES: bool = false;
    }
    impl<T> Told for T {}
    struct Probe<T>(std::marker::PhantomData<T>);
    impl<T: Clone> Probe<T> {
        const CLONES: bool = true;
    }
    let clones = [
        Probe::<String>::CLONES,
        Probe::<SecretString>::CLONES,
        Probe::<Secret<32>>::CLONES,
    ];
    assert_eq!(clones, [true, false, false]);
}
