//! A checkpoint over loopback, again and again on one connection, against the same bytes over a bare connection.

use beckon_tests::process::Server;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// Bytes of each side and round, about.
const N_BYTES: usize = 600_000_000;
/// Rounds, both sides in turn.
const N_ROUNDS: usize = 3;
/// What the client reads at once, and the bare connection sends at once.
const PIECE: usize = 256 << 10;

/// Both sides in GB/s, medians over the rounds.
pub fn measure(server: &Server, (id, n_bytes): &(String, usize)) -> Value {
    let before = memory_mb(server.pid());
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..N_ROUNDS {
        ours.push(of_server(server, id, *n_bytes));
        bare.push(of_bare_connection(*n_bytes));
    }
    let (ours, bare) = (median(&mut ours), median(&mut bare));
    eprintln!("memory of the server {before:.0} MB before, {:.0} MB after", memory_mb(server.pid()));
    json!({
        "name": "server.checkpoint_stream", "device": beckon_tests::machine(), "unit": "GB/s", "ours": ours,
        "rival": bare, "rival_name": "bare TCP from memory", "ratio": ours / bare,
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Resident memory of a process.
pub fn memory_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(f64::NAN, |kib: f64| kib / 1024.0)
}

fn of_server(server: &Server, id: &str, n_bytes: usize) -> f64 {
    let addr = server.client.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(addr).expect("connects");
    let request = format!("GET /api/checkpoints/{id}/file HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    let mut buffer = vec![0; PIECE];
    let n_times = N_BYTES / n_bytes + 1;
    let start = Instant::now();
    for _ in 0..n_times {
        stream.write_all(request.as_bytes()).expect("asks");
        let mut rest = None;
        let mut head: Vec<u8> = Vec::new();
        while rest != Some(0) {
            let n = stream.read(&mut buffer).expect("reads");
            assert!(n > 0, "the server hung up");
            rest = match rest {
                Some(rest) => Some(rest - n),
                None => {
                    head.extend_from_slice(&buffer[..n]);
                    let end = head.windows(4).position(|four| four == b"\r\n\r\n");
                    assert!(end.is_none() || head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
                    end.map(|end| n_bytes - (head.len() - end - 4))
                }
            };
        }
    }
    (n_times * n_bytes) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn of_bare_connection(n_bytes: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let addr = listener.local_addr().expect("an address");
    let total = (N_BYTES / n_bytes + 1) * n_bytes;
    let sender = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let piece = vec![7; PIECE];
        let mut rest = total;
        while rest > 0 {
            let n = rest.min(PIECE);
            stream.write_all(&piece[..n]).expect("sends");
            rest -= n;
        }
    });
    let mut stream = TcpStream::connect(addr).expect("connects");
    let mut buffer = vec![0; PIECE];
    let start = Instant::now();
    let mut rest = total;
    while rest > 0 {
        rest -= stream.read(&mut buffer).expect("reads");
    }
    let rate = total as f64 / start.elapsed().as_secs_f64() / 1e9;
    sender.join().expect("sent");
    rate
}
