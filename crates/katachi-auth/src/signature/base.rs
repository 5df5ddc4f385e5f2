//! The signature base (RFC 9421 section 2.5), written piece by piece.
//!
//! For HMAC the pieces go straight into the MAC, so no base is ever assembled.

use katachi_crypto::mac::HmacStream;

use super::message::{Field, Request, field, is_plain};
use super::refusal::Reason;
use super::{Profile, RequestBinding};

/// Where the base goes.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for HmacStream {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

/// Longest path with query, and longest value of a header, in bytes.
pub(crate) const MAX_VALUE: usize = 8192;

/// The values that a request's signature covers.
#[derive(Debug)]
pub(crate) struct Covered<'a> {
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) digest: &'a [u8],
    pub(crate) epoch: &'a [u8],
    pub(crate) channel: &'a [u8],
    required: [&'a [u8]; Profile::MAX_HEADERS],
    optional: [&'a [u8]; Profile::MAX_HEADERS],
    /// Which optional headers are present, lowest bit first.
    pub(crate) present: u8,
}

impl<'a> Covered<'a> {
    /// Takes from `request` all but the values that the signer adds.
    pub(crate) fn collect<R: Request + ?Sized>(
        profile: &Profile,
        request: &'a R,
    ) -> Result<Self, Reason> {
        let authority = request.authority().ok_or(Reason::Authority)?;
        let method = request.method();
        let path = request.path();
        let query = request.query();
        if path.len() + query.map_or(0, str::len) > MAX_VALUE {
            return Err(Reason::Oversized("@path"));
        }
        // An empty query would sign like none at all: `/x?` and `/x` must not be mixed up.
        let target_is_plain = is_graphic(path)
            && path.starts_with('/')
            && !path.contains(['?', '#'])
            && query.is_none_or(|query| !query.is_empty() && is_graphic(query));
        if !target_is_plain {
            return Err(Reason::Malformed("@path"));
        }
        if !is_graphic(method) || method.is_empty() || method.len() > 32 {
            return Err(Reason::Malformed("@method"));
        }
        let mut covered = Self {
            method,
            authority,
            path,
            query: query.unwrap_or_default(),
            digest: b"",
            epoch: b"",
            channel: b"",
            required: [b""; Profile::MAX_HEADERS],
            optional: [b""; Profile::MAX_HEADERS],
            present: 0,
        };
        for (slot, name) in covered.required.iter_mut().zip(profile.required) {
            *slot = one(request, name)?;
        }
        for (bit, name) in profile.optional.iter().enumerate() {
            if let Some(value) = one_or_none(request, name)? {
                covered.optional[bit] = value;
                covered.present |= 1 << bit;
            }
        }
        Ok(covered)
    }

    pub(crate) fn write(&self, profile: &Profile, params: &[u8], out: &mut impl Sink) {
        out.put(b"\"@method\": ");
        out.put(self.method.as_bytes());
        out.put(b"\n\"@authority\": ");
        out.put(self.authority.as_bytes());
        out.put(b"\n\"@path\": ");
        out.put(self.path.as_bytes());
        out.put(b"\n\"@query\": ?");
        out.put(self.query.as_bytes());
        out.put(b"\n\"content-digest\": ");
        out.put(self.digest);
        line(out, profile.epoch_header, self.epoch);
        if let Some(name) = profile.channel_header {
            line(out, name, self.channel);
        }
        for (name, value) in profile.required.iter().zip(self.required) {
            line(out, name, value);
        }
        for (bit, name) in profile.optional.iter().enumerate() {
            if self.present & (1 << bit) != 0 {
                line(out, name, self.optional[bit]);
            }
        }
        out.put(b"\n\"@signature-params\": ");
        out.put(params);
    }
}

fn line(out: &mut impl Sink, name: &str, value: &[u8]) {
    out.put(b"\n\"");
    out.put(name.as_bytes());
    out.put(b"\": ");
    out.put(value);
}

/// Writes the base of a response to `binding`.
pub(crate) fn write_response(
    profile: &Profile,
    status: u16,
    digest: &[u8],
    binding: &RequestBinding,
    params: &[u8],
    out: &mut impl Sink,
) {
    out.put(b"\"@status\": ");
    out.put(status.to_string().as_bytes());
    out.put(b"\n\"content-digest\": ");
    out.put(digest);
    out.put(b"\n\"@method\";req: ");
    out.put(binding.method.as_bytes());
    out.put(b"\n\"@path\";req: ");
    out.put(binding.path.as_bytes());
    out.put(b"\n\"@query\";req: ?");
    out.put(binding.query.as_bytes());
    out.put(b"\n\"signature\";req;key=\"");
    out.put(profile.label.as_bytes());
    out.put(b"\": ");
    out.put(binding.signature.as_bytes());
    out.put(b"\n\"@signature-params\": ");
    out.put(params);
}

fn is_graphic(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The value of a header that must be there, once and plain.
pub(crate) fn one<'a, R: Request + ?Sized>(
    request: &'a R,
    name: &'static str,
) -> Result<&'a [u8], Reason> {
    one_or_none(request, name)?.ok_or(Reason::Absent(name))
}

fn one_or_none<'a, R: Request + ?Sized>(
    request: &'a R,
    name: &'static str,
) -> Result<Option<&'a [u8]>, Reason> {
    once(field(|visit| request.each_header(name, visit)), name)
}

pub(crate) fn once<'a>(field: Field<'a>, name: &'static str) -> Result<Option<&'a [u8]>, Reason> {
    match field {
        Field::Absent => Ok(None),
        Field::Repeated => Err(Reason::Repeated(name)),
        Field::Once(value) if value.len() > MAX_VALUE => Err(Reason::Oversized(name)),
        Field::Once(value) if !is_plain(value) => Err(Reason::Malformed(name)),
        Field::Once(value) => Ok(Some(value)),
    }
}
