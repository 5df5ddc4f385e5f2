//! Asynchronous streams over sockets, files and pipes: the same bytes and the
//! same errors, however the input is cut and whatever is cancelled.

#![cfg(any(feature = "ring", feature = "rustcrypto"))]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use katachi_crypto::envelope::{Context, DataKey};
use katachi_crypto::stream::{AsyncOpenReader, AsyncSealWriter, OpenReader, SealWriter};
use katachi_crypto::{Error, KeyId, Secret};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

fn key() -> DataKey {
    DataKey::from_parts(KeyId::from_bytes([1; 8]), Secret::new([2; 32]))
}

fn context() -> Context {
    Context::new("stream")
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 3) as u8).collect()
}

fn seal(plaintext: &[u8]) -> Vec<u8> {
    let mut writer = SealWriter::new(Vec::new(), &key(), &context()).unwrap();
    writer.write_all(plaintext).unwrap();
    writer.finish().unwrap()
}

fn open(sealed: &[u8]) -> io::Result<Vec<u8>> {
    let mut plaintext = Vec::new();
    OpenReader::new(sealed, &key(), &context())?.read_to_end(&mut plaintext)?;
    Ok(plaintext)
}

fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

async fn write_all(sink: impl AsyncWrite + Unpin, plaintext: &[u8]) -> io::Result<()> {
    let mut writer = AsyncSealWriter::new(sink, &key(), &context()).unwrap();
    writer.write_all(plaintext).await?;
    writer.shutdown().await
}

async fn read_all(source: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut plaintext = Vec::new();
    let mut reader = AsyncOpenReader::new(source, &key(), &context()).await?;
    reader.read_to_end(&mut plaintext).await?;
    Ok(plaintext)
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test]
async fn crosses_a_socket_whole() {
    for length in [0, 1, 16_384, 3_000_000] {
        let (near, far) = sockets().await;
        let plaintext = content(length);
        let (sent, got) = tokio::join!(write_all(near, &plaintext), read_all(far));
        sent.unwrap();
        assert!(got.unwrap() == plaintext, "{length} bytes");
    }
}

#[tokio::test]
async fn a_writer_that_goes_away_on_a_socket_is_no_end() {
    let (near, far) = sockets().await;
    let sending = async {
        let mut writer = AsyncSealWriter::new(near, &key(), &context()).unwrap();
        writer.write_all(&content(40_000)).await.unwrap();
        writer.flush().await.unwrap();
        // Dropped here, and with it the connection.
    };
    let ((), got) = tokio::join!(sending, read_all(far));
    let error = got.unwrap_err();
    assert_eq!(cause(&error), Some(&Error::Truncated));
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_task_cancelled_in_the_middle_leaves_what_does_not_open() {
    let (near, mut far) = sockets().await;
    let long = content(30_000_000);
    // Nobody reads, so the socket fills up and the write waits until it is cancelled.
    let cancelled = tokio::time::timeout(Duration::from_millis(50), write_all(near, &long)).await;
    assert!(cancelled.is_err(), "it should have waited");
    let mut sealed = Vec::new();
    far.read_to_end(&mut sealed).await.unwrap();
    assert!(sealed.len() > 72);
    // Cut off in a chunk it is refused as changed, behind one as truncated.
    assert!(cause(&open(&sealed).unwrap_err()).is_some());
}

#[tokio::test]
async fn files_are_the_same_for_both_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sealed");
    for length in [0, 16_383, 16_384, 16_385, 200_000] {
        let plaintext = content(length);
        let file = tokio::fs::File::create(&path).await.unwrap();
        write_all(file, &plaintext).await.unwrap();
        assert!(open(&std::fs::read(&path).unwrap()).unwrap() == plaintext);
        std::fs::write(&path, seal(&plaintext)).unwrap();
        let file = tokio::fs::File::open(&path).await.unwrap();
        assert!(read_all(file).await.unwrap() == plaintext);
    }
}

#[tokio::test]
async fn every_cut_is_an_error_and_never_an_end() {
    let sealed = seal(&content(33_000));
    let edges = [72, 72 + 16_400, 72 + 2 * 16_400];
    for length in (0..sealed.len()).step_by(97).chain(edges) {
        let error = read_all(&sealed[..length]).await.unwrap_err();
        assert!(cause(&error).is_some(), "cut to {length}");
    }
}

#[tokio::test]
async fn a_failed_reader_stays_failed() {
    let mut sealed = seal(&content(20_000));
    sealed[80] ^= 1;
    let mut reader = AsyncOpenReader::new(sealed.as_slice(), &key(), &context())
        .await
        .unwrap();
    for _ in 0..3 {
        let mut out = [0; 10];
        let error = reader.read(&mut out).await.unwrap_err();
        assert_eq!((cause(&error), out), (Some(&Error::Tampered), [0; 10]));
    }
}

#[tokio::test]
async fn a_writer_that_failed_or_ended_takes_nothing_more() {
    struct Full(usize);
    impl AsyncWrite for Full {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Task<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Poll::Ready(match taken {
                0 => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(taken),
            })
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    for room in [0, 71, 72, 72 + 16_400 + 3] {
        let mut writer = AsyncSealWriter::new(Full(room), &key(), &context()).unwrap();
        writer.write_all(&content(50_000)).await.unwrap_err();
        writer.shutdown().await.unwrap_err();
        writer.write_all(b"more").await.unwrap_err();
    }
    let mut writer = AsyncSealWriter::new(Vec::new(), &key(), &context()).unwrap();
    writer.write_all(b"all").await.unwrap();
    writer.shutdown().await.unwrap();
    writer.shutdown().await.unwrap();
    writer.write_all(b"more").await.unwrap_err();
    assert_eq!(open(&writer.into_inner()).unwrap(), b"all");
}

/// A pipe without a buffer's manners: each call moves as many bytes as the next
/// step says, and a step of zero answers "not yet".
struct Reluctant {
    bytes: VecDeque<u8>,
    steps: std::iter::Cycle<std::vec::IntoIter<usize>>,
}

impl Reluctant {
    fn new(bytes: Vec<u8>, steps: &[usize]) -> Self {
        Self {
            bytes: bytes.into(),
            steps: Vec::from(steps).into_iter().cycle(),
        }
    }

    fn step(&mut self) -> Poll<usize> {
        match self.steps.next() {
            Some(0) => Poll::Pending,
            step => Poll::Ready(step.unwrap_or(1)),
        }
    }
}

impl AsyncWrite for Reluctant {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Task<'_>,
        out: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.step().map(|step| {
            let taken = step.min(out.len());
            self.bytes.extend(&out[..taken]);
            Ok(taken)
        })
    }
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        self.step().map(|_| Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        self.step().map(|_| Ok(()))
    }
}

impl AsyncRead for Reluctant {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Task<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.step().map(|step| {
            let count = step.min(out.remaining()).min(self.bytes.len());
            let given: Vec<u8> = self.bytes.drain(..count).collect();
            out.put_slice(&given);
            Ok(())
        })
    }
}

/// Polls a fresh future once and drops it, until one is ready: every wait is a
/// cancellation.
fn impatiently<T>(mut make: impl FnMut(&mut Task<'_>) -> Poll<T>) -> T {
    let mut task = Task::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = make(&mut task) {
            return value;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn however_it_is_cut_delayed_and_cancelled_it_arrives_whole(
        plaintext in proptest::collection::vec(any::<u8>(), 0..50_000),
        mut steps in proptest::collection::vec(prop_oneof![Just(0), 1usize..20_000], 1..12),
        piece in 1usize..20_000,
    ) {
        steps.push(9_999);
        let sink = Reluctant::new(Vec::new(), &steps);
        let mut writer = AsyncSealWriter::new(sink, &key(), &context()).unwrap();
        let mut rest = plaintext.as_slice();
        while !rest.is_empty() {
            let now = &rest[..rest.len().min(piece)];
            let taken = impatiently(|task| {
                std::pin::pin!(writer.write(now)).as_mut().poll(task)
            });
            rest = &rest[taken.unwrap()..];
        }
        impatiently(|task| std::pin::pin!(writer.flush()).as_mut().poll(task)).unwrap();
        impatiently(|task| std::pin::pin!(writer.shutdown()).as_mut().poll(task)).unwrap();
        let sealed: Vec<u8> = writer.into_inner().bytes.into();
        prop_assert!(open(&sealed).unwrap() == plaintext);

        let mut source = Reluctant::new(sealed, &steps);
        // Making the reader takes the header, and is not given up half way.
        let made = {
            let (key, context) = (key(), context());
            let mut making = std::pin::pin!(AsyncOpenReader::new(&mut source, &key, &context));
            impatiently(|task| making.as_mut().poll(task))
        };
        let mut reader = made.unwrap();
        let mut got = Vec::new();
        let mut out = vec![0; piece];
        loop {
            let count = impatiently(|task| {
                std::pin::pin!(reader.read(&mut out)).as_mut().poll(task)
            });
            match count.unwrap() {
                0 => break,
                count => got.extend_from_slice(&out[..count]),
            }
        }
        prop_assert!(got == plaintext);
    }
}
