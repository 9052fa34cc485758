//! Bringing a log in: a file picked or dropped, or pasted text; what was refused is shown by line and field.

use crate::api;
use crate::component::progress::Elapsed;
use crate::format;
use crate::log_format::{FORMATS, detect};
use crate::platform::http::Body;
use crate::platform::{dom, spawn};
use beckon_shared::control::ImportOutcome;
use leptos::prelude::*;

/// Where an import stands.
#[derive(Clone)]
enum State {
    Idle,
    Sending(String),
    Done(ImportOutcome),
    Failed(String),
}

// reason: state, handlers and one view belong together
/// The form.
#[component]
pub fn ImportForm() -> impl IntoView {
    let choice = RwSignal::new("auto".to_owned());
    let pasted = RwSignal::new(String::new());
    let state = RwSignal::new(State::Idle);
    let over = RwSignal::new(false);
    let busy = move || state.with(|s| matches!(s, State::Sending(_)));
    let send = move |name: String, head: String, body: Body| {
        let chosen = choice.get_untracked();
        let format = if chosen == "auto" { detect(&head).map(str::to_owned) } else { Some(chosen) };
        let Some(format) = format else {
            state.set(State::Failed(format!("The format of {name} was not recognised; choose it in the list.")));
            return;
        };
        state.set(State::Sending(name.clone()));
        spawn(async move {
            state.set(match api::import(&format, &name, body).await {
                Ok(outcome) => State::Done(outcome),
                Err(error) => State::Failed(format!("{name} was not imported: {error}")),
            });
        });
    };
    let send_file = move |file: web_sys::File| {
        spawn(async move {
            let head = dom::file_head(&file).await;
            send(file.name(), head, Body::File(file));
        });
    };
    let on_drop = move |ev: leptos::ev::DragEvent| {
        ev.prevent_default();
        over.set(false);
        if let Some(file) = dom::dropped_file(&ev).filter(|_| !busy()) {
            send_file(file);
        }
    };
    let on_paste = move |_| {
        let text = pasted.get_untracked();
        if text.trim().is_empty() {
            state.set(State::Failed("Paste some lines first.".into()));
        } else {
            send("pasted".into(), text.clone(), Body::Text(text));
        }
    };
    view! {
        <section
            class="card drop"
            class:over=move || over.get()
            data-testid="import-form"
            on:dragover=move |ev| { ev.prevent_default(); over.set(true); }
            on:dragleave=move |_| over.set(false)
            on:drop=on_drop
        >
            <h2>"Bring a log in"</h2>
            <p class="muted">
                "Drop a file here, pick one, or paste lines. Our own format is one impression a line: "
                <a href=api::SCHEMA_URL>"JSON Schema"</a>"."
            </p>
            <div class="form-row">
                <label>"Format"
                    <select
                        data-testid="import-format"
                        prop:value=move || choice.get()
                        on:change=move |ev| choice.set(event_target_value(&ev))
                    >
                        <option value="auto">"recognise it"</option>
                        {FORMATS.iter().map(|f| view! { <option value=f.name>{f.label}</option> }).collect_view()}
                    </select>
                </label>
                <label>"File"
                    <input
                        type="file"
                        data-testid="import-file"
                        prop:disabled=busy
                        on:change=move |ev| { if let Some(file) = dom::picked_file(&ev) { send_file(file) } }
                    />
                </label>
            </div>
            <details>
                <summary>"Paste lines"</summary>
                <label class="visually-hidden" for="import-text">"Lines to import"</label>
                <textarea
                    id="import-text"
                    rows="4"
                    data-testid="import-text"
                    prop:value=move || pasted.get()
                    on:input=move |ev| pasted.set(event_target_value(&ev))
                ></textarea>
                <button type="button" data-testid="import-paste" prop:disabled=busy on:click=on_paste>"Import these lines"</button>
            </details>
            <div aria-live="polite">{move || outcome_view(state.get())}</div>
        </section>
    }
}

fn outcome_view(state: State) -> AnyView {
    match state {
        State::Idle => ().into_any(),
        State::Sending(name) => view! { <p>"Importing " {name} "… " <Elapsed/></p> }.into_any(),
        State::Failed(reason) => {
            view! { <p class="error" role="alert" data-testid="import-error">{reason}</p> }.into_any()
        }
        State::Done(outcome) => done_view(outcome).into_any(),
    }
}

fn done_view(outcome: ImportOutcome) -> impl IntoView {
    let none = outcome.n_accepted == 0 && outcome.n_rejected > 0;
    let row = |reject: beckon_shared::control::Reject| {
        view! {
            <tr data-testid="reject-row">
                <td class="num">{format::count(reject.line as u64)}</td>
                <td><code>{reject.field.unwrap_or_else(|| "–".into())}</code></td>
                <td>{reject.reason}</td>
                <td class="clip"><code>{reject.text}</code></td>
            </tr>
        }
    };
    let shown = outcome.rejects.len() as u64;
    let rejects = (!outcome.rejects.is_empty()).then(|| {
        view! {
            <div class="scroll"><table>
                <thead><tr><th class="num">"line"</th><th>"field"</th><th>"what is wrong"</th><th>"line as it came"</th></tr></thead>
                <tbody>{outcome.rejects.into_iter().map(row).collect_view()}</tbody>
            </table></div>
        }
    });
    let more = (outcome.n_rejected > shown)
        .then(|| view! { <p class="muted">{format!("The first {shown} of {} are shown.", format::count(outcome.n_rejected))}</p> });
    let file = outcome.rejects_file.map(|file| {
        view! { <p>"All refused lines are on the server in "<code>{file}</code>"; mend them there and import them again."</p> }
    });
    view! {
        <div
            class="result"
            class:error=none
            data-testid="import-result"
            data-accepted=outcome.n_accepted.to_string()
            data-duplicates=outcome.n_duplicates.to_string()
            data-rejected=outcome.n_rejected.to_string()
        >
            <p>
                {format!(
                    "{} accepted into {}, {} there already, {} refused.",
                    format::count(outcome.n_accepted), outcome.source,
                    format::count(outcome.n_duplicates), format::count(outcome.n_rejected),
                )}
            </p>
            {rejects} {more} {file}
        </div>
    }
}
