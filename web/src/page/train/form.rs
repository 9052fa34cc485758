//! The form that starts a run, from scratch or from a checkpoint. Untouched fields show what the run has without them; what the
//! server refuses is shown at the field, or beside the JSON that has no field.

use crate::api;
use crate::component::field::failed;
use crate::live::Live;
use crate::platform::http::Body;
use crate::platform::{dom, spawn};
use crate::route::Route;
use crate::run_form::{FIELDS, Field, JSON, RunForm, field_named_in};
use beckon_shared::config::Preset;
use beckon_shared::control::RunStatus;
use beckon_shared::control::command::Command;
use leptos::prelude::*;
use serde_json::Value;

/// What is wrong, by path.
type Faults = RwSignal<Vec<(String, String)>>;

// reason: state, handlers and one view belong together
/// The form; `parent` is a checkpoint to start from, with the configuration of the run that made it.
pub fn run_form(parent: Option<(String, Value)>) -> AnyView {
    let live = expect_context::<Live>();
    let (parent, base) = parent.unzip();
    let from_scratch = parent.is_none();
    let parent = StoredValue::new(parent);
    let form = RwSignal::new(base.map_or_else(RunForm::default, RunForm::from_checkpoint));
    let faults: Faults = RwSignal::new(Vec::new());
    let busy = RwSignal::new(false);
    let create = move |draft: bool| {
        let config = match form.with_untracked(RunForm::config) {
            Ok(config) => config,
            Err(found) => return faults.set(found),
        };
        let command = match parent.get_value() {
            Some(checkpoint) => Command::Branch { checkpoint, config },
            None => Command::CreateRun { config, draft },
        };
        faults.set(Vec::new());
        busy.set(true);
        let asked_at = live.run_events();
        spawn(async move {
            match api::command::<RunStatus>(&command).await {
                Ok(run) => {
                    let href = Route::Train(Some(run.id.clone())).href();
                    live.answered(asked_at, run);
                    dom::go(&href);
                }
                Err(error) => {
                    let text = error.to_string();
                    let path = field_named_in(&text).unwrap_or("form");
                    faults.set(vec![(path.to_owned(), text)]);
                }
            }
            busy.set(false);
        });
    };
    let start = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        create(false);
    };
    let said = move |(path, text): &(String, String)| {
        let text = if path == "form" { text.clone() } else { format!("{path}: {text}") };
        (path != JSON).then(|| failed("run-error", text))
    };
    view! {
        <form class:card=from_scratch data-testid="run-form" on:submit=start novalidate>
            {from_scratch.then(|| view! { <h2>"Start a run"</h2> })}
            {basics(form, from_scratch)}
            <details data-testid="run-settings">
                <summary>"Settings"</summary>
                {["SFT", "GaRM", "RL", "Run"].into_iter().map(|name| group(name, form, faults)).collect_view()}
            </details>
            {other_settings(form, faults)}
            {move || faults.with(|found| found.iter().map(said).collect_view())}
            <div class="form-row">
                <button class="primary" type="submit" data-testid="run-start" prop:disabled=move || busy.get()>
                    {if from_scratch { "Start the loop" } else { "Start from this checkpoint" }}
                </button>
                {from_scratch.then(|| view! {
                    <button type="button" data-testid="run-draft" prop:disabled=move || busy.get() on:click=move |_| create(true)
                        title="Keeps the run with its settings; it waits until it is started">"Make a draft"</button>
                })}
            </div>
        </form>
    }
    .into_any()
}

/// Model, name, seed and device. A run from a checkpoint has its model.
fn basics(form: RwSignal<RunForm>, from_scratch: bool) -> AnyView {
    let set_preset = move |ev| {
        let preset = if event_target_value(&ev) == "nano" { Preset::Nano } else { Preset::Tiny };
        form.update(|f| {
            f.preset = preset;
            f.changed.clear();
        });
    };
    let device = form.with_untracked(|f| f.device.clone());
    let choices = [("auto", "GPU if there is one"), ("cpu", "CPU"), ("gpu", "GPU"), ("lent", "Lent to the server")];
    let choice = |(name, shown): (&'static str, &'static str)| {
        let selected = name == device;
        view! { <option value=name selected=selected>{shown}</option> }
    };
    view! {
        <div class="form-row">
            {from_scratch.then(|| view! {
                <label class="wide">"Model"
                    <select data-testid="run-preset" on:change=set_preset>
                        <option value="tiny">"tiny: 0.1 M parameters, minutes"</option>
                        <option value="nano">"nano: 4.2 M parameters, about half an hour"</option>
                    </select>
                </label>
            })}
            <label>"Name"
                <input type="text" data-testid="run-name" maxlength="80"
                    placeholder=if from_scratch { "as the model" } else { "as before" }
                    on:input=move |ev| form.update(|f| f.name = event_target_value(&ev))/>
            </label>
            <label>"Seed"
                <input type="text" inputmode="numeric" data-testid="run-seed" prop:value=move || form.with(|f| f.seed.clone())
                    on:input=move |ev| form.update(|f| f.seed = event_target_value(&ev))/>
            </label>
            <label>"Device"
                <select data-testid="run-device" on:change=move |ev| form.update(|f| f.device = event_target_value(&ev))>
                    {choices.into_iter().map(choice).collect_view()}
                </select>
            </label>
        </div>
    }
    .into_any()
}

fn group(name: &'static str, form: RwSignal<RunForm>, faults: Faults) -> AnyView {
    let input = move |field: &'static Field| {
        let path = field.path;
        let wrong = move || faults.with(|found| found.iter().any(|(at, _)| at == path));
        view! {
            <label class="setting">
                <span>{field.label}</span>
                <input
                    type="text"
                    inputmode="decimal"
                    name=path
                    data-testid=format!("setting-{path}")
                    aria-invalid=move || wrong().then_some("true")
                    prop:value=move || form.with(|f| f.text(path))
                    on:input=move |ev| form.update(|f| { f.changed.insert(path, event_target_value(&ev)); })
                />
                <small class="muted">{field.help}</small>
            </label>
        }
    };
    view! {
        <fieldset>
            <legend>{name}</legend>
            <div class="settings">{FIELDS.iter().filter(|f| f.group == name).map(input).collect_view()}</div>
        </fieldset>
    }
    .into_any()
}

/// What has no field, as JSON; and what the run would have with all of it, as the server reads it.
fn other_settings(form: RwSignal<RunForm>, faults: Faults) -> AnyView {
    let checked = RwSignal::new(None::<Result<String, String>>);
    let check = move || match form.with_untracked(RunForm::whole) {
        Ok(whole) => {
            faults.set(Vec::new());
            api::call("POST", "/api/runs/check".to_owned(), Body::Json(whole.to_string()), move |answer| {
                checked.set(Some(answer.map(|answer| format!("{:#}", answer.value))));
            });
        }
        Err(found) => {
            checked.set(None);
            faults.set(found);
        }
    };
    let wrong = move || faults.with(|found| found.iter().find(|(path, _)| path == JSON).map(|(_, text)| text.clone()));
    let outcome = move || match (wrong(), checked.get()) {
        (Some(text), _) | (None, Some(Err(text))) => failed("run-json-error", text),
        (None, Some(Ok(text))) => view! {
            <p class="result" role="status">"The server would take this. The run would have:"</p>
            <pre class="json log" tabindex="0" data-testid="run-checked">{text}</pre>
        }
        .into_any(),
        (None, None) => ().into_any(),
    };
    view! {
        <details>
            <summary>"All settings as JSON"</summary>
            <p class="muted">
                "Every setting has a name here, also those without a field: "<code>"preferences"</code>", "<code>"lora"</code>", "
                <code>"parent"</code>", "<code>"rl.weights"</code>", "<code>"rl.fusion"</code>", "<code>"micro_batch_tokens"</code>
                ". What you write is laid over the fields above; the check shows all names with their values. What each means: "
                <a href="/docs" target="_blank" rel="noopener">"interface"</a>", RunConfig."
            </p>
            <textarea class="json" rows="5" spellcheck="false" aria-label="Settings as JSON, laid over the fields" data-testid="run-json"
                placeholder="{\"lora\": {\"rank\": 8}}" aria-invalid=move || wrong().map(|_| "true")
                prop:value=move || form.with(|f| f.json.clone())
                on:input=move |ev| form.update(|f| f.json = event_target_value(&ev)) on:change=move |_| check()></textarea>
            <div class="form-row"><button type="button" data-testid="run-check" on:click=move |_| check()>"Check"</button></div>
            {outcome}
        </details>
    }
    .into_any()
}
