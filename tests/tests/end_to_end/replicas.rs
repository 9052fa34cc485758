//! Several servers on one PostgreSQL database and one bucket: one trains, others serve; clients lose one and go to another.

use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::experiment::{ExperimentStatus, IngestOutcome, Results};
use beckon_shared::control::{Event, RunState};
use beckon_tests::client::Client;
use beckon_tests::moto::{BUCKET, KEY, Moto};
use beckon_tests::postgres::Postgres;
use beckon_tests::process::{Server, binary, printed};
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const NO_LIMIT: [&str; 2] = ["--rate", "1000000"];
const USERS: usize = 400;

fn start(dir: &Path, database: &str, moto: &Moto, serve_only: bool) -> Server {
    let storage = format!("s3://{BUCKET}/models");
    let mut args = vec!["--database", database, "--storage", &storage, "--s3-endpoint", &moto.url];
    args.extend(NO_LIMIT);
    if serve_only {
        args.push("--serve-only");
    }
    Server::start_with(dir, &args, &KEY)
}

fn offered(client: &Client) -> BTreeSet<String> {
    client.checkpoints().into_iter().filter(|info| !info.built_in).map(|info| info.id).collect()
}

#[test]
#[ignore = "needs moto and PostgreSQL"]
fn replicas_serve_what_one_server_trains() {
    let (moto, postgres) = (Moto::start(), Postgres::start());
    let database = postgres.fresh("beckon");
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let trainer = start(dirs[0].path(), &database, &moto, false);
    // only one trains
    let mut second = std::process::Command::new(binary());
    second.args(["serve", "--addr", "127.0.0.1:0", "--device", "cpu", "--database", &database, "--data-dir"]);
    let refused = printed(&second.arg(dirs[1].path()).output().unwrap());
    assert!(refused.contains("another server trains") && refused.contains("--serve-only"), "{refused}");
    assert!(!refused.contains("secret"), "the password is shown: {refused}");
    let replica = start(dirs[1].path(), &database, &moto, true);
    let events = replica.client.events();

    // what is imported at the replica is trained on by the trainer; the replica steers nothing
    assert_eq!(replica.client.import("log.jsonl", &simulated_log(300)).0, 200);
    let problem = replica.client.post("/api/runs", tiny_config(1, json!({})).to_string().as_bytes()).problem(409);
    assert!(problem.detail.contains("only serves"), "{}", problem.detail);
    assert_eq!(replica.client.get("/api/ready").status, 200);
    let run = trainer.client.start_run(&tiny_config(1, json!({}))).id;
    // its events come to listeners of the replica, each once and in order
    let made = events.wait_for("the checkpoint", Duration::from_secs(240), |event| match event {
        Event::Checkpoint(info) => Some(info.id),
        _ => None,
    });
    trainer.client.wait_for_state(&run, RunState::Finished, Duration::from_secs(60));
    assert_eq!(replica.client.run(&run).checkpoint.as_deref(), Some(made.as_str()));
    let points = |client: &Client| client.get(&format!("/api/runs/{run}/metrics")).json::<Vec<Value>>();
    assert!(!points(&replica.client).is_empty());
    assert_eq!(points(&replica.client), points(&trainer.client));
    // the checkpoint too
    beckon_tests::wait_for("the checkpoint at the replica", Duration::from_secs(30), || {
        offered(&replica.client).contains(&made).then_some(())
    });
    let file = format!("/api/checkpoints/{made}/file");
    assert_eq!(replica.client.get(&file).body, trainer.client.get(&file).body);
    // a server that is asked later knows all of it
    let third = start(dirs[2].path(), &database, &moto, true);
    assert_eq!(offered(&third.client), offered(&trainer.client));
    // tokens, tags and deletions hold everywhere
    let promoted = replica.client.post(&format!("/api/checkpoints/{made}/promote"), b"");
    assert_eq!(promoted.status, 200, "{}", promoted.text());
    assert_eq!(trainer.client.get("/api/tags").text(), replica.client.get("/api/tags").text());

    // the trainer dies: the others serve on, and a new one takes its right
    trainer.kill();
    assert_eq!(third.client.get(&file).status, 200);
    let trainer = start(dirs[0].path(), &database, &moto, false);
    let again = trainer.client.start_run(&tiny_config(2, json!({}))).id;
    trainer.client.wait_for_state(&again, RunState::Finished, Duration::from_secs(240));
}

/// Sends to one of the servers; where that is gone, the same to the next, as a client does that has several addresses.
struct Sender {
    clients: Vec<Client>,
    at: AtomicUsize,
}

impl Sender {
    fn post(&self, path: &str, body: &Value) -> Value {
        for _ in 0..200 {
            let at = self.at.load(Ordering::Relaxed) % self.clients.len();
            let url = format!("{}{path}", self.clients[at].url);
            let config = ureq::Agent::config_builder().http_status_as_error(false).build();
            match config.new_agent().post(&url).send(body.to_string()) {
                Ok(mut answer) if answer.status().as_u16() == 200 => {
                    if let Ok(text) = answer.body_mut().read_to_string() {
                        return serde_json::from_str(&text).unwrap();
                    }
                }
                Ok(answer) => assert!(answer.status().is_server_error(), "{}", answer.status()),
                Err(_) => {}
            }
            // the answer was lost: whether it was done is not known, so the same is sent again
            self.at.store(at + 1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no server took it");
    }
}

#[test]
#[ignore = "needs moto and PostgreSQL"]
fn a_killed_replica_loses_no_click_and_breaks_no_download() {
    let (moto, postgres) = (Moto::start(), Postgres::start());
    let database = postgres.fresh("beckon");
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    // a checkpoint that only the bucket has
    let bytes = std::fs::read(beckon_tests::process::root().join("server/assets/nano.beckon")).unwrap();
    let mut checkpoint = Checkpoint::decode(&bytes).unwrap();
    checkpoint.manifest.lineage.command = "replicas".to_owned();
    let bytes = checkpoint.encode().unwrap();
    let id = Checkpoint::decode(&bytes).unwrap().id;
    moto.put(&format!("models/{id}.beckon"), &bytes);
    let first = start(dirs[0].path(), &database, &moto, false);
    let second = start(dirs[1].path(), &database, &moto, true);
    assert!(offered(&first.client).contains(&id) && offered(&second.client).contains(&id));

    let arm = |name: &str| json!({"name": name, "source": {"checkpoint": id}});
    let config = json!({"name": "aa", "arms": [arm("a"), arm("b")]}).to_string();
    let experiment: ExperimentStatus = second.client.post("/api/experiments", config.as_bytes()).json();
    let path = format!("/api/experiments/{}", experiment.id);
    assert_eq!(first.client.post(&format!("{path}/start"), b"").status, 200);
    // a download from the second has begun
    let url = format!("/api/checkpoints/{id}/file");
    let mut broken = ureq::get(format!("{}{url}", second.client.url)).call().unwrap().into_body().into_reader();
    let mut downloaded = vec![0; 100_000];
    broken.read_exact(&mut downloaded).unwrap();

    // intake by four clients at both servers, one of which is killed in the middle
    let n_sent = AtomicUsize::new(0);
    let clients = [second.client.clone(), first.client.clone()];
    let clicks: usize = std::thread::scope(|scope| {
        let (clients, path, n_sent) = (&clients, &path, &n_sent);
        let threads: Vec<_> = (0..4).map(|of| scope.spawn(move || intake(clients, path, of, n_sent))).collect();
        beckon_tests::wait_for("half of the users", Duration::from_secs(120), || {
            (n_sent.load(Ordering::Relaxed) > USERS / 2).then_some(())
        });
        second.kill();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let results: Results = first.client.get(&format!("{path}/results")).json();
    assert_eq!((results.n_exposures, results.n_clicks), (USERS as u64, clicks as u64));

    // the download breaks off, and goes on at the other server where it was
    let mut rest = Vec::new();
    let _ = broken.read_to_end(&mut rest);
    downloaded.extend(rest);
    if downloaded.len() < bytes.len() {
        let mut answer = ureq::get(format!("{}{url}", first.client.url))
            .header("range", format!("bytes={}-", downloaded.len()))
            .header("if-range", format!("\"{id}\""))
            .call()
            .unwrap();
        assert_eq!(answer.status().as_u16(), 206);
        downloaded.extend(answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap());
    }
    assert_eq!(Checkpoint::decode(&downloaded).unwrap().id, id);
    assert!(downloaded == bytes);
}

/// One client's users, a quarter of all: what each was shown and clicked. The number of clicks that were acknowledged.
fn intake(clients: &[Client; 2], path: &str, of: usize, n_sent: &AtomicUsize) -> usize {
    let sender = Sender { clients: clients.to_vec(), at: AtomicUsize::new(of) };
    let mut n_clicks = 0;
    for user in (0..USERS).filter(|user| user % 4 == of) {
        let arm = assignment(&clients[1], path, user);
        let slot = json!({"text": "one", "propensity": 1.0, "visible": true});
        let exposure = json!({"kind": "exposure", "impression_id": format!("i{user}"), "unit": format!("u{user}"),
            "arm": arm, "time_millis": user, "slate": [slot]});
        let click = json!({"kind": "click", "impression_id": format!("i{user}"), "slot": 0, "time_millis": user});
        let clicked = user % 3 == 0;
        let events = if clicked { json!([exposure, click]) } else { json!([exposure]) };
        let answer = sender.post(&format!("{path}/events"), &json!({"events": events}));
        let IngestOutcome { n_accepted, n_duplicates, rejects } = serde_json::from_value(answer).unwrap();
        assert_eq!((n_accepted + n_duplicates, rejects), (1 + usize::from(clicked), vec![]));
        n_clicks += usize::from(clicked);
        n_sent.fetch_add(1, Ordering::Relaxed);
    }
    n_clicks
}

fn assignment(client: &Client, path: &str, user: usize) -> String {
    let assigned: Value = client.get(&format!("{path}/assignment?unit=u{user}")).json();
    assigned["arm"]["name"].as_str().expect("an arm").to_owned()
}
