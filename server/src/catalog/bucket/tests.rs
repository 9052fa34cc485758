//! Addresses, names, and what is done about a storage that falters; a real one is asked end to end.

use super::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

fn open(url: &str, endpoint: Option<&str>) -> Result<Bucket, BucketError> {
    let endpoint = endpoint.map(str::to_owned);
    let address = Address { url: url.into(), endpoint, region: Some("eu-west-1".into()) };
    Bucket::with_key(&address, Credentials::new("key", "secret"))
}

/// A head of a request, in lower case but for its first line.
fn head_of(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).expect("text");
    let (first, rest) = text.split_once("\r\n").expect("lines");
    Some(format!("{first}\r\n{}", rest.to_lowercase()))
}

/// As much of S3 as one bucket `lab` needs, in memory, for tests of the catalog.
pub(crate) struct Fake {
    url: String,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let objects = Arc::clone(&objects);
                std::thread::spawn(move || serve(&mut stream, &objects));
            }
        });
        Self { url }
    }

    pub(crate) fn bucket(&self) -> Bucket {
        open("s3://lab", Some(&self.url)).expect("an address")
    }
}

/// One request a connection.
fn serve(stream: &mut TcpStream, objects: &Mutex<BTreeMap<String, Vec<u8>>>) {
    let Some(head) = head_of(stream) else { return };
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    let mut body = vec![0; value("content-length").map_or(0, |text| text.parse().expect("a length"))];
    stream.read_exact(&mut body).expect("a body");
    let (method, rest) = head.split_once(" /lab/").expect("a path in the bucket");
    let (key, query) = rest.split_once(' ').expect("a line").0.split_once('?').expect("a signature");
    let mut objects = objects.lock().expect("not poisoned");
    let (status, body) = match method {
        "GET" if query.contains("list-type=2") => {
            let object = |(key, bytes): (&String, &Vec<u8>)| {
                format!("<Contents><Key>{key}</Key><Size>{}</Size></Contents>", bytes.len())
            };
            let list: String = objects.iter().map(object).collect();
            let xmlns = "http://s3.amazonaws.com/doc/2006-03-01/";
            let text = format!("<ListBucketResult xmlns=\"{xmlns}\"><MaxKeys>1000</MaxKeys>{list}</ListBucketResult>");
            ("200 OK", text.into_bytes())
        }
        "GET" => match (objects.get(key), value("range")) {
            (None, _) => ("404 Not Found", b"<Code>NoSuchKey</Code><Message>No.</Message>".to_vec()),
            (Some(bytes), None) => ("200 OK", bytes.clone()),
            (Some(bytes), Some(range)) => {
                let (first, last) = range.trim_start_matches("bytes=").split_once('-').expect("a range");
                let (first, last): (usize, usize) = (first.parse().expect("a byte"), last.parse().expect("a byte"));
                ("206 Partial Content", bytes[first..=last].to_vec())
            }
        },
        "PUT" => {
            objects.insert(key.to_owned(), body);
            ("200 OK", Vec::new())
        }
        "DELETE" => {
            objects.remove(key);
            ("204 No Content", Vec::new())
        }
        other => panic!("{other}"),
    };
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    // a client that has what it wants goes away
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// A storage that gives each connection the next of these answers; it ends with the heads of the requests.
fn storage(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let thread = std::thread::spawn(move || {
        let answer = |answer: String| {
            let (mut stream, _) = listener.accept().expect("a request");
            let head = head_of(&mut stream).expect("a head");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |text| text.parse().expect("a length"))];
            stream.read_exact(&mut body).expect("a body");
            stream.write_all(answer.as_bytes()).expect("sent");
            head
        };
        answers.into_iter().map(answer).collect()
    });
    (url, thread)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\nlast-modified: Thu, 26 Nov 2026 00:00:00 GMT\r\netag: \"e\"\r\n{headers}\r\n{body}"
    )
}

#[test]
fn an_address_becomes_bucket_and_prefix() {
    let bucket = open("s3://lab/models/beckon/", None).expect("an address");
    assert_eq!(bucket.key("ab.beckon"), "models/beckon/ab.beckon");
    assert_eq!(bucket.named("ab.beckon"), "s3://lab/models/beckon/ab.beckon");
    let bucket = open("s3://lab", Some("http://localhost:9000")).expect("an address");
    assert_eq!(bucket.key("ab.beckon"), "ab.beckon");
}

#[test]
fn what_is_no_address_is_refused_with_the_form() {
    for url in
        ["lab/models", "s3://", "s3:///x", "s3://lab/../x", "s3://lab//x", "gs://lab", "s3://lab/a?b", "s3://lab/%2e"]
    {
        let text = open(url, None).err().unwrap_or_else(|| panic!("{url} was taken")).to_string();
        assert!(text.contains(url) && text.contains("s3://BUCKET/PREFIX"), "{text}");
    }
    for endpoint in ["localhost:9000", "ftp://localhost", "nonsense"] {
        let text = open("s3://lab", Some(endpoint)).expect_err("refused").to_string();
        assert!(text.contains(endpoint), "{text}");
    }
}

#[test]
fn a_name_from_the_bucket_is_a_file_of_ours_or_left_out() {
    let id = "0a".repeat(32);
    assert!(is_name(&format!("{id}.beckon")) && is_name(&format!("{id}.adapter")));
    for name in [
        "",
        "..",
        "a/b",
        &id,
        &format!("{id}.partial"),
        &format!("{}.beckon", "0A".repeat(32)),
        &format!("../{id}.beckon"),
    ] {
        assert!(!is_name(name), "{name}");
    }
}

#[test]
fn a_storage_that_falters_is_asked_again_and_a_part_that_broke_off_goes_on_at_its_byte() {
    let (url, requests) = storage(vec![
        answer("503 Slow Down", "content-length: 0\r\n", ""),
        answer("206 Partial Content", "content-length: 6\r\ncontent-range: bytes 2-7/10\r\n", "234"),
        answer("206 Partial Content", "content-length: 3\r\ncontent-range: bytes 5-7/10\r\n", "567"),
    ]);
    let bucket = open("s3://lab", Some(&url)).expect("an address");
    let mut bytes = Vec::new();
    bucket.read("x.beckon", Some(2..8)).expect("begins").read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes, b"234567");
    let requests = requests.join().expect("asked three times");
    let of = |name: &str| -> Vec<&str> {
        requests.iter().map(|head| head.lines().find(|line| line.starts_with(name)).unwrap_or("none")).collect()
    };
    assert_eq!(of("range"), ["range: bytes=2-7", "range: bytes=2-7", "range: bytes=5-7"]);
    assert_eq!(of("if-match"), ["none", "none", "if-match: \"e\""]);
    assert!(requests.iter().all(|head| head.contains("X-Amz-Credential=key%2F") && head.contains("X-Amz-Signature=")));
}

#[test]
fn a_download_that_keeps_breaking_off_ends_with_an_error() {
    let broken = || answer("200 OK", "content-length: 6\r\n", "");
    let (url, requests) = storage((0..9).map(|_| broken()).collect());
    let bucket = open("s3://lab", Some(&url)).expect("an address");
    let error = bucket.read("x.beckon", None).expect("begins").read_to_end(&mut Vec::new()).expect_err("broken");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(requests.join().expect("asked").len(), 9);
}

#[test]
fn a_refusal_says_what_to_look_at() {
    let xml = |code: &str| {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>No.</Message></Error>");
        format!("content-length: {}\r\n\r\n{body}", body.len())
    };
    let refused = |status: &str, code: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n{}", xml(code));
    for (status, code, words) in [
        ("403 Forbidden", "SignatureDoesNotMatch", ["SignatureDoesNotMatch: No.", "AWS_SECRET_ACCESS_KEY"]),
        ("404 Not Found", "NoSuchBucket", ["no such bucket", "s3://lab/x.beckon"]),
        ("404 Not Found", "NoSuchKey", ["it is not there", "s3://lab/x.beckon"]),
        ("400 Bad Request", "AuthorizationHeaderMalformed", ["AuthorizationHeaderMalformed: No.", "read"]),
    ] {
        let (url, requests) = storage(vec![refused(status, code)]);
        let bucket = open("s3://lab", Some(&url)).expect("an address");
        let text = bucket.read("x.beckon", Some(0..1)).expect_err("refused").to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        requests.join().expect("it is asked once");
    }
}

#[test]
fn what_the_storage_has_otherwise_than_written_is_no_success() {
    let (url, _) =
        storage(vec![answer("200 OK", "content-length: 0\r\n", ""), answer("200 OK", "content-length: 4\r\n", "forr")]);
    let bucket = open("s3://lab", Some(&url)).expect("an address");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"four").expect("written");
    let text = bucket.write("x.beckon", file.path()).expect_err("refused").to_string();
    assert!(text.contains("something else than was written"), "{text}");
}

#[test]
fn nobody_at_the_endpoint_is_said_so() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let endpoint = format!("http://{free}");
    let bucket = open("s3://lab", Some(&endpoint)).expect("an address");
    let text = bucket.list().expect_err("nobody").to_string();
    assert!(text.contains(&format!("no answer from {endpoint}")), "{text}");
}
