//! The server under load: a thousand open event streams while a run trains, and checkpoints over loopback.
//!
//! `cargo xtask bench server`. The client shares the machine with the server, so its own work counts against the figures, but
//! where they say that of the server alone; as it stands for other machines, it runs at the priority of the server's threads that
//! do not train. A delivery is measured from the moment that a request is sent which causes an event, to the moment that a stream's bytes
//! with it are read: request, audit log and two synced writes are in it. The rival of a download is a bare TCP
//! connection over loopback that sends the same bytes from memory.

mod cpu;
mod download;
mod streams;

use beckon_shared::checkpoint::Checkpoint;
use beckon_tests::machine;
use beckon_tests::process::{Server, root};
use beckon_tests::sample::simulated_log;
use serde_json::{Value, json};
use std::path::Path;

/// Beyond what the benches ask.
const NO_LIMIT: [&str; 2] = ["--rate", "1000000"];

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    if !"server.checkpoint_stream server.streams_1000".contains(&name) && !name.starts_with("server") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let checkpoint = install(dir.path());
    let server = Server::start(dir.path(), &NO_LIMIT);
    if "server.checkpoint_stream".contains(&name) {
        print(&download::measure(&server, &checkpoint));
    }
    if "server.streams_1000".contains(&name) {
        assert_eq!(server.client.import("log.jsonl", &simulated_log(2_000)).0, 200);
        // the server is there already and keeps its own
        beckon_server::priority::lower();
        streams::measure(&server, &checkpoint.0).iter().for_each(print);
    }
}

fn print(figure: &Value) {
    println!("{figure}");
}

/// A figure without a rival.
fn alone(name: &str, unit: &str, ours: f64) -> Value {
    json!({"name": name, "device": machine(), "unit": unit, "ours": ours})
}

/// Puts a copy of the built-in checkpoint with an id of its own among the files, so that it is streamed from disk; its id and
/// length.
fn install(dir: &Path) -> (String, usize) {
    let bytes = std::fs::read(root().join("server/assets/nano.beckon")).expect("the built-in checkpoint");
    let mut checkpoint = Checkpoint::decode(&bytes).expect("it is whole");
    checkpoint.manifest.lineage.command = "bench".to_owned();
    let bytes = checkpoint.encode().expect("encoded");
    let id = Checkpoint::decode(&bytes).expect("it is whole").id;
    let folder = dir.join("checkpoints");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(format!("{id}.beckon")), &bytes).expect("written");
    (id, bytes.len())
}
