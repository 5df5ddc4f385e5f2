//! Two contexts are encoded alike only if they were built alike.
#![no_main]

use katachi_crypto::envelope::Context;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug, Eq, PartialEq)]
enum Field {
    Tenant(String),
    Table(String),
    Column(String),
    Row(Vec<u8>),
    Version(u64),
    Path(String),
    Own(u8, Vec<u8>),
}

fuzz_target!(|lists: (Vec<Field>, Vec<Field>)| {
    let (one, two) = (build(&lists.0), build(&lists.1));
    assert_eq!(lists.0 == lists.1, one.as_bytes() == two.as_bytes());
});

fn build(fields: &[Field]) -> Context {
    fields
        .iter()
        .fold(Context::new("fuzz"), |context, field| match field {
            Field::Tenant(name) => context.tenant(name),
            Field::Table(name) => context.table(name),
            Field::Column(name) => context.column(name),
            Field::Row(key) => context.row(key),
            Field::Version(number) => context.version(*number),
            Field::Path(path) => context.path(path),
            Field::Own(tag, bytes) => context.bytes(*tag, bytes),
        })
}
