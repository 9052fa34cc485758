//! How suggestions are written and chosen; kept between visits.

use crate::engine_link::EngineLink;
use crate::platform::storage;
use crate::wire::ExecutorChoice;
use beckon_shared::sampling::Sampling;
use leptos::prelude::*;
use serde::{Deserialize, Serialize};

/// What is stored, with bounds applied on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Values {
    candidates: f64,
    shown: f64,
    temperature: f64,
    top_p: f64,
    seed: f64,
    tokens: f64,
}

impl Default for Values {
    fn default() -> Self {
        Self { candidates: 8.0, shown: 3.0, temperature: 0.8, top_p: 0.95, seed: 0.0, tokens: 16.0 }
    }
}

/// A number of the form.
struct Knob {
    testid: &'static str,
    label: &'static str,
    help: &'static str,
    bounds: (f64, f64),
    step: &'static str,
    get: fn(&mut Values) -> &mut f64,
}

const KNOBS: [Knob; 6] = [
    Knob {
        testid: "setting-candidates",
        label: "Candidates (M)",
        help: "Written as one batch from one prefill.",
        bounds: (1.0, 16.0),
        step: "1",
        get: |v| &mut v.candidates,
    },
    Knob {
        testid: "setting-shown",
        label: "Shown (K)",
        help: "Best by mean minus epistemic spread; near copies left out.",
        bounds: (1.0, 16.0),
        step: "1",
        get: |v| &mut v.shown,
    },
    Knob {
        testid: "setting-temperature",
        label: "Temperature",
        help: "0 always takes the likeliest token.",
        bounds: (0.0, 4.0),
        step: "0.1",
        get: |v| &mut v.temperature,
    },
    Knob {
        testid: "setting-top-p",
        label: "Top-p",
        help: "Draw from the likeliest tokens of this total mass.",
        bounds: (0.05, 1.0),
        step: "0.05",
        get: |v| &mut v.top_p,
    },
    Knob {
        testid: "setting-seed",
        label: "Seed",
        help: "The same seed gives the same suggestions.",
        bounds: (0.0, 9e15),
        step: "1",
        get: |v| &mut v.seed,
    },
    Knob {
        testid: "setting-tokens",
        label: "Longest, tokens",
        help: "A suggestion cut off here is not shown.",
        bounds: (1.0, 48.0),
        step: "1",
        get: |v| &mut v.tokens,
    },
];

/// The settings.
#[derive(Clone, Copy)]
pub struct Settings(RwSignal<Values>);

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the knobs")]
impl Settings {
    /// As left at the last visit.
    pub fn load() -> Self {
        let mut values: Values = storage::load("preview").unwrap_or_default();
        for knob in &KNOBS {
            let value = (knob.get)(&mut values);
            *value = value.clamp(knob.bounds.0, knob.bounds.1);
        }
        let settings = Self(RwSignal::new(values));
        Effect::new(move || storage::save("preview", &settings.0.get()));
        settings
    }

    /// M.
    pub fn n_candidates(&self) -> usize {
        self.0.get_untracked().candidates as usize
    }

    /// K, tracked.
    pub fn n_shown(&self) -> usize {
        self.0.get().shown as usize
    }

    /// Longest suggestion.
    pub fn max_new_tokens(&self) -> usize {
        self.0.get_untracked().tokens as usize
    }

    /// For the engine.
    pub fn sampling(&self) -> Sampling {
        let v = self.0.get_untracked();
        Sampling { temperature: v.temperature as f32, top_k: 0, top_p: v.top_p as f32, seed: v.seed as u64 }
    }
}

/// The settings' form.
#[component]
pub fn SettingsForm(settings: Settings, engine: EngineLink) -> impl IntoView {
    let input = move |knob: &'static Knob| {
        let read = move || {
            let mut values = settings.0.get();
            *(knob.get)(&mut values)
        };
        // what is no number, or out of bounds, leaves the setting as it was
        let write = move |ev: leptos::ev::Event| {
            let typed = event_target_value(&ev).parse::<f64>().ok();
            let typed = typed.filter(|x| (knob.bounds.0..=knob.bounds.1).contains(x));
            match typed {
                Some(value) => settings.0.update(|values| *(knob.get)(values) = value),
                None => settings.0.update(|_| {}),
            }
        };
        view! {
            <label class="setting">
                <span>{knob.label}</span>
                <input type="number" data-testid=knob.testid min=knob.bounds.0 max=knob.bounds.1 step=knob.step
                    prop:value=move || read().to_string() on:change=write/>
                <small class="muted">{knob.help}</small>
            </label>
        }
    };
    let set_choice = move |ev| {
        engine.choice.set(match event_target_value(&ev).as_str() {
            "cpu" => ExecutorChoice::Cpu,
            "gpu" => ExecutorChoice::Gpu,
            _ => ExecutorChoice::Auto,
        });
    };
    let choice = move || match engine.choice.get() {
        ExecutorChoice::Auto => "auto",
        ExecutorChoice::Cpu => "cpu",
        ExecutorChoice::Gpu => "gpu",
    };
    view! {
        <details class="grow">
            <summary>"Settings"</summary>
            <div class="settings">
                {KNOBS.iter().map(input).collect_view()}
                <label class="setting">
                    <span>"Executor"</span>
                    <select data-testid="setting-executor" prop:value=choice on:change=set_choice>
                        <option value="auto">"the faster one"</option>
                        <option value="cpu">"CPU (wasm)"</option>
                        <option value="gpu">"GPU (WebGPU)"</option>
                    </select>
                    <small class="muted">"Used only after it passed the self-test."</small>
                </label>
            </div>
        </details>
    }
}
