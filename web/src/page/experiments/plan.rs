//! How many users a test needs and how long that takes, before there is one. The server computes.

use crate::api;
use crate::component::field::{failed, text_field};
use crate::component::table::table;
use crate::format;
use crate::platform::http::{Body, encoded};
use leptos::prelude::*;
use serde_json::Value;

/// A field of the form.
struct Field {
    /// As the server names it.
    name: &'static str,
    testid: &'static str,
    label: &'static str,
    /// What stands in it at first; nothing where it has to be told or may be left out.
    begin: &'static str,
    /// Typed in per cent, sent as a share.
    percent: bool,
    required: bool,
}

impl Field {
    const fn percent(name: &'static str, testid: &'static str, label: &'static str, begin: &'static str) -> Self {
        Self { percent: true, ..Self::number(name, testid, label, begin) }
    }

    const fn number(name: &'static str, testid: &'static str, label: &'static str, begin: &'static str) -> Self {
        Self { name, testid, label, begin, percent: false, required: false }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

const FIELDS: [Field; 9] = [
    Field::percent("base_rate", "plan-base-rate", "Click rate of the control, %", "").required(),
    Field::percent("lift", "plan-lift", "Relative lift to detect, %", ""),
    Field::number("users", "plan-users", "Or the users in each arm that there will be", ""),
    Field::number("users_per_day", "plan-users-per-day", "Users a day", ""),
    Field::number("treatments", "plan-treatments", "Arms besides the control", "1"),
    Field::percent("power", "plan-power", "Chance to detect it, %", "80"),
    Field::percent("alpha", "plan-alpha", "Chance of any false claim, %", "5"),
    Field::number("impressions_per_user", "plan-impressions", "Impressions a user", "1"),
    Field::number("design_effect", "plan-design-effect", "Design effect", "1"),
];

/// Address of the plan for what was typed; an empty field is left to the server.
fn address(texts: &[String]) -> Result<String, String> {
    let mut url = String::from("/api/plan?");
    for (Field { name, label, percent, .. }, text) in FIELDS.iter().zip(texts) {
        let text = text.trim().replace(',', "");
        if text.is_empty() {
            continue;
        }
        let number: f64 = text.parse().map_err(|_| format!("{label}: {text} is not a number"))?;
        // a count goes as it was typed: the server takes no 1.0 for 1
        let text = if *percent { Value::from(number / 100.0).to_string() } else { encoded(&text) };
        url += &format!("{name}={text}&");
    }
    Ok(url)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of people or days")]
fn whole(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), |value| format::count(value.ceil() as u64))
}

/// The smallest lifts that some users detect.
fn detectable(lifts: &Value) -> AnyView {
    let lift = |key: &str| lifts[key].as_f64().map_or_else(|| "none".to_owned(), |lift| format::percent(lift, 1));
    let said = format!(
        "{} users in each arm detect a relative lift of {} with one look, at the end, and of {} with any number of looks.",
        whole(&lifts["n_users_per_arm"]),
        lift("fixed_horizon_lift"),
        lift("always_valid_lift")
    );
    view! { <p class="result" role="status" data-testid="plan-lifts">{said}</p> }.into_any()
}

fn answer(plan: &Value) -> AnyView {
    if !plan["n_users_per_arm"].is_null() {
        return detectable(plan);
    }
    let row = |name: &str, size: &Value| {
        let figure = |key: &str| whole(&size[key]).into_any();
        vec![name.to_owned().into_any(), figure("n_users_per_arm"), figure("n_users"), figure("days")]
    };
    let rows =
        vec![row("one look, at the end", &plan["fixed_horizon"]), row("any number of looks", &plan["always_valid"])];
    let said = format!(
        "With any number of looks, a test of a true lift of that size ends after {} users on average; nothing is claimed before \
         {} users in each arm.",
        whole(&plan["always_valid_users_mean"]),
        whole(&plan["burn_in_users_per_arm"])
    );
    view! {
        <div class="result" role="status">
            {table("plan-answer", &["at most", "users in each arm", "users", "days"], rows)}
            <p>{said}" The users in each arm belong into "<code>"planned_users_per_arm"</code>" before the test starts."</p>
        </div>
    }
    .into_any()
}

/// The planner.
pub fn planner() -> AnyView {
    let values = FIELDS.map(|field| RwSignal::new(field.begin.to_owned()));
    let outcome = RwSignal::new(None::<Result<Value, String>>);
    let ask = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let url = match address(&values.map(|value| value.get_untracked())) {
            Ok(url) => url,
            Err(text) => return outcome.set(Some(Err(text))),
        };
        api::call("GET", url, Body::None, move |answer| outcome.set(Some(answer.map(|answer| answer.value))));
    };
    let field = move |(field, value): (Field, RwSignal<String>)| {
        text_field(field.label, field.testid, "decimal", value, field.required)
    };
    view! {
        <section class="card">
            <details>
                <summary>"How many users will it take?"</summary>
                <form data-testid="plan-form" on:submit=ask>
                    <div class="settings">{FIELDS.into_iter().zip(values).map(field).collect_view()}</div>
                    <div class="form-row"><button type="submit" data-testid="plan-ask">"Plan"</button></div>
                </form>
                {move || outcome.get().map(|outcome| match outcome {
                    Ok(plan) => answer(&plan),
                    Err(text) => failed("plan-error", text),
                })}
            </details>
        </section>
    }
    .into_any()
}
