//! One checkpoint: which one, what runs it and why, and its suggestions.

use super::Answer;
use super::settings::Settings;
use crate::component::progress::{Elapsed, Progress};
use crate::component::simulated::SimulatedBadge;
use crate::component::spread::Spread;
use crate::engine_link::{EngineLink, Opened};
use crate::format;
use crate::live::Live;
use crate::platform::dom::{self, json_address};
use crate::slate;
use crate::wire::{ExecutorKind, Gguf, Loaded, Memory, Over, Side, Suggested, Suggestion};
use beckon_shared::engine::Score;
use leptos::prelude::*;

/// The column of one side.
#[component]
pub fn Column(
    side: Side,
    answer: Answer,
    #[prop(into)] axis: Signal<(f64, f64)>,
    settings: Settings,
    take: Callback<String>,
) -> impl IntoView {
    let engine = expect_context::<EngineLink>();
    let state = engine.side(side);
    let loading = Signal::derive(move || state.progress.with(Option::is_some));
    let label = Signal::derive(move || {
        state.progress.with(|p| p.as_ref().map_or(String::new(), |p| format!("{}: {}", p.name, p.step.label())))
    });
    let share = Signal::derive(move || {
        // a step that takes long without a count moves instead
        state.progress.with(|p| p.as_ref().and_then(|p| p.share))
    });
    let on_drop = move |ev: leptos::ev::DragEvent| {
        ev.prevent_default();
        if let Some(file) = dom::dropped_file(&ev) {
            engine.open(side, Opened::Picked(file));
        }
    };
    view! {
        <section
            class="card"
            data-testid="column"
            data-side=side.letter()
            on:dragover=|ev| ev.prevent_default()
            on:drop=on_drop
        >
            <Picker side=side/>
            <Show when=move || loading.get()><Progress label=label share=share testid="load-progress"/></Show>
            {move || state.failure.get().map(|text| view! {
                <p class="error" role="alert" data-testid="engine-failure">
                    {text} " "
                    <button type="button" data-testid="engine-retry" on:click=move |_| engine.retry(side, false)>"Try again"</button>
                    {move || state.has_whole.get().then(|| view! {
                        <button type="button" data-testid="engine-whole" on:click=move |_| engine.retry(side, true)>
                            "Load the whole file instead"
                        </button>
                    })}
                </p>
            })}
            {move || state.loaded.get().map(|loaded| view! { <Status loaded=loaded/> })}
            {move || answer.failure.get().map(|text| view! { <p class="error" role="alert" data-testid="suggest-error">{text}</p> })}
            {move || answer.busy.get().then(|| view! { <p class="muted">"Writing and scoring… " <Elapsed/></p> })}
            {move || answer.suggested.get().map(|s| view! { <Suggestions suggested=s axis=axis settings=settings take=take/> })}
        </section>
    }
}

#[component]
fn Picker(side: Side) -> impl IntoView {
    let (engine, live) = (expect_context::<EngineLink>(), expect_context::<Live>());
    let pick = engine.side(side).pick;
    let options = move || {
        live.checkpoints.with(|list| {
            let list = list.value().cloned().unwrap_or_default();
            let opened = engine.opened.get();
            opened
                .into_iter()
                .chain(list)
                .map(|c| {
                    let about = if c.simulated { ", simulated clicks" } else { "" };
                    let built_in = if c.built_in { ", built in" } else { "" };
                    let text = format!("{} {}{about}{built_in}", c.name, format::short_id(&c.id));
                    let id = c.id.clone();
                    let selected = move || pick.with(|p| p.as_ref() == Some(&id));
                    view! { <option value=c.id.clone() selected=selected>{text}</option> }
                })
                .collect_view()
        })
    };
    let change = move |ev| {
        let id = event_target_value(&ev);
        pick.set((!id.is_empty()).then_some(id));
    };
    let empty = move || live.checkpoints.with(|c| c.value().is_some_and(Vec::is_empty));
    view! {
        <label>{format!("Checkpoint {}", side.letter())}
            <select data-testid="checkpoint-pick" on:change=change>
                {(side == Side::A).then(|| view! { <option value="">"the newest, followed as runs finish"</option> })}
                {options}
            </select>
        </label>
        <label>"or a GGUF file, which does not leave this browser"
            <input type="file" accept=".gguf" data-testid="gguf-file"
                on:change=move |ev| if let Some(file) = dom::picked_file(&ev) { engine.open(side, Opened::Picked(file)) }/>
        </label>
        <Show when=empty><p class="muted">"The server has no checkpoint yet; finish a run on Train."</p></Show>
    }
}

/// What runs, and why.
#[component]
fn Status(loaded: Loaded) -> impl IntoView {
    let c = loaded.checkpoint;
    let executor = if loaded.executor == ExecutorKind::Cpu { "cpu" } else { "gpu" };
    let test = loaded.self_test.map(|t| {
        format!(
            "Self-test: {} logits, largest difference {:.5} of {:.4} allowed. ",
            format::count(t.n_compared as u64),
            t.max_abs_diff,
            t.tolerance
        )
    });
    let from = match (&loaded.gguf, loaded.n_fetched_bytes) {
        (Some(Gguf::Picked), _) => "read from your disk, sent nowhere".to_owned(),
        (_, 0) => "from this browser's cache".to_owned(),
        (_, n) => format!("{} fetched", format::bytes(n)),
    };
    let quota = loaded.quota.map(|[used, allowed]| {
        format!("This browser keeps {} of at most {}. ", format::bytes(used as u64), format::bytes(allowed as u64))
    });
    let over = loaded.over.map(|Over { adapter, base }| {
        let saved = format::bytes(c.n_bytes.saturating_sub(adapter.n_bytes));
        let size = format::bytes(adapter.n_bytes);
        view! {
            <p data-testid="adapter-status" data-base=base.id.clone() data-adapter=adapter.id.clone()>
                <span class="badge">"Adapter"</span> " "
                <code title=adapter.id.clone()>{format::short_id(&adapter.id).to_owned()}</code>
                {format!(" ({size}) over base ")} <strong>{base.name}</strong> " "
                <code title=base.id.clone()>{format::short_id(&base.id).to_owned()}</code>
                {format!(", which is here: {saved} less than the whole checkpoint")}
            </p>
        }
    });
    let n = u64::from(c.simulated);
    view! {
        <div class="engine" data-testid="engine-status" data-executor=executor data-checkpoint=c.id.clone()
            data-fetched=loaded.n_fetched_bytes.to_string()>
            <p>
                <strong>{c.name.clone()}</strong> " " <code title=c.id.clone()>{format::short_id(&c.id).to_owned()}</code> " "
                <SimulatedBadge n=n of=1/>
                {format!(" {:.1} M parameters, {}, {from}, ready in {}", loaded.n_params as f64 / 1e6, format::bytes(c.n_bytes), format::duration(loaded.load_secs))}
            </p>
            {over}
            <p>
                <span class="badge">{loaded.executor.label()}</span> " " {loaded.adapter} " · "
                <span data-testid="executor-why">{loaded.why}</span>
            </p>
            <p class="muted" data-testid="engine-notice">{test}{quota}{loaded.notice}</p>
        </div>
    }
}

#[component]
fn Suggestions(
    suggested: Suggested,
    #[prop(into)] axis: Signal<(f64, f64)>,
    settings: Settings,
    take: Callback<String>,
) -> impl IntoView {
    let secs = suggested.prefill_secs + suggested.decode_secs + suggested.score_secs;
    let timings = format!(
        "{} tokens/s decoding {} candidates at once · prefill {} ({} tokens), decode {} ({} tokens), score {} · {} in all",
        format::value(suggested.n_decoded_tokens as f64 / suggested.decode_secs.max(1e-6)),
        suggested.candidates.len(),
        format::millis(suggested.prefill_secs),
        suggested.n_prompt_tokens,
        format::millis(suggested.decode_secs),
        suggested.n_decoded_tokens,
        format::millis(suggested.score_secs),
        format::millis(secs),
    );
    let Memory { wasm_bytes, device_bytes } = suggested.memory;
    let memory = format!(" · memory {}, GPU {}", format::bytes(wasm_bytes), format::bytes(device_bytes));
    let recording = json_address(&suggested.recording);
    let replay_of = suggested.engine.gguf.as_ref().map(|_| " --checkpoint MODEL.gguf");
    let again = match suggested.engine.executor {
        ExecutorKind::Cpu => " writes the same again.",
        ExecutorKind::Gpu => " writes the same again, up to the rounding of the GPU.",
    };
    let candidates = suggested.candidates;
    let lists = move || {
        let slate = slate::choose(&candidates, settings.n_shown());
        let chosen = slate.chosen.iter().map(|&i| chip(candidates[i].clone(), None, axis, take)).collect_view();
        let none = slate.chosen.is_empty().then(|| {
            view! {
                <p class="muted">"No candidate is fit to be shown; another seed or more tokens may help."</p>
            }
        });
        let passed = slate
            .passed
            .iter()
            .map(|&(i, why)| chip(candidates[i].clone(), Some(why.reason()), axis, take))
            .collect_view();
        let n = slate.passed.len();
        view! {
            {none}
            <ul class="suggestions">{chosen}</ul>
            {(n > 0).then(|| view! {
                <details data-testid="more-candidates">
                    <summary>{format!("{n} more candidates, not shown to a user")}</summary>
                    <ul class="suggestions">{passed}</ul>
                </details>
            })}
        }
    };
    view! {
        {lists}
        {suggested.fills_context.then(|| view! {
            <p class="muted" data-testid="context-full">
                {format!("The conversation fills the model's context of {} tokens: what is older is not read.", suggested.engine.max_seq_len)}
            </p>
        })}
        <p class="muted num" data-testid="timings">{timings}{memory}</p>
        <p class="muted">
            <a href=recording download="replay.json" data-testid="recording">"Save for replay"</a>
            ": " <code>"beckon replay replay.json" {replay_of}</code> {again}
        </p>
    }
}

/// A suggestion as a button; taking it makes it the next user turn.
fn chip(
    s: Suggestion,
    why_not: Option<&'static str>,
    axis: Signal<(f64, f64)>,
    take: Callback<String>,
) -> impl IntoView {
    let likely = format!("log-probability {:.1} nats over {} tokens", s.logp_nats, s.n_tokens);
    let (numbers, spoken) = match &s.score {
        None => ("not scored".to_owned(), format!("this checkpoint has no reward model; {likely}")),
        Some(score) => {
            let mean = format::signed(f64::from(score.reward_mean), 2);
            let (aleatoric, epistemic) = (score.aleatoric_std, score.epistemic_std);
            let spreads = format!("aleatoric standard deviation {aleatoric:.2}, epistemic {epistemic:.2}");
            (format!("{mean} ± {:.2}", score.reward_std()), format!("GaRM mean {mean}, {spreads}; {likely}"))
        }
    };
    let part = |of: fn(&Score) -> f32| s.score.as_ref().map(|score| of(score).to_string());
    let title = spoken.clone();
    let text = s.text.trim().to_owned();
    let shown = if text.is_empty() { "(nothing)".to_owned() } else { text.clone() };
    view! {
        <li>
            <button
                type="button"
                class="chip"
                data-testid="chip"
                data-mean=part(|score| score.reward_mean)
                data-aleatoric=part(|score| score.aleatoric_std)
                data-epistemic=part(|score| score.epistemic_std)
                title=title
                prop:disabled=text.is_empty()
                on:click=move |_| take.run(text.clone())
            >
                {shown}
            </button>
            {s.score.map(|score| view! { <Spread score=score axis=axis/> })}
            <span class="num">{numbers}<span class="visually-hidden">{spoken}</span></span>
            {why_not.map(|why| view! { <span class="muted">{why}</span> })}
        </li>
    }
}
