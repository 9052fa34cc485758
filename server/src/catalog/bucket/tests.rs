//! Addresses, names, and what is done about a storage that falters; a real one is asked end to end.

use super::*;
use object_store::ClientConfigKey;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

fn open(url: &str, endpoint: Option<&str>) -> Result<Bucket, BucketError> {
    let endpoint = endpoint.map(str::to_owned);
    let address = Address { url: url.into(), endpoint, region: Some("eu-west-1".into()) };
    let key = AmazonS3Builder::new().with_access_key_id("key").with_secret_access_key("secret");
    Bucket::with_settings(&address, key)
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
    let (method, rest) = head.split_once(" /lab").expect("a path in the bucket");
    let (key, query) =
        rest.split_once(' ').map(|(path, _)| path.split_once('?').unwrap_or((path, ""))).expect("a line");
    let key = key.trim_start_matches('/');
    let mut objects = objects.lock().expect("not poisoned");
    let mut part = String::new();
    let (status, body) = match method {
        "GET" if query.contains("list-type=2") => {
            let object = |(key, bytes): (&String, &Vec<u8>)| {
                let time = "<LastModified>2026-11-26T00:00:00Z</LastModified>";
                format!("<Contents><Key>{key}</Key><Size>{}</Size>{time}</Contents>", bytes.len())
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
                part = format!("content-range: bytes {first}-{last}/{}\r\n", bytes.len());
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
    let length = format!("content-length: {}\r\n", body.len());
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\netag: \"e\"\r\n{part}{length}\r\n");
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
    for (address, list, object) in [
        ("s3://lab/models/beckon/", "prefix=models%2Fbeckon%2F", "GET /lab/models/beckon/ab.beckon "),
        ("s3://lab", "list-type=2", "GET /lab/ab.beckon "),
    ] {
        let id = "0a".repeat(32);
        let key = |name: &str| {
            let prefix = address.trim_start_matches("s3://lab").trim_matches('/');
            format!("{prefix}/{name}").trim_start_matches('/').to_owned()
        };
        let found = |name: &str| {
            let time = "<LastModified>2026-11-26T00:00:00.000Z</LastModified>";
            format!("<Contents><Key>{}</Key><Size>3</Size>{time}</Contents>", key(name))
        };
        let names = [found(&format!("{id}.beckon")), found("notes.txt"), found("deeper/notes.txt")].concat();
        let names = format!("<ListBucketResult>{names}</ListBucketResult>");
        let (url, requests) = storage(vec![
            answer("200 OK", &format!("content-length: {}\r\n", names.len()), &names),
            answer("200 OK", "content-length: 3\r\n", "abc"),
        ]);
        let bucket = open(address, Some(&url)).expect("an address");
        assert_eq!(bucket.named("ab.beckon"), format!("{}/ab.beckon", address.trim_end_matches('/')));
        assert_eq!(bucket.list().expect("listed"), [Object { name: format!("{id}.beckon"), n_bytes: 3 }]);
        let mut text = String::new();
        bucket.read("ab.beckon", None).expect("begins").read_to_string(&mut text).expect("read");
        assert_eq!(text, "abc");
        let requests = requests.join().expect("asked twice");
        assert!(requests[0].contains(list), "{}", requests[0]);
        assert!(requests[1].starts_with(object), "{}", requests[1]);
    }
}

#[test]
fn a_key_comes_whole_from_the_environment_or_a_role_that_it_names() {
    let with = |settings: &[Setting]| {
        settings.iter().fold(AmazonS3Builder::new(), |builder, setting| builder.with_config(*setting, "x"))
    };
    let key = [Setting::AccessKeyId, Setting::SecretAccessKey];
    let role = [Setting::WebIdentityTokenFile, Setting::RoleArn];
    assert!(has_key(&with(&key)) && has_key(&with(&role)));
    assert!(!has_key(&with(&[])) && !has_key(&with(&key[..1])) && !has_key(&with(&[key[1], role[0]])));
}

#[test]
fn certificates_are_looked_at_unless_all_is_asked_in_the_clear() {
    for (endpoint, is_role, dropped) in [
        ("http://localhost:9000", false, "true"),
        ("http://localhost:9000", true, "false"),
        ("https://storage.example", false, "false"),
        ("https://storage.example", true, "false"),
    ] {
        let got = client(endpoint, is_role).get_config_value(&ClientConfigKey::NoSystemCertificates);
        assert_eq!(got.as_deref(), Some(dropped), "{endpoint}, role: {is_role}");
    }
}

#[test]
fn what_is_no_address_is_refused_with_the_form() {
    for url in [
        "lab/models",
        "s3://",
        "s3:///x",
        "s3://lab/../x",
        "s3://lab/a//x",
        "gs://lab",
        "s3://lab/a?b",
        "s3://lab/%2e",
        "s3://lab/a\nb",
    ] {
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
    assert!(requests.iter().all(|head| head.contains("credential=key/") && head.contains("signature=")));
    assert!(requests.iter().all(|head| !head.contains("secret")));
}

#[test]
fn a_download_does_not_go_on_in_another_object() {
    let (url, requests) = storage(vec![
        answer("206 Partial Content", "content-length: 6\r\ncontent-range: bytes 2-7/10\r\n", "234"),
        answer("206 Partial Content", "content-length: 3\r\ncontent-range: bytes 5-7/10\r\n", "567")
            .replace("\"e\"", "\"f\""),
    ]);
    let bucket = open("s3://lab", Some(&url)).expect("an address");
    let mut bytes = Vec::new();
    bucket.read("x.beckon", Some(2..8)).expect("begins").read_to_end(&mut bytes).expect_err("another object");
    assert_eq!((bytes.as_slice(), requests.join().expect("asked twice").len()), (&b"234"[..], 2));
}

#[test]
fn a_download_that_keeps_breaking_off_ends_with_an_error() {
    let first = answer("200 OK", "content-length: 6\r\n", "");
    let again = answer("206 Partial Content", "content-length: 6\r\ncontent-range: bytes 0-5/6\r\n", "");
    let answers = std::iter::once(first).chain(std::iter::repeat_n(again, N_RETRIES));
    let (url, requests) = storage(answers.collect());
    let bucket = open("s3://lab", Some(&url)).expect("an address");
    let error = bucket.read("x.beckon", None).expect("begins").read_to_end(&mut Vec::new()).expect_err("broken");
    assert!(error.to_string().contains("cannot read s3://lab/x.beckon: no answer from"), "{error}");
    assert_eq!(requests.join().expect("asked").len(), N_RETRIES + 1);
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
        ("301 Moved Permanently", "PermanentRedirect", ["another region", "--s3-region"]),
    ] {
        let (url, requests) = storage(vec![refused(status, code)]);
        let bucket = open("s3://lab", Some(&url)).expect("an address");
        let text = bucket.read("x.beckon", Some(0..1)).expect_err("refused").to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        requests.join().expect("it is asked once");
    }
}

#[test]
fn an_upload_that_fails_in_the_middle_is_given_up_and_becomes_no_object() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let requests = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for mut stream in listener.incoming().flatten() {
            // a part that is not wanted any more may break off
            let Some(head) = head_of(&mut stream) else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |text| text.parse().expect("a length"))];
            let _ = stream.read_exact(&mut body);
            let begun = "<InitiateMultipartUploadResult><UploadId>7</UploadId></InitiateMultipartUploadResult>";
            let (status, body) = match head.split_once(' ').expect("a method").0 {
                "POST" => ("200 OK", begun),
                "DELETE" => ("204 No Content", ""),
                _ => ("400 Bad Request", "<Error><Code>EntityTooSmall</Code><Message>No.</Message></Error>"),
            };
            let text = answer(status, &format!("content-length: {}\r\n", body.len()), body);
            let _ = stream.write_all(text.as_bytes());
            asked.push(head.lines().next().unwrap_or_default().to_owned());
            if asked.last().is_some_and(|line| line.starts_with("DELETE")) {
                return asked;
            }
        }
        asked
    });
    let bucket = open("s3://lab", Some(&url)).expect("an address");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), vec![7; PART_BYTES + 1]).expect("written");
    let text = bucket.write("x.beckon", file.path()).expect_err("refused").to_string();
    assert!(text.contains("cannot write s3://lab/x.beckon") && text.contains("EntityTooSmall: No."), "{text}");
    let requests = requests.join().expect("given up");
    assert!(requests[0].starts_with("POST /lab/x.beckon?uploads"), "{requests:?}");
    assert!(requests.iter().any(|line| line.starts_with("PUT /lab/x.beckon?partNumber=1&uploadId=7")), "{requests:?}");
    assert!(requests.iter().filter(|line| line.starts_with("POST")).count() == 1, "it was completed: {requests:?}");
    assert!(requests.last().is_some_and(|line| line.starts_with("DELETE /lab/x.beckon?uploadId=7")), "{requests:?}");
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
fn a_storage_that_takes_connections_and_never_answers_ends_the_start_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    let bucket = open("s3://lab", Some(&endpoint)).expect("an address");
    let begun = std::time::Instant::now();
    let text = bucket.check(Duration::from_millis(300)).expect_err("nobody answers").to_string();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!([&endpoint, "s3://lab", "within 300ms", "--s3-endpoint"].iter().all(|word| text.contains(*word)), "{text}");
}

#[test]
fn nobody_at_the_endpoint_is_said_so() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let endpoint = format!("http://{free}");
    let bucket = open("s3://lab", Some(&endpoint)).expect("an address");
    let text = bucket.list().expect_err("nobody").to_string();
    assert!(text.contains(&format!("no answer from {endpoint}")), "{text}");
}
