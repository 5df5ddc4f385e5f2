//! What a peer can send without end in HTTP/2 (RFC 9113), after a good beginning.

/// A flood, a piece at a time.
pub(crate) type Flood = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// Begins one.
type Begin = fn() -> Flood;

pub(crate) const FLOODS: [(&str, Begin); 12] = [
    ("SETTINGS", || again(frame(0x4, 0, 0, &[]))),
    ("PING", || again(frame(0x6, 0, 0, &[7; 8]))),
    ("streams that are reset at once", resets),
    ("more streams than allowed", requests),
    ("CONTINUATION without end", continuations),
    ("a header list without end", headers),
    ("a window that overflows", || {
        again(frame(0x8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]))
    }),
    ("data of no stream", || {
        again(frame(0x0, 0, 1, &[0; 16_000]))
    }),
    ("a body that nobody asked for", bodies),
    ("a frame of 16 MiB", || {
        let head = [0xff, 0xff, 0xff, 0x0, 0, 0, 0, 0, 1];
        begun(std::iter::once(head.to_vec()).chain(std::iter::repeat(vec![0; 65_536])))
    }),
    ("frames of no kind", || {
        again(frame(0xee, 0xff, 0, &[0; 16_000]))
    }),
    ("no HTTP/2", || {
        Box::new(std::iter::repeat(vec![0x16; 65_536]))
    }),
];

/// `pieces` after the preface and empty settings (section 3.4).
fn begun(pieces: impl Iterator<Item = Vec<u8>> + Send + 'static) -> Flood {
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend(frame(0x4, 0, 0, &[]));
    Box::new(std::iter::once(preface).chain(pieces))
}

fn again(frame: Vec<u8>) -> Flood {
    let many = 65_536 / frame.len() + 1;
    begun(std::iter::repeat(frame.repeat(many)))
}

fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, content].concat()
}

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// `GET https:/v1/status` of no authority, in the static table of HPACK (RFC 7541).
fn get() -> Vec<u8> {
    let path = b"/v1/status";
    [&[0x82, 0x87, 0x04, path.len() as u8], &path[..]].concat()
}

/// Streams of the peer: 1, 3, 5 and so on.
fn streams() -> impl Iterator<Item = u32> + Send {
    (1..).step_by(2)
}

fn resets() -> Flood {
    begun(streams().map(|stream| {
        let open = frame(0x1, END_HEADERS, stream, &get());
        [open, frame(0x3, 0, stream, &[0, 0, 0, 8])].concat()
    }))
}

fn requests() -> Flood {
    begun(streams().map(|stream| {
        // Without an end, so that each stays open.
        let post = [&[0x83_u8, 0x87, 0x04, 11], &b"/v1/channel"[..]].concat();
        frame(0x1, END_HEADERS, stream, &post)
    }))
}

/// A literal header of 4 KiB that is not put into the table.
fn header() -> Vec<u8> {
    let value = [b'x'; 4096];
    // The length of the value in seven bits, and the rest (RFC 7541 section 5.1).
    let rest = value.len() - 127;
    let length = [0x7f, (rest & 0x7f) as u8 | 0x80, (rest >> 7) as u8];
    [&[0x00, 1, b'x'], &length[..], &value].concat()
}

fn continuations() -> Flood {
    let open = frame(0x1, END_STREAM, 1, &get());
    let more = frame(0x9, 0, 1, &header()).repeat(8);
    begun(std::iter::once(open).chain(std::iter::repeat(more)))
}

fn headers() -> Flood {
    begun(streams().map(|stream| {
        let list = [get(), header(), header(), header()].concat();
        let more = [header(), header(), header()].concat();
        let open = frame(0x1, END_STREAM, stream, &list);
        [open, frame(0x9, END_HEADERS, stream, &more)].concat()
    }))
}

fn bodies() -> Flood {
    let post = [&[0x83_u8, 0x87, 0x04, 7], &b"/v1/run"[..]].concat();
    let open = frame(0x1, END_HEADERS, 1, &post);
    let body = frame(0x0, 0, 1, &[0; 16_000]);
    begun(std::iter::once(open).chain(std::iter::repeat(body)))
}
