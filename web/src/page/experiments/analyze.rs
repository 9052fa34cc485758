//! The analysis of a test that ran elsewhere, from a file. The server computes, and keeps nothing of it.

use super::results::ReportView;
use crate::analysis_form::{AnalysisForm, SETTINGS};
use crate::api;
use crate::component::field::{failed, select_field, text_field};
use crate::component::simulated::SimulatedBadge;
use crate::component::table::table;
use crate::format;
use crate::platform::dom;
use crate::platform::http::Body;
use beckon_shared::ab::report::Report;
use leptos::prelude::*;
use serde_json::Value;

/// What a file may hold, as the server names it, and in words.
const FORMATS: [(&str, &str); 3] =
    [("table", "counts of arms, or rows of users"), ("log", "our own click log"), ("upworthy", "Upworthy archive")];

/// A file that was picked: its name and text.
type Picked = RwSignal<(String, String)>;

/// The form with what came of it.
pub fn analyzer() -> AnyView {
    let field = |begin: &str| RwSignal::new(begin.to_owned());
    let (format, experiment, strata, settings) = (field("table"), field(""), field(""), field(SETTINGS));
    let nothing = || RwSignal::new((String::new(), String::new()));
    let (file, looks): (Picked, Picked) = (nothing(), nothing());
    let outcome = RwSignal::new(None::<Result<Value, String>>);
    let ask = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let form = AnalysisForm {
            format: format.get_untracked(),
            experiment: experiment.get_untracked(),
            strata: strata.get_untracked(),
            settings: settings.get_untracked(),
            looks: looks.with_untracked(|(_, text)| text.clone()),
        };
        let wish = file.with_untracked(|(name, text)| match name.as_str() {
            "" => Err("Choose a file first.".to_owned()),
            _ => form.wish(text),
        });
        match wish {
            Ok(wish) => api::call("POST", "/api/analyze".to_owned(), Body::Json(wish.to_string()), move |answer| {
                outcome.set(Some(answer.map(|answer| answer.value)));
            }),
            Err(text) => outcome.set(Some(Err(text))),
        }
    };
    let formats = || FORMATS.map(|(name, shown)| (name.to_owned(), shown.to_owned())).to_vec();
    let shown = move || {
        outcome.get().map(|outcome| match outcome {
            Ok(answer) => answer_view(&answer),
            Err(text) => failed("analyze-error", text),
        })
    };
    view! {
        <section class="card">
            <details>
                <summary>"Analyse a test that ran elsewhere"</summary>
                {columns()}
                <form data-testid="analyze-form" on:submit=ask>
                    <div class="form-row">
                        {file_field("File", "analyze-file", file, outcome)}
                        {select_field("It holds", "analyze-format", format, Box::new(formats))}
                        {text_field("Experiment, of a click log", "analyze-experiment", "text", experiment, false)}
                        {text_field("More strata (columns)", "analyze-strata", "text", strata, false)}
                    </div>
                    <details>
                        <summary>"Settings, decided before looking"</summary>
                        <textarea class="json" rows="12" spellcheck="false" aria-label="Settings as JSON" data-testid="analyze-settings"
                            prop:value=move || settings.get() on:input=move |ev| settings.set(event_target_value(&ev))></textarea>
                        {file_field("Looks so far, where this is not the first look", "analyze-looks", looks, outcome)}
                    </details>
                    <div class="form-row"><button type="submit" data-testid="analyze-ask">"Analyse"</button></div>
                </form>
                {shown}
            </details>
        </section>
    }
    .into_any()
}

/// What the less plain columns mean.
fn columns() -> AnyView {
    view! {
        <p class="muted">
            "CSV with a header, or one JSON object a line: counts as "<code>"arm,users,clicks"</code>" or "
            <code>"arm,impressions,clicks"</code>", or one row a user: "<code>"user,arm,impressions,clicks"</code>
            " and, where known, "<code>"day"</code>", "<code>"pre_impressions,pre_clicks"</code>", "
            <code>"requests,no_suggestion"</code>", "<code>"latency_millis_sum"</code>", "<code>"device_tier"</code>", "
            <code>"browser"</code>". The first arm is the control. At most 16 MiB; nothing is kept."
        </p>
    }
    .into_any()
}

/// A file to pick, with the name of the one that was.
fn file_field(
    label: &'static str,
    testid: &'static str,
    picked: Picked,
    outcome: RwSignal<Option<Result<Value, String>>>,
) -> AnyView {
    let pick = move |ev| {
        dom::picked_text(&ev, move |name, text| match text {
            Ok(text) => picked.set((name, text)),
            Err(error) => outcome.set(Some(Err(format!("{name}: {error}")))),
        });
    };
    view! {
        <label>{label}
            <input type="file" data-testid=testid on:change=pick/>
            <small class="muted" data-testid=format!("{testid}-name")>{move || picked.with(|(name, _)| name.clone())}</small>
        </label>
    }
    .into_any()
}

fn answer_view(answer: &Value) -> AnyView {
    if answer["headlines"].is_object() {
        return headlines_view(&answer["headlines"]);
    }
    let report = match serde_json::from_value::<Report>(answer["report"].clone()) {
        Ok(report) => report,
        Err(error) => {
            return failed("analyze-error", format!("The page does not know this report ({error}); reload it."));
        }
    };
    let looks = dom::json_address(&answer["looks"].to_string());
    view! {
        <div class="result" data-testid="analyze-report">
            <SimulatedBadge n=u64::from(report.simulated) of=1/>
            <ReportView report=report/>
            <p>
                <a class="button" data-testid="analyze-looks-out" href=looks download="looks.json">"Keep the looks"</a>
                " Give them along with the next look at this test, under its settings: then what is said holds at any look."
            </p>
        </div>
    }
    .into_any()
}

/// Many small tests: how many there are, and those that Holm rejects.
fn headlines_view(report: &Value) -> AnyView {
    let n = |key: &str| format::count(report[key].as_u64().unwrap_or_default());
    let said = format!(
        "{} tests of {} headlines; {} have enough clicks for a test. Headlines differ in {} of these taken alone, in {} by Holm over \
         all. Impressions are uneven in {}.",
        n("n_tests"),
        n("n_headlines"),
        n("n_tested"),
        n("n_below_alpha"),
        n("n_rejected"),
        n("n_sample_ratio_mismatches")
    );
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let headline = |headline: Value| {
        let rate = format::percent(headline["ctr"].as_f64().unwrap_or(f64::NAN), 2);
        view! { <div><span class="num">{rate}</span>" "{headline["text"].as_str().unwrap_or_default().to_owned()}</div> }
    };
    let row = |test: Value| {
        let p = format::value(test["p_holm"].as_f64().unwrap_or(f64::NAN));
        let headlines = list(&test, "headlines").into_iter().map(headline).collect_view();
        vec![test["name"].as_str().unwrap_or_default().to_owned().into_any(), p.into_any(), headlines.into_any()]
    };
    let rows = list(report, "tests").into_iter().map(row).collect();
    view! {
        <div class="result" role="status">
            <p data-testid="analyze-headlines">{said}</p>
            {table("analyze-tests", &["test", "p by Holm", "click rates"], rows)}
        </div>
    }
    .into_any()
}
