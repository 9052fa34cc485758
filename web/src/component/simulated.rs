//! The label that every count of simulated clicks carries.

use crate::format;
use leptos::prelude::*;

/// Marks what counts simulated clicks.
#[component]
pub fn SimulatedBadge(
    /// Simulated records counted.
    n: u64,
    /// All records counted.
    of: u64,
) -> impl IntoView {
    let text = if n == of { "simulated".to_owned() } else { format!("{} simulated", format::count(n)) };
    let title = format!("{} of {} come from the simulator, not from people.", format::count(n), format::count(of));
    (n > 0)
        .then(|| view! { <span class="badge badge-simulated" data-testid="simulated-badge" title=title>{text}</span> })
}
