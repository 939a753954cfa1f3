//! A small HTTP server that answers range requests, with faults on demand.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does in the place of a proper answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// This status, and a text.
    Status(u16),
    /// Half of the body, then the connection ends.
    Short,
    /// The connection ends before the answer.
    Reset,
    /// A pause of so many milliseconds in the middle of the body.
    Pause(u64),
    /// The whole object with 200, whatever was asked for.
    Whole,
    /// Bytes from one place later.
    Shifted,
    /// Another ETag, and `If-Match` is ignored.
    OtherTag,
    /// The object is another one now: `If-Match` fails.
    Replaced,
    /// The same, with Last-Modified but no ETag.
    ShortNoEtag,
    /// Neither ETag nor Last-Modified.
    NoTag,
    /// Last-Modified, but no ETag.
    NoEtag,
    /// A weak ETag.
    WeakTag,
}

/// When a fault happens: in requests whose line holds these words, after so many of them, so many times.
#[derive(Clone, Debug)]
struct Planned {
    words: &'static [&'static str],
    skip: usize,
    times: usize,
    fault: Fault,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method and path.
    pub line: String,
    /// The header of this name.
    pub headers: BTreeMap<String, String>,
    /// Bytes that were asked for, if a range was.
    pub range: Option<(u64, u64)>,
}

#[derive(Default)]
struct State {
    faults: Vec<Planned>,
    asked: Vec<Asked>,
    under_way: usize,
    most_under_way: usize,
}

/// A folder, served at `url` until the test ends.
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start(root: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, state) = (root.clone(), shared.clone());
                std::thread::spawn(move || serve(&stream, &root, &state));
            }
        });
        Self { url, state }
    }

    /// Lets requests whose method and path hold all of `words` meet a fault `times` times, after `skip` good answers.
    pub fn fault(&self, words: &'static [&'static str], skip: usize, times: usize, fault: Fault) {
        self.state.lock().unwrap().faults.push(Planned { words, skip, times, fault });
    }

    /// Forgets faults and requests. Returns what was asked since the last time.
    pub fn reset(&self) -> Vec<Asked> {
        let mut state = self.state.lock().unwrap();
        state.faults.clear();
        std::mem::take(&mut state.asked)
    }

    /// Requests that were under way at once, at most.
    pub fn most_under_way(&self) -> usize {
        self.state.lock().unwrap().most_under_way
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, root: &std::path::Path, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read_request(&mut reader) {
        let fault = {
            let mut state = state.lock().unwrap();
            state.asked.push(asked.clone());
            state.under_way += 1;
            state.most_under_way = state.most_under_way.max(state.under_way);
            state.faults.iter_mut().find_map(|f| f.next(&asked.line))
        };
        let open = answer(stream, root, &asked, fault);
        state.lock().unwrap().under_way -= 1;
        if open.is_none() {
            return;
        }
    }
}

impl Planned {
    fn next(&mut self, line: &str) -> Option<Fault> {
        if !self.words.iter().all(|w| line.contains(w)) || self.times == 0 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        Some(self.fault)
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let range = headers.get("range").map(|r| {
        let (first, last) = r.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse().unwrap(), last.parse::<u64>().unwrap() + 1)
    });
    let line = line.rsplit_once(' ').unwrap().0.to_owned();
    Some(Asked { line, headers, range })
}

/// Without percent-encoding.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| {
        text + &char::from(u8::from_str_radix(&part[..2], 16).unwrap()).to_string() + &part[2..]
    })
}

/// `None` if the connection ends.
fn answer(mut stream: &TcpStream, root: &std::path::Path, asked: &Asked, fault: Option<Fault>) -> Option<()> {
    let (method, path) = asked.line.split_once(' ').unwrap();
    let path = decoded(path.trim_start_matches('/'));
    let bytes = fs::read(root.join(path)).ok().filter(|_| !matches!(fault, Some(Fault::Status(404))));
    let status = match (fault, &bytes) {
        (Some(Fault::Reset), _) => return None,
        (Some(Fault::Status(code)), _) => Some(code),
        (Some(Fault::Replaced), _) if asked.headers.contains_key("if-match") => Some(412),
        (_, None) => Some(404),
        _ => None,
    };
    if let Some(status) = status {
        let body = if method == "HEAD" { "" } else { "no\nsuch luck" };
        let length = body.len();
        return write!(stream, "HTTP/1.1 {status} Fault\r\nContent-Length: {length}\r\n\r\n{body}").ok();
    }
    let bytes = bytes.unwrap_or_default();
    let tag = match fault {
        Some(Fault::OtherTag | Fault::Replaced) => "ETag: \"second\"\r\n",
        Some(Fault::NoTag) => "",
        Some(Fault::NoEtag | Fault::ShortNoEtag) => "Last-Modified: Wed, 21 Oct 2026 07:28:00 GMT\r\n",
        Some(Fault::WeakTag) => "ETag: W/\"first\"\r\n",
        _ => "ETag: \"first\"\r\nLast-Modified: Wed, 21 Oct 2026 07:28:00 GMT\r\n",
    };
    let whole = asked.range.is_none() || fault == Some(Fault::Whole);
    let (first, end) = asked.range.filter(|_| !whole).unwrap_or((0, bytes.len() as u64));
    let end = end.min(bytes.len() as u64);
    let shift = u64::from(fault == Some(Fault::Shifted));
    let mut head = if whole { "HTTP/1.1 200 OK\r\n".to_owned() } else { "HTTP/1.1 206 Partial Content\r\n".to_owned() };
    if !whole {
        head += &format!("Content-Range: bytes {}-{}/{}\r\n", first + shift, end - 1 + shift, bytes.len());
    }
    write!(stream, "{head}{tag}Content-Length: {}\r\n\r\n", end - first).ok()?;
    if method == "HEAD" {
        return Some(());
    }
    let body = &bytes[first as usize..end as usize];
    let (before, after) = body.split_at(body.len() / 2);
    stream.write_all(before).ok()?;
    match fault {
        Some(Fault::Short | Fault::ShortNoEtag) => return None,
        Some(Fault::Pause(millis)) => std::thread::sleep(Duration::from_millis(millis)),
        _ => {}
    }
    stream.write_all(after).ok()
}
