//! Who comes in where: the table of senders and routes, cell by cell, and each attack that is refused.

use crate::access::new_token;
use crate::app::tests::{Bench, bench_with, json, open_doors, request, text};
use crate::app::{Doors, Rule, rules};
use crate::limit::{Limiter, Rate};
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Method, Request, StatusCode};
use axum::routing::MethodFilter;
use beckon_shared::control::RunStatus;
use beckon_shared::control::access::Role;
use beckon_shared::control::audit::AuditRecord;
use std::net::SocketAddr;

pub(crate) fn method(rule: &Rule) -> Method {
    let known = [
        (MethodFilter::GET, Method::GET),
        (MethodFilter::POST, Method::POST),
        (MethodFilter::PUT, Method::PUT),
        (MethodFilter::PATCH, Method::PATCH),
        (MethodFilter::DELETE, Method::DELETE),
    ];
    known.into_iter().find(|(filter, _)| *filter == rule.method).expect("a known method").1
}

fn closed() -> Bench {
    bench_with(Doors { token_needed: true, ..open_doors() })
}

fn add_token(bench: &Bench, role: Role, expires_millis: Option<i64>) -> String {
    let (text, token) =
        new_token(&format!("{}-{expires_millis:?}", role.name()), role, 0, expires_millis).expect("random");
    assert!(bench.app.store.add_token(&token).expect("stored"));
    text
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a value"));
    request
}

fn signed(method: Method, path: &str, body: &str, token: &str) -> Request<Body> {
    with(request(method, path, body.to_owned()), "authorization", &format!("Bearer {token}"))
}

/// Every route and who may: `n`obody's token needed, `i`ngest key of the experiment or operator, `v`iewer, `o`perator, `a`dmin and
/// those above. An ingest key opens nothing else, and nothing of another experiment.
const TABLE: &[(&str, char)] = &[
    ("GET /health", 'n'),
    ("GET /ready", 'n'),
    ("GET /metrics", 'v'),
    ("GET /session", 'n'),
    ("POST /session", 'n'),
    ("DELETE /session", 'n'),
    ("GET /log/summary", 'v'),
    ("GET /log/records", 'v'),
    ("GET /log/schema", 'v'),
    ("POST /log/import", 'o'),
    ("GET /runs", 'v'),
    ("POST /runs", 'o'),
    ("POST /runs/check", 'v'),
    ("GET /runs/{id}", 'v'),
    ("PATCH /runs/{id}", 'o'),
    ("DELETE /runs/{id}", 'o'),
    ("GET /runs/{id}/metrics", 'v'),
    ("GET /runs/{id}/samples", 'v'),
    ("GET /runs/{id}/log", 'v'),
    ("GET /runs/{id}/report", 'v'),
    ("POST /runs/{id}/{command}", 'o'),
    ("GET /checkpoints", 'v'),
    ("GET /checkpoints/{id}", 'v'),
    ("DELETE /checkpoints/{id}", 'o'),
    ("GET /checkpoints/{id}/file", 'v'),
    ("GET /checkpoints/{id}/adapter", 'v'),
    ("POST /checkpoints/{id}/branch", 'o'),
    ("PUT /checkpoints/{id}/note", 'o'),
    ("POST /checkpoints/{id}/promote", 'o'),
    ("GET /registry", 'v'),
    ("GET /lineage", 'v'),
    ("GET /tags", 'v'),
    ("POST /tags/{tag}/roll-back", 'o'),
    ("GET /promotions", 'v'),
    ("GET /plan", 'v'),
    ("POST /analyze", 'v'),
    ("GET /experiments", 'v'),
    ("POST /experiments", 'o'),
    ("GET /experiments/{id}", 'v'),
    ("DELETE /experiments/{id}", 'o'),
    ("GET /experiments/{id}/results", 'v'),
    ("GET /experiments/{id}/assignment", 'i'),
    ("POST /experiments/{id}/events", 'i'),
    ("POST /experiments/{id}/key", 'o'),
    ("GET /experiments/{id}/export", 'v'),
    ("POST /experiments/{id}/harvest", 'o'),
    ("POST /experiments/{id}/{command}", 'o'),
    ("GET /events", 'v'),
    ("GET /control", 'v'),
    ("GET /tokens", 'a'),
    ("POST /tokens", 'a'),
    ("DELETE /tokens/{name}", 'a'),
    ("GET /audit", 'a'),
];

#[tokio::test]
async fn every_cell_of_roles_and_routes_is_as_written_down() {
    let bench = closed();
    let tokens = Role::ALL.map(|role| (role, add_token(&bench, role, None)));
    let (own_key, other_key) = (ingest_key(&bench, &tokens[2].1).await, ingest_key(&bench, &tokens[2].1).await);
    let all = rules(&bench.app);
    assert_eq!(
        all.iter().map(|rule| format!("{} {}", method(rule), rule.path)).collect::<Vec<_>>(),
        TABLE.iter().map(|(route, _)| (*route).to_owned()).collect::<Vec<_>>()
    );
    for (rule, (route, letter)) in all.iter().zip(TABLE) {
        let path =
            format!("/api{}", rule.path.replace("{id}", "x1").replace("{command}", "pause").replace(['{', '}'], ""));
        let anonymous = bench.send(request(method(rule), &path, "")).await.status();
        assert_eq!(anonymous == StatusCode::UNAUTHORIZED, *letter != 'n', "{route} without a token: {anonymous}");
        for (role, token) in &tokens {
            let status = bench.send(signed(method(rule), &path, "", token)).await.status();
            let least = match letter {
                'o' | 'i' => Role::Operator,
                'a' => Role::Admin,
                _ => Role::Viewer,
            };
            let wrong_in = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
            // signing in with an empty body is refused as such
            let may = *role >= least;
            assert_eq!(!wrong_in, may, "{route} as {}: {status}", role.name());
            assert!(!status.is_server_error() || status == StatusCode::NOT_IMPLEMENTED, "{route}: {status}");
        }
        let path = path.replace("x1", "e1");
        for (key, whose, may) in [(&own_key, "its", "ni".contains(*letter)), (&other_key, "another's", *letter == 'n')]
        {
            let status = bench.send(signed(method(rule), &path, "", key)).await.status();
            assert_eq!(status != StatusCode::FORBIDDEN, may, "{route} with {whose} ingest key: {status}");
            assert!(status != StatusCode::UNAUTHORIZED && !status.is_server_error(), "{route}: {status}");
        }
    }
}

/// The ingest key of a new experiment; they are numbered from `e1` on.
async fn ingest_key(bench: &Bench, admin: &str) -> String {
    let arm = |name: &str| serde_json::json!({"name": name, "source": {"template": name}});
    let config = serde_json::json!({"name": "test", "arms": [arm("a"), arm("b")]}).to_string();
    let made = bench.send(signed(Method::POST, "/api/experiments", &config, admin)).await;
    let made: beckon_shared::control::experiment::ExperimentStatus = json(made).await;
    let path = format!("/api/experiments/{}/key", made.id);
    let key: crate::route::experiments::NewKey = json(bench.send(signed(Method::POST, &path, "", admin)).await).await;
    key.key
}

#[tokio::test]
async fn without_doors_the_person_at_the_machine_is_admin_but_a_wrong_token_is_refused() {
    let bench = bench_with(open_doors());
    assert_eq!(bench.get("/api/tokens").await.status(), StatusCode::OK);
    bench.problem(signed(Method::GET, "/api/runs", "", "bk_00_11"), 401).await;
}

#[tokio::test]
async fn expired_removed_and_malformed_tokens_are_refused() {
    let bench = closed();
    let expired = add_token(&bench, Role::Admin, Some(5));
    let detail = bench.problem(signed(Method::GET, "/api/runs", "", &expired), 401).await;
    assert!(detail.contains("expired"), "{detail}");
    let admin = add_token(&bench, Role::Admin, None);
    let viewer = add_token(&bench, Role::Viewer, None);
    assert_eq!(bench.send(signed(Method::GET, "/api/runs", "", &viewer)).await.status(), StatusCode::OK);
    let remove = signed(Method::DELETE, "/api/tokens/viewer-None", "", &admin);
    assert_eq!(bench.send(remove).await.status(), StatusCode::NO_CONTENT);
    bench.problem(signed(Method::GET, "/api/runs", "", &viewer), 401).await;
    bench.problem(with(request(Method::GET, "/api/runs", ""), "authorization", "Basic abc"), 401).await;
    let health = bench.send(signed(Method::GET, "/api/health", "", &expired)).await;
    assert_eq!(health.status(), StatusCode::OK);
}

#[tokio::test]
async fn guessing_tokens_is_slowed_down() {
    let bench = closed();
    for _ in 0..5 {
        bench.problem(signed(Method::GET, "/api/runs", "", "bk_00_11"), 401).await;
    }
    let response = bench.send(signed(Method::GET, "/api/runs", "", "bk_00_11")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers()["retry-after"].to_str().expect("text").parse::<u64>().expect("seconds") > 1);
}

#[tokio::test]
async fn guessing_at_the_sign_in_is_slowed_down_too() {
    let bench = closed();
    let guess = || request(Method::POST, "/api/session", r#"{"token": "bk_00_11"}"#);
    for _ in 0..5 {
        bench.problem(guess(), 401).await;
    }
    let response = bench.send(guess()).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key("retry-after"));
    bench.problem(signed(Method::GET, "/api/runs", "", "bk_00_11"), 429).await;
    let right = format!(r#"{{"token": "{}"}}"#, add_token(&bench, Role::Viewer, None));
    assert_eq!(bench.post("/api/session", &right).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn methods_that_are_made_up_make_no_series_of_their_own() {
    let bench = bench_with(open_doors());
    for name in ["BREW", "BREW2", "get"] {
        bench.send(request(Method::from_bytes(name.as_bytes()).expect("a method"), "/api/runs", "")).await;
    }
    let figures = text(bench.get("/api/metrics").await).await;
    assert!(!figures.contains("BREW") && !figures.contains("\"get\""), "{figures}");
    let line = figures.lines().find(|line| line.contains("method=\"other\""));
    assert!(line.is_some_and(|line| line.ends_with(" 3")), "{figures}");
}

#[tokio::test]
async fn who_comes_through_a_proxy_is_not_the_person_at_the_machine() {
    let bench = bench_with(open_doors());
    let token = add_token(&bench, Role::Admin, None);
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "beckon.example"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "203.0.113.9"),
        ("via", "1.1 proxy"),
        ("forwarded", "for=203.0.113.9"),
    ] {
        for path in ["/api/runs", "/api/tokens", "/api/events", "/api/control"] {
            let detail = bench.problem(with(request(Method::GET, path, ""), name, value), 401).await;
            assert!(detail.contains("--require-token") && detail.contains("beckon token add"), "{name}: {detail}");
        }
        // with a token it comes in, and so does who looks whether the server is there
        let with_token = with(signed(Method::GET, "/api/tokens", "", &token), name, value);
        assert_eq!(bench.send(with_token).await.status(), StatusCode::OK, "{name}");
        for path in ["/api/health", "/api/session", "/sign-in"] {
            let open = bench.send(with(request(Method::GET, path, ""), name, value)).await;
            assert_eq!(open.status(), StatusCode::OK, "{name}: {path}");
        }
    }
    let sign_in = request(Method::POST, "/api/session", format!(r#"{{"token": "{token}"}}"#));
    assert_eq!(bench.send(with(sign_in, "x-forwarded-for", "203.0.113.9")).await.status(), StatusCode::OK);
    assert_eq!(bench.get("/api/tokens").await.status(), StatusCode::OK, "the person at the machine is out");
}

#[tokio::test]
async fn one_visitor_does_not_use_up_what_all_with_the_same_ingest_key_may_ask() {
    let slow = Limiter::new(Rate { per_sec: 0.001, burst: 3.0 });
    let bench = bench_with(Doors { requests: slow, ..open_doors() });
    let arm = |name: &str| serde_json::json!({"name": name, "source": {"template": name}});
    let config = serde_json::json!({"name": "test", "arms": [arm("a"), arm("b")]});
    assert_eq!(bench.post("/api/experiments", &config.to_string()).await.status(), StatusCode::CREATED);
    let key: crate::route::experiments::NewKey = json(bench.post("/api/experiments/e1/key", "").await).await;
    let visit = |last: u8| {
        let mut request = signed(Method::GET, "/api/experiments/e1/assignment?unit=u", "", &key.key);
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([203, 0, 113, last], 40_000))));
        request
    };
    for _ in 0..3 {
        assert_eq!(bench.send(visit(1)).await.status(), StatusCode::OK);
    }
    bench.problem(visit(1), 429).await;
    assert_eq!(bench.send(visit(2)).await.status(), StatusCode::OK, "one visitor held up another");
}

#[tokio::test]
async fn too_many_requests_of_one_sender_do_not_hold_up_another() {
    let slow = Limiter::new(Rate { per_sec: 0.001, burst: 3.0 });
    let bench = bench_with(Doors { token_needed: true, requests: slow, ..open_doors() });
    let (one, other) = (add_token(&bench, Role::Viewer, None), add_token(&bench, Role::Admin, None));
    for _ in 0..3 {
        assert_eq!(bench.send(signed(Method::GET, "/api/runs", "", &one)).await.status(), StatusCode::OK);
    }
    bench.problem(signed(Method::GET, "/api/runs", "", &one), 429).await;
    assert_eq!(bench.send(signed(Method::GET, "/api/runs", "", &other)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_page_signs_in_with_a_cookie_that_scripts_cannot_read() {
    let bench = closed();
    let token = add_token(&bench, Role::Operator, None);
    let response = bench.post("/api/session", &format!(r#"{{"token": "{token}"}}"#)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let cookie = response.headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    let runs = bench.send(with(request(Method::GET, "/api/runs", ""), "cookie", pair)).await;
    assert_eq!(runs.status(), StatusCode::OK);
    let from_elsewhere =
        with(with(request(Method::POST, "/api/runs", "{}"), "cookie", pair), "origin", "https://evil.example");
    bench.problem(from_elsewhere, 403).await;
    bench.problem(request(Method::POST, "/api/session", r#"{"token": "bk_00_11"}"#), 401).await;
    for path in ["/sign-in", "/sign-in.js", "/"] {
        assert_eq!(bench.get(path).await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn oversized_and_compressed_bodies_are_refused() {
    let bench = bench_with(open_doors());
    let large = format!(r#"{{"name": "{}"}}"#, "x".repeat(2 << 20));
    bench.problem(request(Method::POST, "/api/runs", large), 413).await;
    // 10 MB of zeros in 10 kB, as a zip bomb would come
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let bomb = with(
            request(Method::POST, "/api/log/import?format=jsonl", vec![0x1f, 0x8b, 8, 0]),
            "content-encoding",
            coding,
        );
        bench.problem(bomb, 415).await;
    }
}

#[tokio::test]
async fn no_path_leads_out_of_the_interface() {
    let bench = bench_with(open_doors());
    let passwd = "root:";
    for path in [
        "/api/runs/..%2F..%2F..%2Fetc%2Fpasswd/report",
        "/api/runs/../../etc/passwd",
        "/api/checkpoints/..%2f..%2f..%2fetc%2fpasswd/file",
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/docs/../../etc/passwd",
        "//etc/passwd",
    ] {
        let response = bench.get(path).await;
        let (status, body) = (response.status(), text(response).await);
        assert!(!body.contains(passwd), "{path} gave the file");
        assert!(status == StatusCode::NOT_FOUND || body.contains("<html"), "{path}: {status}");
    }
}

#[tokio::test]
async fn only_listed_origins_may_use_it_from_their_pages() {
    let bench = bench_with(Doors { origins: vec!["https://lab.example".into()], ..open_doors() });
    let runs = |method, origin| with(request(method, "/api/runs", r#"{"preset": "tiny"}"#), "origin", origin);
    let preflight = bench.send(runs(Method::OPTIONS, "https://lab.example")).await;
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "https://lab.example");
    assert!(!preflight.headers().contains_key("access-control-allow-credentials"));
    bench.problem(runs(Method::POST, "https://lab.example"), 401).await;
    let token = format!("Bearer {}", add_token(&bench, Role::Operator, None));
    let signed = with(runs(Method::POST, "https://lab.example"), "authorization", &token);
    assert_eq!(bench.send(signed).await.status(), StatusCode::CREATED);
    bench.problem(runs(Method::OPTIONS, "https://evil.example"), 403).await;
    bench.problem(runs(Method::POST, "https://lab.example.evil.example"), 403).await;
    let read = bench.send(runs(Method::GET, "https://evil.example")).await;
    assert!(!read.headers().contains_key("access-control-allow-origin"), "another page may read");
    let socket =
        with(with(request(Method::GET, "/api/control", ""), "origin", "https://evil.example"), "upgrade", "websocket");
    bench.problem(socket, 403).await;
}

#[tokio::test]
async fn every_answer_carries_the_usual_headers_and_an_id() {
    let bench = bench_with(open_doors());
    for path in ["/", "/api/health", "/api/nothing"] {
        let response = bench.send(with(request(Method::GET, path, ""), "x-request-id", "abc-1")).await;
        let headers = response.headers();
        assert!(headers["content-security-policy"].to_str().expect("text").contains("default-src 'self'"), "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["x-request-id"], "abc-1", "{path}");
    }
    let odd = bench.send(with(request(Method::GET, "/api/health", ""), "x-request-id", "a b\"")).await;
    assert_eq!(odd.headers()["x-request-id"].len(), 16, "an odd id was taken over");
}

#[tokio::test]
async fn a_command_is_done_once_for_its_key_and_leaves_a_line() {
    let bench = closed();
    let (operator, admin) = (add_token(&bench, Role::Operator, None), add_token(&bench, Role::Admin, None));
    let create = |key: &str, body: &str, token: &str| {
        with(signed(Method::POST, "/api/runs", body, token), "idempotency-key", key)
    };
    let body = r#"{"preset": "tiny"}"#;
    let first = bench.send(create("k1", body, &operator)).await;
    assert_eq!(first.status(), StatusCode::CREATED);
    assert!(!first.headers().contains_key("idempotency-replayed"));
    let first: RunStatus = json(first).await;
    let again = bench.send(create("k1", body, &operator)).await;
    assert_eq!(
        (again.status(), &again.headers()["idempotency-replayed"]),
        (StatusCode::CREATED, &HeaderValue::from_static("true"))
    );
    let again: RunStatus = json(again).await;
    assert_eq!(again.id, first.id);
    let other: RunStatus = json(bench.send(create("k1", body, &admin)).await).await;
    assert_ne!(other.id, first.id, "a key belongs to its sender");
    let detail = bench.problem(create("k1", r#"{"preset": "nano"}"#, &operator), 422).await;
    assert!(detail.contains("another request"), "{detail}");
    bench.problem(create("a b", body, &operator), 400).await;
    let audit: Vec<AuditRecord> = json(bench.send(signed(Method::GET, "/api/audit?limit=2", "", &admin)).await).await;
    assert_eq!(audit.len(), 2);
    let line = &audit[1];
    assert_eq!((line.sender.as_str(), line.path.as_str(), line.status), ("operator-None", "/api/runs", Some(201)));
    assert_eq!((line.body.as_str(), line.key.as_deref()), (body, Some("k1")));
    assert!(line.time_millis > 0);
}

#[tokio::test]
async fn a_token_never_reaches_the_audit_log() {
    let bench = closed();
    let admin = add_token(&bench, Role::Admin, None);
    let wish = with(
        signed(Method::POST, "/api/tokens", r#"{"name": "ann", "role": "viewer"}"#, &admin),
        "idempotency-key",
        "k",
    );
    let made: crate::route::tokens::NewToken = json(bench.send(wish).await).await;
    let secret = made.token.rsplit('_').next().expect("a secret");
    assert!(bench.app.store.tokens().expect("read").iter().any(|token| token.name == "ann"));
    for record in bench.app.store.audit(i64::MAX, 100).expect("read") {
        assert!(!record.body.contains(secret));
    }
    for entry in std::fs::read_dir(bench.dir.path()).expect("listed") {
        let path = entry.expect("an entry").path();
        let bytes = if path.is_file() { std::fs::read(path).expect("read") } else { Vec::new() };
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "a secret is on the disk");
    }
}
