//! How many users a test needs and how long that takes, before there is one. The server computes.

use crate::api;
use crate::component::field::{failed, text_field};
use crate::component::table::table;
use crate::format;
use crate::platform::http::{Body, encoded};
use leptos::prelude::*;
use serde_json::Value;

/// As the server names it, label, what it begins with, whether it is typed in per cent, whether it must be told.
const FIELDS: [(&str, &str, &str, bool, bool); 8] = [
    ("base_rate", "Click rate of the control, %", "", true, true),
    ("lift", "Relative lift to detect, %", "", true, true),
    ("users_per_day", "Users a day", "", false, false),
    ("treatments", "Arms besides the control", "1", false, false),
    ("power", "Chance to detect it, %", "80", true, false),
    ("alpha", "Chance of any false claim, %", "5", true, false),
    ("impressions_per_user", "Impressions a user", "1", false, false),
    ("design_effect", "Design effect", "1", false, false),
];
const TEST_IDS: [&str; FIELDS.len()] = [
    "plan-base-rate",
    "plan-lift",
    "plan-users-per-day",
    "plan-treatments",
    "plan-power",
    "plan-alpha",
    "plan-impressions",
    "plan-design-effect",
];

/// Address of the plan for what was typed; an empty field is left to the server.
fn address(texts: &[String]) -> Result<String, String> {
    let mut url = String::from("/api/plan?");
    for ((name, label, _, percent, _), text) in FIELDS.iter().zip(texts) {
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

fn answer(plan: &Value) -> AnyView {
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
    let values = FIELDS.map(|(_, _, begin, _, _)| RwSignal::new(begin.to_owned()));
    let outcome = RwSignal::new(None::<Result<Value, String>>);
    let ask = move |ev: leptos::ev::SubmitEvent| {
        ev.prevent_default();
        let url = match address(&values.map(|value| value.get_untracked())) {
            Ok(url) => url,
            Err(text) => return outcome.set(Some(Err(text))),
        };
        api::call("GET", url, Body::None, move |answer| outcome.set(Some(answer.map(|answer| answer.value))));
    };
    let field = move |idx: usize| text_field(FIELDS[idx].1, TEST_IDS[idx], "decimal", values[idx], FIELDS[idx].4);
    view! {
        <section class="card">
            <details>
                <summary>"How many users will it take?"</summary>
                <form data-testid="plan-form" on:submit=ask>
                    <div class="settings">{(0..FIELDS.len()).map(field).collect_view()}</div>
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
