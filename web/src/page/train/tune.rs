//! Values that may change while a run trains, and those that did.

use crate::api;
use crate::component::field::{failed, text_field};
use crate::format;
use crate::live::{Live, stage_label};
use crate::platform::spawn;
use beckon_shared::control::command::Command;
use beckon_shared::control::tuning::{Change, Tuning};
use beckon_shared::control::{RunStatus, Stage};
use beckon_shared::reward::components::NAMES;
use leptos::prelude::*;

/// Stage, name and test id of each value that may change.
const FIELDS: [(Stage, &str, &str); 6] = [
    (Stage::Sft, "Learning rate of SFT", "tune-sft-rate"),
    (Stage::Garm, "Learning rate of GaRM", "tune-garm-rate"),
    (Stage::Rl, "Learning rate of RL", "tune-rl-rate"),
    (Stage::Rl, "KL weight of RL", "tune-kl-beta"),
    (Stage::Rl, "KL budget of RL, nats", "tune-kl-budget"),
    (Stage::Rl, "Fusion weights of RL", "tune-fusion-weights"),
];

/// The form while there is something to change, and what was changed.
pub fn tune(run: Memo<Option<RunStatus>>) -> AnyView {
    let live = expect_context::<Live>();
    let failure = RwSignal::new(None::<String>);
    let values = FIELDS.map(|_| RwSignal::new(String::new()));
    let open = move || run.with(|r| r.as_ref().is_some_and(|r| !r.state.is_final()));
    let stage = Memo::new(move |_| run.with(|r| r.as_ref().and_then(|r| r.stage)));
    let send = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let Some(id) = run.with_untracked(|r| r.as_ref().map(|r| r.id.clone())) else { return };
        let tuning = match tuning_from_text(stage.get_untracked(), &values.map(|v| v.get_untracked())) {
            Ok(tuning) => tuning,
            Err(text) => return failure.set(Some(text)),
        };
        failure.set(None);
        let asked_at = live.run_events();
        spawn(async move {
            match api::command(&Command::TuneRun { run: id, tuning }).await {
                Ok(status) => {
                    values.iter().for_each(|value| value.set(String::new()));
                    live.announce("The change is kept");
                    live.answered(asked_at, status);
                }
                Err(error) => failure.set(Some(error.to_string())),
            }
        });
    };
    // a stage that has ended has nothing left to change
    let field = move |((of, label, testid), value): ((Stage, &'static str, &'static str), RwSignal<String>)| {
        move || stage.get().is_none_or(|now| now <= of).then(|| text_field(label, testid, "text", value, false))
    };
    let fields = move || FIELDS.into_iter().zip(values).map(field).collect_view();
    let changes = move || {
        run.with(|r| r.as_ref().map(|r| r.changes.iter().map(change_in_words).collect::<Vec<_>>())).unwrap_or_default()
    };
    let weights = move || run.with(|r| r.as_ref().map(weights_in_words));
    view! {
        <Show when=open>
            <details>
                <summary>"Change while it trains"</summary>
                <form data-testid="run-tune" on:submit=send>
                    <div class="settings">{fields()}</div>
                    <div class="form-row"><button type="submit" data-testid="tune-send">"Change from the next step"</button></div>
                </form>
                <p class="muted">
                    "An empty field changes nothing. Each change is kept with the step from which it holds, so the run stays reproducible. "
                    {weights}
                </p>
                {move || failure.get().map(|text| failed("tune-error", text))}
            </details>
        </Show>
        <ul class="muted" data-testid="tune-changes">
            {move || changes().into_iter().map(|text| view! { <li>{text}</li> }).collect_view()}
        </ul>
    }
    .into_any()
}

/// What the fusion weights are of, and as they are now.
fn weights_in_words(run: &RunStatus) -> String {
    let tuned = run.changes.iter().rev().find_map(|change| change.tuning.rl.fusion_weights.clone());
    let now = tuned.unwrap_or_else(|| run.config.rl.weights.to_array().to_vec());
    let shown: Vec<String> = now.iter().map(ToString::to_string).collect();
    format!("Fusion weights are those of {}, in this order; now {}.", NAMES.join(", "), shown.join(", "))
}

/// The change that the fields describe; an empty field changes nothing.
fn tuning_from_text(stage: Option<Stage>, texts: &[String; 6]) -> Result<Tuning, String> {
    let parsed =
        |at: usize, text: &str| text.parse::<f64>().map_err(|_| format!("{}: {text:?} is not a number", FIELDS[at].1));
    let number = |at: usize| match texts[at].trim() {
        "" => Ok(None),
        text => parsed(at, text).map(Some),
    };
    let mut tuning = Tuning::default();
    tuning.sft.learning_rate = number(0)?;
    tuning.garm.learning_rate = number(1)?;
    tuning.rl.learning_rate = number(2)?;
    tuning.rl.kl_beta = number(3)?;
    tuning.rl.kl_budget_nats = number(4)?;
    let weights = texts[5].trim();
    if !weights.is_empty() {
        let weights: Result<Vec<f64>, String> = weights.split(',').map(|text| parsed(5, text.trim())).collect();
        tuning.rl.fusion_weights = Some(weights?);
    }
    tuning.check(stage).map(|()| tuning).map_err(|error| error.to_string())
}

fn change_in_words(change: &Change) -> String {
    let Tuning { sft, garm, rl } = &change.tuning;
    let named = [
        ("SFT learning rate", sft.learning_rate),
        ("GaRM learning rate", garm.learning_rate),
        ("RL learning rate", rl.learning_rate),
        ("KL weight", rl.kl_beta),
        ("KL budget", rl.kl_budget_nats),
    ];
    let mut parts: Vec<String> =
        named.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", format::value(value?)))).collect();
    parts.extend(rl.fusion_weights.as_ref().map(|weights| format!("fusion weights {weights:?}")));
    let when = match change.at {
        Some(at) => format!("from {} step {} on", stage_label(at.stage), at.step),
        None => "from the next step on".to_owned(),
    };
    format!("{} {when}", parts.join(", "))
}
