//! Attempts to reach somebody: through the proxy if there is one, and past it.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn nothing() -> io::Error {
    io::Error::other("nothing was seen")
}

fn connect(target: &str) -> io::Result<TcpStream> {
    let mut last = nothing();
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reads until `needle` was seen.
fn until(stream: &mut TcpStream, needle: &[u8]) -> io::Result<()> {
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part)?;
        if count == 0 {
            eprintln!("seen: {}", String::from_utf8_lossy(&seen));
            return Err(nothing());
        }
        seen.extend(&part[..count]);
        if seen.windows(needle.len()).any(|window| window == needle) {
            return Ok(());
        }
    }
}

/// As a program that knows proxies does.
pub(crate) fn reach(target: &str) -> io::Result<()> {
    let Some(proxy) = std::env::var("HTTPS_PROXY").ok() else {
        return direct(target);
    };
    let mut stream = connect(proxy.trim_start_matches("http://"))?;
    write!(
        stream,
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
    )?;
    until(&mut stream, b"HTTP/1.1 200 ")?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
    until(&mut stream, b"reached")
}

/// As one that knows none does.
pub(crate) fn direct(target: &str) -> io::Result<()> {
    let mut stream = connect(target)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
    until(&mut stream, b"reached")
}

/// Sends bytes, written as hexadecimal digits with spaces where something has
/// to be read before going on, and waits for an answer.
pub(crate) fn say(target: &str, said: &str, wanted: &str) -> io::Result<()> {
    let mut stream = connect(target)?;
    for (index, part) in said.split(' ').enumerate() {
        if index > 0 && stream.read(&mut [0; 4096])? == 0 {
            return Err(nothing());
        }
        let bytes: Vec<u8> = (0..part.len() / 2)
            .filter_map(|at| u8::from_str_radix(part.get(2 * at..2 * at + 2)?, 16).ok())
            .collect();
        stream.write_all(&bytes)?;
    }
    if wanted.is_empty() {
        return Ok(());
    }
    if wanted == "end" {
        let started = Instant::now();
        // An error is an end as well.
        while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        return if started.elapsed() < PATIENCE {
            Ok(())
        } else {
            Err(nothing())
        };
    }
    until(&mut stream, wanted.as_bytes())
}

/// Opens many connections and says nothing on them.
pub(crate) fn many(target: &str, count: u64) -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(connect(target)?);
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut refused = 0;
    for stream in &mut held {
        stream.set_nonblocking(true)?;
        if matches!(stream.read(&mut [0]), Ok(0)) {
            refused += 1;
        }
    }
    println!("{refused}");
    Ok(())
}

/// A server inside, for one connection. Says when it listens.
pub(crate) fn serve(port: u16, ready: &Path) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    std::fs::write(ready, "x")?;
    let (mut stream, _) = listener.accept()?;
    stream.write_all(b"reached")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer == b"thanks" {
        Ok(())
    } else {
        Err(nothing())
    }
}

/// Asks the resolver for a text record, as exfiltration does.
pub(crate) fn ask(name: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut question = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 16, 0, 1]);
    socket.send_to(&question, "127.0.0.1:53")?;
    let mut answer = [0; 512];
    let count = socket.recv(&mut answer)?;
    // An answer without error that holds something.
    if count > 12 && answer[3] & 15 == 0 && answer[7] > 0 {
        Ok(())
    } else {
        Err(nothing())
    }
}
