//! `/api/experiments`: make and steer experiments, assign units, take in what was shown and clicked, and show results.

use super::blocking;
use super::listing::Part;
use super::problem::ApiError;
use crate::access::new_ingest_key;
use crate::app::App;
use crate::audit::CommandId;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use beckon_shared::ab::input::Table;
use beckon_shared::ab::interleave::preference;
use beckon_shared::ab::report::analyze;
use beckon_shared::control::Event;
use beckon_shared::control::experiment::{
    Assigned, ExperimentCommand, ExperimentConfig, ExperimentState, ExperimentStatus, IngestBatch, IngestOutcome,
    Layout, MAX_BATCH, PAST_DAYS, Preference, Results, next,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no experiment {id}"))
}

fn find(app: &App, id: &str) -> Result<ExperimentStatus, ApiError> {
    app.store.experiment(id)?.ok_or_else(|| unknown(id))
}

/// All experiments, newest first.
#[utoipa::path(
    get, path = "/api/experiments", tag = "experiments", params(Part),
    responses((status = 200, body = Vec<ExperimentStatus>))
)]
pub async fn list(
    State(app): State<App>,
    Query(part): Query<Part>,
) -> Result<(HeaderMap, Json<Vec<ExperimentStatus>>), ApiError> {
    let all = blocking(move || app.store.experiments()).await?;
    Ok(part.of("/api/experiments", all, |experiment| &experiment.id))
}

/// Makes a draft. Checkpoints of its arms have to be there, and are kept until it is decided. Settings by which no data
/// could be analysed are refused, with the field.
#[utoipa::path(
    post, path = "/api/experiments", tag = "experiments", request_body = ExperimentConfig,
    responses((status = 201, body = ExperimentStatus))
)]
pub async fn create(
    State(app): State<App>,
    command_id: Option<Extension<CommandId>>,
    body: Bytes,
) -> Result<(StatusCode, Json<ExperimentStatus>), ApiError> {
    let config: ExperimentConfig = super::parsed(&body)?;
    config.validate().map_err(|error| ApiError::refused(error.to_string()))?;
    if let Some(missing) = config.checkpoints().find(|id| app.catalog.content(id).is_none()) {
        return Err(ApiError::refused(format!("there is no checkpoint {missing}")));
    }
    let aa = config.is_aa();
    let status = ExperimentStatus {
        id: String::new(),
        config,
        state: ExperimentState::Draft,
        killed: false,
        winner: None,
        aa,
        created_millis: crate::now_millis(),
        started_millis: None,
        stopped_millis: None,
    };
    let audit_id = command_id.map(|id| id.0.id);
    let status = blocking(move || {
        let status = app.store.add_experiment(status, audit_id)?;
        app.events.announce(&Event::Experiment(status.clone()));
        Ok::<_, ApiError>(status)
    });
    Ok((StatusCode::CREATED, Json(status.await?)))
}

/// One experiment.
#[utoipa::path(
    get, path = "/api/experiments/{id}", tag = "experiments", responses((status = 200, body = ExperimentStatus))
)]
pub async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<ExperimentStatus>, ApiError> {
    Ok(Json(blocking(move || find(&app, &id)).await?))
}

/// Forgets an experiment that is not running, with everything that it took in. How often its units were shown something
/// and clicked stays with the experiments that were started since and adjust by the past (`settings.cuped`).
#[utoipa::path(delete, path = "/api/experiments/{id}", tag = "experiments", responses((status = 204)))]
pub async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
    command_id: Option<Extension<CommandId>>,
) -> Result<StatusCode, ApiError> {
    let again = CommandId::is_again(command_id);
    blocking(move || {
        let Some(status) = app.store.experiment(&id)? else {
            // where it is done again, it went the first time
            return if again { Ok(()) } else { Err(unknown(&id)) };
        };
        if status.state == ExperimentState::Running {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "not possible now",
                format!("{id} is running; stop it first"),
            ));
        }
        app.store.remove_experiment(&id)?;
        app.events.announce(&Event::ExperimentDeleted { id });
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What `decide` needs beside the path.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Decision {
    /// The arm that won.
    pub winner: Option<String>,
}

/// Steers an experiment: `start`, `stop`, `kill` (refuse everything at once) or `decide` (the body names the winner). The
/// past that `settings.cuped` adjusts by is what other experiments have taken in of the same units when it is started.
#[utoipa::path(
    post, path = "/api/experiments/{id}/{command}", tag = "experiments",
    params(("id", Path), ("command" = ExperimentCommand, Path)), request_body = Option<Decision>,
    responses((status = 200, body = ExperimentStatus))
)]
pub async fn command(
    State(app): State<App>,
    Path((id, command)): Path<(String, String)>,
    command_id: Option<Extension<CommandId>>,
    body: Bytes,
) -> Result<Json<ExperimentStatus>, ApiError> {
    let Some(command) = ExperimentCommand::from_name(&command) else {
        return Err(ApiError::not_found(format!("{command} is not start, stop, kill or decide")));
    };
    let decision = if body.is_empty() { Decision::default() } else { super::parsed(&body)? };
    let again = CommandId::is_again(command_id);
    let status = blocking(move || {
        let now = crate::now_millis();
        let changed = app.store.change_experiment(&id, |status| steer(status, command, &decision, again, now))?;
        let status = changed.ok_or_else(|| unknown(&id))??;
        app.events.announce(&Event::Experiment(status.clone()));
        Ok::<_, ApiError>(status)
    });
    Ok(Json(status.await?))
}

fn steer(
    status: &mut ExperimentStatus,
    command: ExperimentCommand,
    decision: &Decision,
    again: bool,
    now_millis: i64,
) -> Result<(), ApiError> {
    let done = match command {
        ExperimentCommand::Start => status.state == ExperimentState::Running,
        ExperimentCommand::Stop => status.state == ExperimentState::Stopped,
        ExperimentCommand::Kill => status.killed,
        ExperimentCommand::Decide => status.state == ExperimentState::Decided && status.winner == decision.winner,
    };
    if again && done {
        return Ok(());
    }
    let Some(state) = next(status.state, command) else {
        let detail =
            format!("experiment {} is {}, so `{}` is not possible", status.id, word(status.state), command.name());
        return Err(ApiError::new(StatusCode::CONFLICT, "not possible now", detail));
    };
    match command {
        ExperimentCommand::Start => status.started_millis = Some(now_millis),
        ExperimentCommand::Stop => status.stopped_millis = Some(now_millis),
        ExperimentCommand::Kill => {
            status.killed = true;
            status.stopped_millis.get_or_insert(now_millis);
        }
        ExperimentCommand::Decide => {
            let arm = status.config.arms.iter().find(|arm| Some(&arm.name) == decision.winner.as_ref());
            let Some(arm) = arm else {
                return Err(ApiError::refused("name the winner: one of the arms, as {\"winner\": \"NAME\"}"));
            };
            status.winner = Some(arm.name.clone());
        }
    }
    status.state = state;
    Ok(())
}

fn word(state: ExperimentState) -> &'static str {
    match state {
        ExperimentState::Draft => "a draft",
        ExperimentState::Running => "running",
        ExperimentState::Stopped => "stopped",
        ExperimentState::Decided => "decided",
    }
}

/// An ingest key just made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NewKey {
    /// Give this to the client that shows suggestions; it cannot be shown again, and the one before it opens nothing any
    /// more.
    pub key: String,
}

/// Makes a new ingest key, which opens assignment and events of this experiment only.
#[utoipa::path(
    post, path = "/api/experiments/{id}/key", tag = "experiments", responses((status = 201, body = NewKey))
)]
pub async fn new_key(State(app): State<App>, Path(id): Path<String>) -> Result<(StatusCode, Json<NewKey>), ApiError> {
    let key = blocking(move || {
        find(&app, &id)?;
        let (key, hash) = new_ingest_key(&id)
            .map_err(|error| ApiError::internal(&format!("the system gives no randomness: {error}")))?;
        app.store.set_ingest_hash(&id, &hash)?;
        Ok::<_, ApiError>(key)
    });
    Ok((StatusCode::CREATED, Json(NewKey { key: key.await? })))
}

/// Who asks for an arm.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AssignmentParams {
    /// Pseudonym of the user.
    unit: String,
}

/// The arm of a unit: the same at every call. It is no exposure yet.
#[utoipa::path(
    get, path = "/api/experiments/{id}/assignment", tag = "experiments", params(AssignmentParams),
    responses((status = 200, body = Assigned))
)]
pub async fn assignment(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(params): Query<AssignmentParams>,
) -> Result<Json<Assigned>, ApiError> {
    let status = blocking(move || find(&app, &id)).await?;
    Ok(Json(assigned(&status, &params.unit)))
}

fn assigned(status: &ExperimentStatus, unit: &str) -> Assigned {
    let none = |why: &str| Assigned {
        experiment: status.id.clone(),
        arm: None,
        arms: Vec::new(),
        propensity: None,
        why: Some(why.to_owned()),
    };
    if status.state != ExperimentState::Running {
        return none(&format!("the experiment is {}", if status.killed { "switched off" } else { word(status.state) }));
    }
    let assignment = status.config.assignment(&status.id);
    let Some(idx) = assignment.arm_of(unit) else { return none("the unit does not take part") };
    let interleaved = status.config.layout == Layout::Interleaved;
    let idx = if interleaved { 0 } else { idx };
    Assigned {
        experiment: status.id.clone(),
        arm: Some(status.config.arms[idx].clone()),
        arms: if interleaved { status.config.arms.clone() } else { Vec::new() },
        propensity: Some(if interleaved { 1.0 } else { assignment.share(idx) }),
        why: None,
    }
}

/// Takes in what was shown and clicked: at most 1,000 events, each once (by impression, and slot). Refused ones are named,
/// as those that name an arm which the experiment does not have.
#[utoipa::path(
    post, path = "/api/experiments/{id}/events", tag = "experiments", request_body = IngestBatch,
    responses((status = 200, body = IngestOutcome))
)]
pub async fn ingest(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<IngestOutcome>, ApiError> {
    let IngestBatch { events } = super::parsed(&body)?;
    if events.len() > MAX_BATCH {
        return Err(ApiError::refused(format!("{} events, expected at most {MAX_BATCH}", events.len())));
    }
    let outcome = blocking(move || {
        let status = find(&app, &id)?;
        let closed = match status.state {
            ExperimentState::Draft => Some("has not begun"),
            _ if status.killed => Some("was switched off"),
            ExperimentState::Decided => Some("is decided"),
            ExperimentState::Running | ExperimentState::Stopped => None,
        };
        if let Some(why) = closed {
            return Err(ApiError::new(StatusCode::CONFLICT, "not possible now", format!("experiment {id} {why}")));
        }
        let assignment = status.config.assignment(&status.id);
        Ok(app.store.ingest(&status, &events, |unit| assignment.arm_of(unit))?)
    });
    Ok(Json(outcome.await?))
}

/// Results as they stand. Looking is allowed at any time: under the sequential design no number of looks makes a false claim
/// more likely than alpha, given what the report assumes.
#[utoipa::path(
    get, path = "/api/experiments/{id}/results", tag = "experiments", responses((status = 200, body = Results))
)]
pub async fn results(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Results>, ApiError> {
    Ok(Json(blocking(move || look(&app, &id)).await?))
}

fn look(app: &App, id: &str) -> Result<Results, ApiError> {
    let experiment = find(app, id)?;
    // before the users, so that those whom the looks so far have counted are among them
    let before = app.store.looks(id)?;
    let (users, n_exposures, n_clicks) = app.store.experiment_users(&experiment, crate::now_millis())?;
    let mut results = Results {
        n_exposures,
        n_clicks,
        simulated: users.is_simulated,
        report: None,
        preference: None,
        why: None,
        experiment,
    };
    if results.experiment.config.layout == Layout::Interleaved {
        results.preference = votes(app, &results.experiment)?;
        if results.preference.is_none() {
            results.why = Some("no clicks of two users yet".into());
        }
        return Ok(results);
    }
    let settings = results.experiment.config.analysis();
    match analyze(&Table::Users(users), &settings, before.as_ref()) {
        Ok((mut report, looks)) => {
            app.store.keep_looks(id, before.as_ref(), &looks)?;
            report.assumptions.extend(settings.cuped.then(past_in_words));
            results.report = Some(report);
        }
        Err(error) => results.why = Some(error.to_string()),
    }
    Ok(results)
}

/// What the past of a user is here.
fn past_in_words() -> String {
    format!(
        "the past of a user is what the same unit was shown and clicked in other experiments of this server in the \
         {PAST_DAYS} days before this one was started, as it was known then, real and simulated users apart; their \
         sites name the same person alike"
    )
}

fn votes(app: &App, experiment: &ExperimentStatus) -> Result<Option<Preference>, ApiError> {
    let votes = app.store.experiment_votes(experiment)?;
    let [a, b] = experiment.config.arms.as_slice() else { return Ok(None) };
    let effect = preference(&votes);
    let std_error = effect.variance.sqrt();
    if votes.len() < 2 || !effect.estimate.is_finite() || !std_error.is_finite() {
        return Ok(None);
    }
    Ok(Some(Preference {
        a: a.name.clone(),
        b: b.name.clone(),
        net: effect.estimate,
        std_error,
        n_users: votes.len() as u64,
    }))
}

pub mod harvest;

#[cfg(test)]
mod tests;
