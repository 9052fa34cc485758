//! `GET /api/plan`: how many users a test needs, and how long that takes.

use super::blocking;
use super::problem::ApiError;
use axum::Json;
use axum::extract::Query;
use beckon_shared::ab::plan::{PlanError, Planned, detectable_lift, plan};
use beckon_shared::control::Problem;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

/// What is planned; the names are those of `beckon ab plan`.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlanParams {
    /// Click rate of the control, above 0 and below 1.
    pub base_rate: f64,
    /// Relative lift to detect, as 0.34; this or `users`.
    pub lift: Option<f64>,
    /// In place of a lift: users in each arm. The answer is then the smallest lift that they detect.
    pub users: Option<f64>,
    /// Chance of any false claim; 0.05 unless told.
    pub alpha: Option<f64>,
    /// Chance to detect the lift; 0.8 unless told.
    pub power: Option<f64>,
    /// Arms besides the control; 1 unless told.
    pub treatments: Option<u32>,
    /// Mean impressions of a user during the test; 1 unless told.
    pub impressions_per_user: Option<f64>,
    /// Variance over users against independent impressions; 1 unless told.
    pub design_effect: Option<f64>,
    /// Users a day that enter the test, all arms together; days are left out without it.
    pub users_per_day: Option<f64>,
}

/// How many users a test needs for one look and for any number of looks; or, of a number of users in each arm, the smallest
/// lifts that they detect (`fixed_horizon_lift`, `always_valid_lift`; null where no click rate would do).
#[utoipa::path(
    get, path = "/api/plan", tag = "experiments", params(PlanParams),
    responses(
        (status = 200, body = serde_json::Value),
        (status = 422, description = "a value that no test can have; the detail says which", body = Problem,
            content_type = "application/problem+json")
    )
)]
pub async fn show(Query(params): Query<PlanParams>) -> Result<Json<Value>, ApiError> {
    let planned = Planned {
        base_rate: params.base_rate,
        lift: params.lift.unwrap_or_default(),
        alpha: params.alpha.unwrap_or(0.05),
        power: params.power.unwrap_or(0.8),
        n_treatments: params.treatments.unwrap_or(1) as usize,
        impressions_per_user: params.impressions_per_user.unwrap_or(1.0),
        design_effect: params.design_effect.unwrap_or(1.0),
        users_per_day: params.users_per_day,
    };
    let (lift, users) = (params.lift, params.users);
    Ok(Json(blocking(move || answer(planned, lift, users)).await?))
}

fn answer(planned: Planned, lift: Option<f64>, users: Option<f64>) -> Result<Value, ApiError> {
    let refused = |error: PlanError| ApiError::refused(error.to_string());
    match (lift, users) {
        (Some(_), None) => Ok(json!(plan(planned).map_err(refused)?)),
        (None, Some(users)) if users > 0.0 && users.is_finite() => {
            let (fixed, always_valid) = detectable_lift(planned, users).map_err(refused)?;
            Ok(json!({ "n_users_per_arm": users, "fixed_horizon_lift": fixed, "always_valid_lift": always_valid }))
        }
        (None, Some(users)) => Err(ApiError::refused(format!("users is {users}; expected a number above 0"))),
        _ => Err(ApiError::refused("a plan is for a lift or for users in each arm: give one of lift and users")),
    }
}
