//! `POST /api/analyze`: the analysis of an A/B test that ran elsewhere, as `beckon ab analyze` makes it. Nothing is kept.

use super::problem::ApiError;
use super::{blocking, parsed};
use crate::app::App;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use beckon_shared::ab::input::{InputError, Table, Users, parse, upworthy, users_from_impressions};
use beckon_shared::ab::report::{Looks, Settings, analyze, headlines};
use beckon_shared::click::Record;
use beckon_shared::control::Problem;
use beckon_shared::import::{self, Format};
use beckon_shared::json::merge;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Largest file, in MiB: some 300,000 rows of users.
const MAX_FILE_MIB: usize = 16;
/// Largest request: such a file as JSON text, where quotes and line ends take two bytes.
pub const MAX_BODY_BYTES: usize = (MAX_FILE_MIB << 20) * 3 / 2;
/// Headline tests that an answer lists.
const MAX_TESTS: usize = 100;

/// What the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Counts of arms or rows of users, told apart by the columns.
    #[default]
    Table,
    /// Our own click log; needs `experiment`.
    Log,
    /// Upworthy Research Archive: each test with one picture by itself, Holm over all.
    Upworthy,
}

/// What is to be analysed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnalysisWish {
    /// The file, CSV with a header or one JSON object a line: `arm,impressions|users,clicks`, or one row a user:
    /// `user,arm,impressions,clicks` and what `beckon ab analyze` takes beside these.
    text: String,
    /// What it holds.
    #[serde(default)]
    format: FileFormat,
    /// The experiment of a click log.
    #[serde(default)]
    experiment: String,
    /// Columns that are strata, besides `device_tier` and `browser`.
    #[serde(default)]
    strata: Vec<String>,
    /// What was decided before looking, as in an experiment's `settings`, and `control`; what is left out has its default.
    #[serde(default = "nothing")]
    #[schema(value_type = Object)]
    settings: Value,
    /// `looks` of the answer before, where this is a further look at the same test.
    #[serde(default)]
    #[schema(value_type = Object)]
    looks: Option<Looks>,
}

fn nothing() -> Value {
    json!({})
}

/// Analyses a test from counts of arms, rows of users or a click log. The answer has the `report`, and the `looks` to send along
/// with the next look at the same test; of Upworthy's archive `headlines`, with the first 100 tests that Holm rejects.
#[utoipa::path(
    post, path = "/api/analyze", tag = "experiments", request_body = AnalysisWish,
    responses(
        (status = 200, body = serde_json::Value),
        (status = 422, description = "what cannot be analysed, with line and column or the setting at fault", body = Problem,
            content_type = "application/problem+json")
    )
)]
pub async fn show(State(app): State<App>, request: Request) -> Result<Json<Value>, ApiError> {
    // each holds a file in memory, as an import does
    let Ok(_permit) = app.imports.clone().try_acquire_owned() else {
        let detail = "imports or other analyses are running; try again when they are done";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail));
    };
    let body = Bytes::from_request(request, &()).await.map_err(|error| unread(error.status(), error.body_text()))?;
    Ok(Json(blocking(move || answer(parsed(&body)?)).await?))
}

/// A body that is too long or broke off.
fn unread(status: StatusCode, text: String) -> ApiError {
    if status != StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(StatusCode::BAD_REQUEST, "upload broke off", text);
    }
    let detail = format!("a file may have {MAX_FILE_MIB} MiB here; `beckon ab analyze` takes any");
    ApiError::new(status, "file too large", detail)
}

fn answer(wish: AnalysisWish) -> Result<Value, ApiError> {
    let settings = settings_from(wish.settings)?;
    if settings.observation_hours.is_some() && wish.format != FileFormat::Log {
        let detail =
            "observation_hours is for a click log; rows of users have totals already, of the time that you chose";
        return Err(ApiError::refused(detail));
    }
    let bytes = wish.text.as_bytes();
    let table = match wish.format {
        FileFormat::Table => parse(bytes, &wish.strata),
        FileFormat::Log => users_of_log(bytes, wish.experiment.trim(), settings.observation_hours).map(Table::Users),
        FileFormat::Upworthy => return headlines_of(bytes, settings.alpha),
    };
    let table = table.map_err(|error| ApiError::refused(error.to_string()))?;
    let analysed = analyze(&table, &settings, wish.looks.as_ref());
    let (report, looks) = analysed.map_err(|error| ApiError::refused(error.to_string()))?;
    Ok(json!({ "report": report, "looks": looks }))
}

/// The defaults, and over them what was given.
fn settings_from(given: Value) -> Result<Settings, ApiError> {
    if !given.is_object() {
        return Err(ApiError::refused("settings: expected a JSON object"));
    }
    let mut settings = json!(Settings::default());
    merge(&mut settings, given);
    let settings: Settings = parsed(settings.to_string().as_bytes())?;
    settings.validate().map_err(|error| ApiError::refused(error.to_string()))?;
    Ok(settings)
}

/// The users of `experiment` in the text of a click log.
fn users_of_log(bytes: &[u8], experiment: &str, observation_hours: Option<f64>) -> Result<Users, InputError> {
    let parsed = import::parse(Format::Jsonl, bytes);
    if let Some(reject) = parsed.rejects.into_iter().next() {
        return Err(InputError { line: reject.line, column: reject.field, problem: reject.reason });
    }
    let impressions = parsed.records.iter().filter_map(|sourced| match &sourced.record {
        Record::Impression(impression) => Some(impression),
        _ => None,
    });
    let users = users_from_impressions(impressions, experiment, observation_hours);
    if users.arms.is_empty() {
        let problem = format!("no impression of experiment `{experiment}` with an arm");
        return Err(InputError { line: 1, column: None, problem });
    }
    Ok(users)
}

fn headlines_of(bytes: &[u8], alpha: f64) -> Result<Value, ApiError> {
    let tests = upworthy::parse(bytes).map_err(|error| ApiError::refused(error.to_string()))?;
    let mut report = headlines::analyze(&tests, alpha).map_err(|error| ApiError::refused(error.to_string()))?;
    report.tests.retain(|test| test.p_holm.is_some_and(|p| p <= alpha));
    report.tests.truncate(MAX_TESTS);
    Ok(json!({ "headlines": report }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: &str = "arm,users,clicks\nA,12000,600\nB,12000,800\n";

    fn wish(text: &str, more: Value) -> AnalysisWish {
        let mut wish = json!({ "text": text });
        merge(&mut wish, more);
        serde_json::from_value(wish).expect("a wish")
    }

    fn refusal(text: &str, more: Value) -> String {
        answer(wish(text, more)).expect_err("refused").detail().to_owned()
    }

    #[test]
    fn a_look_goes_on_where_the_one_before_was() {
        let first = answer(wish(COUNTS, json!({}))).expect("analysed");
        assert_eq!(first["report"]["comparisons"][0]["treatment"], "B");
        let more = "arm,users,clicks\nA,20000,1050\nB,20000,1100\n";
        let second = answer(wish(more, json!({"looks": first["looks"]}))).expect("analysed");
        assert_eq!(second["report"]["comparisons"][0]["always_valid"]["n_looks"], 2, "{second}");
        let other = json!({"looks": first["looks"], "settings": {"alpha": 0.1}});
        assert!(refusal(more, other).contains("alpha changed"));
    }

    #[test]
    fn settings_are_laid_over_their_defaults_and_what_is_wrong_is_named() {
        let control = answer(wish(COUNTS, json!({"settings": {"control": "B"}}))).expect("analysed");
        assert_eq!(control["report"]["arms"][0]["arm"], "B");
        assert_eq!(control["report"]["settings"]["alpha"], 0.05);
        assert!(refusal(COUNTS, json!({"settings": {"alfa": 1}})).contains("alfa"));
        assert!(refusal(COUNTS, json!({"settings": []})).contains("object"));
        assert!(refusal(COUNTS, json!({"settings": {"observation_hours": 24}})).contains("click log"));
        assert!(refusal("arm,users,clicks\nA,many,1\n", json!({})).contains("line 2, column `users`"));
        assert!(refusal("{", json!({"format": "log", "experiment": "e1"})).contains("line 1"));
        assert!(refusal("", json!({"format": "upworthy", "settings": {"alpha": 2}})).contains("alpha is 2"));
    }

    #[test]
    fn a_log_gives_the_users_of_one_experiment() {
        let line = |experiment: &str, user: &str, arm: &str| {
            json!({"impression_id": user, "user_hash": user, "time_millis": 1, "experiment": experiment, "arm": arm,
                "prompt": [{"role": "user", "text": "q"}], "slate": [{"text": "t", "clicked": true}]})
            .to_string()
        };
        let log = [line("e1", "u", "a"), line("e1", "v", "b"), line("e2", "w", "a")].join("\n");
        let of = |experiment: &str| json!({"format": "log", "experiment": experiment});
        let report = answer(wish(&log, of("e1"))).expect("analysed");
        let n_units = |arm: usize| report["report"]["arms"][arm]["n_units"].as_u64();
        assert_eq!((n_units(0), n_units(1)), (Some(1), Some(1)));
        assert!(refusal(&log, of("e3")).contains("`e3`"));
    }

    #[test]
    fn headline_tests_that_differ_are_listed() {
        let text = "clickability_test_id,headline,eyecatcher_id,impressions,clicks\n\
                    t1,One,p,10000,100\nt1,Two,p,10000,300\nt2,Three,p,10000,100\nt2,Four,p,10000,101\n";
        let headlines = &answer(wish(text, json!({"format": "upworthy"}))).expect("analysed")["headlines"];
        assert_eq!((headlines["n_tests"].as_u64(), headlines["n_rejected"].as_u64()), (Some(2), Some(1)));
        assert_eq!(headlines["tests"].as_array().map(Vec::len), Some(1), "{headlines}");
        assert_eq!(headlines["tests"][0]["headlines"][0]["text"], "Two");
    }
}
