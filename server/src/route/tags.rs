//! `/api/tags`: which checkpoint is in production, since when, and back to the one before.

use super::blocking;
use super::listing::Part;
use super::problem::ApiError;
use crate::app::App;
use crate::audit::CommandId;
use crate::registry;
use crate::store::RolledBack;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use beckon_shared::control::access::Sender;
use beckon_shared::control::registry::{Promotion, RegistryEntry, TagChoice, TagState, is_tag};

/// Where every tag points, and where a roll back would lead.
#[utoipa::path(get, path = "/api/tags", tag = "checkpoints", responses((status = 200, body = Vec<TagState>)))]
pub async fn list(State(app): State<App>) -> Result<Json<Vec<TagState>>, ApiError> {
    let read = blocking(move || Ok::<_, crate::store::StoreError>((app.store.tags()?, app.store.roll_back_targets()?)));
    let (tags, targets) = read.await?;
    let state = |now: Promotion| {
        let target = targets.iter().find(|(_, tag)| *tag == now.tag);
        TagState { back_to: target.map(|(checkpoint, _)| checkpoint.clone()), now }
    };
    Ok(Json(tags.into_values().map(state).collect()))
}

/// Every time that a tag was moved, oldest first, those included that were rolled back.
#[utoipa::path(
    get, path = "/api/promotions", tag = "checkpoints", params(Part), responses((status = 200, body = Vec<Promotion>))
)]
pub async fn history(
    State(app): State<App>,
    Query(part): Query<Part>,
) -> Result<(HeaderMap, Json<Vec<Promotion>>), ApiError> {
    let (after, limit) = (part.after_number(), part.limit());
    let moves = blocking(move || app.store.promotions_after(after, limit)).await?;
    let next = part.next(&moves, |(seq, _)| seq.to_string());
    let moves = moves.into_iter().map(|(_, promotion)| promotion).collect();
    Ok((part.link("/api/promotions", next), Json(moves)))
}

/// Lets a tag (`production` unless the body names another) point to this checkpoint.
#[utoipa::path(
    post, path = "/api/checkpoints/{id}/promote", tag = "checkpoints", request_body = TagChoice,
    responses((status = 200, body = RegistryEntry))
)]
pub async fn promote(
    State(app): State<App>,
    Path(id): Path<String>,
    Extension(sender): Extension<Sender>,
    body: Bytes,
) -> Result<Json<RegistryEntry>, ApiError> {
    let TagChoice { tag } = if body.is_empty() { TagChoice::default() } else { super::parsed(&body)? };
    check_tag(&tag)?;
    let entry = blocking(move || {
        registry::entry(&app.catalog, &app.store, &id)?;
        let before = app.store.tags()?.remove(&tag);
        let (checkpoint, time_millis) = (id.clone(), crate::now_millis());
        app.store.promote(&Promotion { tag, checkpoint, time_millis, by: sender.name(), undone: false })?;
        announce_others(&app, before.as_ref(), &id)?;
        registry::announce(&app.catalog, &app.store, &app.events, &id)
    });
    Ok(Json(entry.await?))
}

/// Lets a tag point to where it pointed before its last promotion.
#[utoipa::path(
    post, path = "/api/tags/{tag}/roll-back", tag = "checkpoints", responses((status = 200, body = RegistryEntry))
)]
pub async fn roll_back(
    State(app): State<App>,
    Path(tag): Path<String>,
    command_id: Option<Extension<CommandId>>,
) -> Result<Json<RegistryEntry>, ApiError> {
    check_tag(&tag)?;
    // a second roll back goes a step further, so one that may have been done is not repeated
    if CommandId::is_again(command_id) {
        let detail = "the server stopped while it did this; look where the tag points before you ask again";
        return Err(ApiError::new(StatusCode::CONFLICT, "outcome unknown", detail));
    }
    let entry = blocking(move || {
        let before = app.store.tags()?.remove(&tag);
        let promotion = match app.store.roll_back(&tag)? {
            RolledBack::To(promotion) => promotion,
            RolledBack::NoTag => return Err(ApiError::not_found(format!("there is no tag {tag}"))),
            RolledBack::NothingBefore => {
                let detail = format!("{tag} has pointed to one checkpoint only");
                return Err(ApiError::new(StatusCode::CONFLICT, "nothing to roll back to", detail));
            }
            RolledBack::Gone(checkpoint) => {
                let detail =
                    format!("{tag} pointed to checkpoint {checkpoint} before, which was deleted; promote another");
                return Err(ApiError::new(StatusCode::CONFLICT, "nothing to roll back to", detail));
            }
        };
        announce_others(&app, before.as_ref(), &promotion.checkpoint)?;
        Ok(registry::announce(&app.catalog, &app.store, &app.events, &promotion.checkpoint)?)
    });
    Ok(Json(entry.await?))
}

fn check_tag(tag: &str) -> Result<(), ApiError> {
    if is_tag(tag) {
        return Ok(());
    }
    Err(ApiError::refused("a tag is 1 to 40 lower-case letters, digits and dashes"))
}

/// The checkpoint that lost the tag changed too.
fn announce_others(app: &App, before: Option<&Promotion>, now: &str) -> Result<(), registry::RegistryError> {
    match before.filter(|before| before.checkpoint != now && app.catalog.content(&before.checkpoint).is_some()) {
        Some(before) => registry::announce(&app.catalog, &app.store, &app.events, &before.checkpoint).map(drop),
        None => Ok(()),
    }
}
