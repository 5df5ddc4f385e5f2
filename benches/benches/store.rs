//! Opening a vault and a database, beside opening a bare SQLCipher file with a
//! raw key; and what the encrypted database costs against plain SQLite.

use criterion::{Criterion, criterion_group, criterion_main};

mod open {
    use std::hint::black_box;
    use std::path::Path;

    use criterion::Criterion;
    use katachi_fingerprint::Probe as _;
    use katachi_fingerprint::testing::Machine;
    use katachi_store::Vault;
    use katachi_store::binding::FingerprintBinding;
    use katachi_store::testing::MemoryKeychain;
    use katachi_store::vault::{Builder, SlotKind};

    /// The keychain answers from memory and the machine is looked at once, so
    /// that the vault's own work is measured.
    fn vault(home: &Path, keychain: &MemoryKeychain) -> Builder {
        let root = home.join("machine");
        if !root.exists() {
            Machine::laptop().write_to(&root).expect("a fake machine");
        }
        let seen = katachi_fingerprint::SystemProbe::with_root(&root).observe();
        Vault::builder(home.join("vault"))
            .binding(FingerprintBinding::with_probe(seen))
            .keychain(keychain.clone())
    }

    pub(super) fn bench(criterion: &mut Criterion) {
        let home = tempfile::tempdir().expect("a directory");
        let keychain = MemoryKeychain::new();
        let created = vault(home.path(), &keychain).create().expect("a vault");
        created.data_key("database").expect("a key");
        created.add_recovery_code().expect("a slot");
        drop(created);
        let opened = vault(home.path(), &keychain).open().expect("a vault");
        assert_eq!(opened.report().slot.kind, SlotKind::Keychain);

        let mut group = criterion.benchmark_group("open");
        group.bench_function("vault", |bencher| {
            bencher.iter_batched(
                || vault(home.path(), &keychain),
                |builder| black_box(builder.open().expect("a vault")),
                criterion::BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

fn benches(criterion: &mut Criterion) {
    open::bench(criterion);
}

criterion_group!(store, benches);
criterion_main!(store);
