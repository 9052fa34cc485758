//! Our own impressions, one JSON object a line ([`crate::click::Impression`]).

use super::{Parsed, Problem, for_each_line, from_json};
use crate::click::{Impression, Record};
use std::cell::RefCell;
use std::collections::HashSet;

pub(super) fn parse(bytes: &[u8], parsed: &mut Parsed) {
    let seen = RefCell::new(HashSet::new());
    for_each_line(bytes, parsed, |text| {
        let impression: Impression = from_json(text)?;
        validate(&impression)?;
        if !seen.borrow_mut().insert(impression.impression_id.clone()) {
            let reason = format!("`{}` stands in this file twice; ids are unique", impression.impression_id);
            return Err(Problem::new("impression_id", reason));
        }
        Ok(Record::Impression(impression))
    });
}

/// What the types do not say.
fn validate(impression: &Impression) -> Result<(), Problem> {
    let filled = |field: &str, text: &str| {
        if text.trim().is_empty() { Err(Problem::new(field, "empty; expected text")) } else { Ok(()) }
    };
    filled("impression_id", &impression.impression_id)?;
    filled("user_hash", &impression.user_hash)?;
    if impression.time_millis < 0 {
        return Err(Problem::new("time_millis", "negative; expected milliseconds since 1970-01-01 UTC"));
    }
    if impression.prompt.turns.is_empty() {
        return Err(Problem::new("prompt", "no turns; expected at least one"));
    }
    for (i, turn) in impression.prompt.turns.iter().enumerate() {
        filled(&format!("prompt[{i}].text"), &turn.text)?;
    }
    if impression.slate.is_empty() {
        return Err(Problem::new("slate", "no slots; expected at least one"));
    }
    for (i, slot) in impression.slate.iter().enumerate() {
        filled(&format!("slate[{i}].text"), &slot.text)?;
        if let Some(p) = slot.propensity
            && !(p > 0.0 && p <= 1.0)
        {
            return Err(Problem::new(format!("slate[{i}].propensity"), format!("{p}; expected above 0, at most 1")));
        }
        if let Some(secs) = slot.dwell_secs
            && !(secs.is_finite() && secs >= 0.0)
        {
            return Err(Problem::new(format!("slate[{i}].dwell_secs"), format!("{secs}; expected 0 or more")));
        }
        if slot.clicked && slot.visible == Some(false) {
            return Err(Problem::new(format!("slate[{i}].visible"), "false, yet the slot was clicked"));
        }
    }
    Ok(())
}
