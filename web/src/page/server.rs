//! Server: who may come in, and who asked for what. Both are an admin's; others read why they see nothing.

use crate::api;
use crate::component::confirm::ConfirmButton;
use crate::component::field::{failed, select_field, shown_once, text_field};
use crate::component::table::table;
use crate::live::Live;
use crate::platform::http::{Body, encoded};
use crate::platform::{clock, dom};
use leptos::prelude::*;
use serde_json::{Value, json};

/// The newest part of the audit log.
const AUDIT_URL: &str = "/api/audit?limit=50";
const TOKENS_URL: &str = "/api/tokens";

/// An answer that is shown, or why there is none.
type Shown = Option<Result<Value, String>>;

/// The page.
pub fn server_page() -> AnyView {
    let who = RwSignal::new(Shown::None);
    api::call("GET", "/api/session".into(), Body::None, move |answer| who.set(Some(answer.map(|answer| answer.value))));
    let sign_out = move |_| {
        api::call("DELETE", "/api/session".into(), Body::None, |answer| {
            if answer.is_ok() {
                dom::leave("/sign-in");
            }
        });
    };
    let body = move || match who.get() {
        None => ().into_any(),
        Some(Err(error)) => failed("session-failed", error),
        Some(Ok(who)) => {
            let (name, role) = (words(&who["name"]), words(&who["role"]));
            if name == "local" {
                let said = "This server is open to this machine: no token is needed, and you may do everything.";
                return view! { <p>{said}</p> {tokens()} {audit()} }.into_any();
            }
            let admin = role == "admin";
            view! {
                <p>{format!("You are {name}, {role}. ")}
                    <button type="button" data-testid="sign-out" on:click=sign_out>"Sign out"</button>
                </p>
                {admin.then(|| [tokens(), audit()].into_iter().collect_view())}
                {(!admin).then(|| view! {
                    <p class="notice" data-testid="server-refused">"Access tokens and the audit log are shown to an admin only."</p>
                })}
            }
            .into_any()
        }
    };
    view! {
        <div data-testid="server-page" class="page">
            <h1 id="page-title" tabindex="-1">"Server"</h1>
            <p class="lead">"Who may come in, and who asked for what. "
                <a href="/docs" target="_blank" rel="noopener">"Interface"</a>" · "<a href="/api/metrics" target="_blank">"Metrics"</a>
            </p>
            {body}
        </div>
    }
    .into_any()
}

/// Words of a value that may be missing.
fn words(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A time; `missing` where there is none.
fn time(value: &Value, missing: &str) -> AnyView {
    value.as_i64().map_or_else(|| missing.to_owned(), clock::local_time).into_any()
}

/// Access tokens.
fn tokens() -> AnyView {
    let live = expect_context::<Live>();
    let list = RwSignal::new(Shown::None);
    let made = RwSignal::new(None::<Result<String, String>>);
    let field = |begin: &str| RwSignal::new(begin.to_owned());
    let (name, role, days) = (field(""), field("viewer"), field("90"));
    let read = move || api::call_list(TOKENS_URL, move |answer| list.set(Some(answer)));
    read();
    let make = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        // what is no number goes as it is, and the server says so
        let text = days.get_untracked().trim().to_owned();
        let days =
            if text.is_empty() { Value::Null } else { text.parse::<u64>().map_or(Value::from(text), Value::from) };
        let wish = json!({ "name": name.get_untracked(), "role": role.get_untracked(), "days": days });
        api::call("POST", TOKENS_URL.into(), Body::Json(wish.to_string()), move |answer| {
            made.set(Some(answer.map(|answer| words(&answer.value["token"]))));
            read();
        });
    };
    let remove = Callback::new(move |name: String| {
        api::call("DELETE", format!("{TOKENS_URL}/{}", encoded(&name)), Body::None, move |answer| {
            if answer.is_ok() {
                live.announce(format!("The token {name} is removed"));
            }
            made.set(answer.err().map(Err));
            read();
        });
    });
    let rows = move || match list.get() {
        None => ().into_any(),
        Some(Err(error)) => failed("tokens-failed", error),
        Some(Ok(list)) => {
            let rows = list.as_array().into_iter().flatten().map(|token| token_row(token, remove)).collect();
            table("tokens", &["name", "role", "made", "ends", ""], rows)
        }
    };
    let roles = || ["viewer", "operator", "admin"].map(|role| (role.to_owned(), role.to_owned())).to_vec();
    view! {
        <section class="card">
            <h2>"Access tokens"</h2>
            <p class="muted">"A viewer looks, an operator also steers runs and experiments, an admin may do everything."</p>
            {rows}
            <form class="form-row" data-testid="token-form" on:submit=make>
                {text_field("Name", "token-name", "text", name, true)}
                {select_field("Role", "token-role", role, Box::new(roles))}
                {text_field("Days until it ends; empty: never", "token-days", "numeric", days, false)}
                <button type="submit" data-testid="token-make">"Make a token"</button>
            </form>
            {move || made.get().map(|made| shown_once("token-made", made))}
        </section>
    }
    .into_any()
}

fn token_row(token: &Value, remove: Callback<String>) -> Vec<AnyView> {
    let name = words(&token["name"]);
    let row = [name.clone().into_any(), words(&token["role"]).into_any()];
    let times = [time(&token["created_millis"], ""), time(&token["expires_millis"], "never")];
    let button = view! {
        <ConfirmButton label="Remove" question="Shut its holder out?" testid="token-remove" disabled=false
            title="Its holder is out at once" act=Callback::new(move |()| remove.run(name.clone()))/>
    };
    let mut row = Vec::from(row);
    row.extend(times);
    row.push(button.into_any());
    row
}

/// The audit log, newest first.
fn audit() -> AnyView {
    let records = RwSignal::new(Shown::None);
    let next = RwSignal::new(None::<String>);
    let read = move |url: String| {
        let is_first = url == AUDIT_URL;
        api::call("GET", url, Body::None, move |answer| {
            let (part, more) = match answer {
                Ok(answer) => (Ok(answer.value), answer.next),
                Err(error) => (Err(error), None),
            };
            next.set(more);
            records.update(|records| match (records, part) {
                (Some(Ok(Value::Array(there))), Ok(Value::Array(mut older))) if !is_first => there.append(&mut older),
                (records, part) => *records = Some(part),
            });
        });
    };
    read(AUDIT_URL.to_owned());
    let rows = move || match records.get() {
        None => ().into_any(),
        Some(Err(error)) => failed("audit-failed", error),
        Some(Ok(records)) => {
            let rows = records.as_array().into_iter().flatten().map(audit_row).collect();
            table("audit-lines", &["when", "who", "what", "answer"], rows)
        }
    };
    view! {
        <section class="card" data-testid="audit">
            <h2>"Audit log"</h2>
            <p class="muted">"Every command with its sender and its HTTP answer, newest first. Open one to see what was sent."</p>
            {rows}
            <div class="form-row">
                <button type="button" data-testid="audit-again" on:click=move |_| read(AUDIT_URL.to_owned())>"Read again"</button>
                {move || next.get().map(|url| view! {
                    <button type="button" data-testid="audit-older" on:click=move |_| read(url.clone())>"Older"</button>
                })}
            </div>
        </section>
    }
    .into_any()
}

fn audit_row(record: &Value) -> Vec<AnyView> {
    let what = format!("{} {}", words(&record["method"]), words(&record["path"]));
    let what = match words(&record["body"]) {
        body if body.is_empty() => view! { <code>{what}</code> }.into_any(),
        body => view! { <details><summary><code>{what}</code></summary><code>{body}</code></details> }.into_any(),
    };
    let answer = if record["status"].is_null() { "none".to_owned() } else { record["status"].to_string() };
    vec![time(&record["time_millis"], ""), words(&record["sender"]).into_any(), what, answer.into_any()]
}
