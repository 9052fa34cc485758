//! The form that starts a run. Defaults come from the preset; what the server refuses is shown at the field.

use crate::api;
use crate::live::Live;
use crate::platform::{dom, spawn};
use crate::route::Route;
use crate::run_form::{FIELDS, Field, RunForm, field_named_in};
use beckon_shared::config::Preset;
use beckon_shared::control::DeviceChoice;
use leptos::prelude::*;

// reason: state, handlers and one view belong together
/// The form.
#[component]
pub fn RunFormCard() -> impl IntoView {
    let live = expect_context::<Live>();
    let form = RwSignal::new(RunForm::default());
    let faults = RwSignal::new(Vec::<(String, String)>::new());
    let busy = RwSignal::new(false);
    let create = move |draft: bool| {
        let config = match form.with_untracked(RunForm::config) {
            Ok(config) => config,
            Err(found) => return faults.set(found),
        };
        faults.set(Vec::new());
        busy.set(true);
        let asked_at = live.run_events();
        spawn(async move {
            match api::create_run(&config, draft).await {
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
    let set_preset = move |ev| {
        let preset = if event_target_value(&ev) == "nano" { Preset::Nano } else { Preset::Tiny };
        form.update(|f| {
            f.preset = preset;
            f.changed.clear();
        });
    };
    let set_device = move |ev| {
        let device = match event_target_value(&ev).as_str() {
            "cpu" => DeviceChoice::Cpu,
            "gpu" => DeviceChoice::Gpu,
            "lent" => DeviceChoice::Lent,
            _ => DeviceChoice::Auto,
        };
        form.update(|f| f.device = device);
    };
    view! {
        <form class="card" data-testid="run-form" on:submit=start novalidate>
            <h2>"Start a run"</h2>
            <div class="form-row">
                <label class="wide">"Model"
                    <select data-testid="run-preset" on:change=set_preset>
                        <option value="tiny">"tiny: 0.1 M parameters, minutes"</option>
                        <option value="nano">"nano: 4.2 M parameters, about half an hour"</option>
                    </select>
                </label>
                <label>"Name"
                    <input type="text" data-testid="run-name" placeholder="as the model" maxlength="80"
                        on:input=move |ev| form.update(|f| f.name = event_target_value(&ev))/>
                </label>
                <label>"Seed"
                    <input type="text" inputmode="numeric" data-testid="run-seed" prop:value=move || form.with(|f| f.seed.clone())
                        on:input=move |ev| form.update(|f| f.seed = event_target_value(&ev))/>
                </label>
                <label>"Device"
                    <select data-testid="run-device" on:change=set_device>
                        <option value="auto">"GPU if there is one"</option>
                        <option value="cpu">"CPU"</option>
                        <option value="gpu">"GPU"</option>
                        <option value="lent">"Lent to the server"</option>
                    </select>
                </label>
            </div>
            <details data-testid="run-settings">
                <summary>"Settings"</summary>
                {["SFT", "GaRM", "RL", "Run"].map(|group| view! { <Group group=group form=form faults=faults/> }).collect_view()}
            </details>
            {move || faults.with(|found| {
                found.iter().map(|(path, text)| view! {
                    <p class="error" role="alert" data-testid="run-error">{if path == "form" { text.clone() } else { format!("{path}: {text}") }}</p>
                }).collect_view()
            })}
            <div class="form-row">
                <button class="primary" type="submit" data-testid="run-start" prop:disabled=move || busy.get()>"Start the loop"</button>
                <button type="button" data-testid="run-draft" prop:disabled=move || busy.get() on:click=move |_| create(true)
                    title="Keeps the run with its settings; it waits until it is started">"Make a draft"</button>
            </div>
        </form>
    }
}

#[component]
fn Group(group: &'static str, form: RwSignal<RunForm>, faults: RwSignal<Vec<(String, String)>>) -> impl IntoView {
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
            <legend>{group}</legend>
            <div class="settings">{FIELDS.iter().filter(|f| f.group == group).map(input).collect_view()}</div>
        </fieldset>
    }
}
