//! The reward model's belief about one suggestion, drawn on an axis that all suggestions share: a tick at
//! the mean, a solid bar of ± one aleatoric standard deviation (users disagree) and below it a hatched bar of ±
//! one epistemic standard deviation (the model has seen little like it).

use beckon_shared::engine::Score;
use leptos::prelude::*;

/// Axis that holds every score with one standard deviation to each side, and zero.
pub fn shared_axis(scores: impl Iterator<Item = Score>) -> (f64, f64) {
    let (mut low, mut high) = (0.0_f64, 0.0_f64);
    for s in scores {
        let (mean, std) = (f64::from(s.reward_mean), f64::from(s.aleatoric_std.max(s.epistemic_std)));
        if (mean - std).is_finite() && (mean + std).is_finite() {
            low = low.min(mean - std);
            high = high.max(mean + std);
        }
    }
    crate::curve::axis(low, high)
}

/// The glyph. Its numbers are in the accessible text of whoever holds it.
#[component]
pub fn Spread(
    /// The belief.
    score: Score,
    /// Shared axis.
    #[prop(into)]
    axis: Signal<(f64, f64)>,
) -> impl IntoView {
    let mean = f64::from(score.reward_mean);
    let place = move |x: f64| {
        let (low, high) = axis.get();
        ((x - low) / (high - low) * 100.0).clamp(0.0, 100.0)
    };
    let bar = move |std: f32, class: &'static str| {
        let std = f64::from(std);
        let left = move || format!("{:.2}%", place(mean - std));
        let width = move || format!("{:.2}%", place(mean + std) - place(mean - std));
        view! { <span class=class style:left=left style:width=width></span> }
    };
    view! {
        <span class="spread" aria-hidden="true">
            <span class="spread-zero" style:left=move || format!("{:.2}%", place(0.0))></span>
            {bar(score.aleatoric_std, "spread-bar spread-aleatoric")}
            {bar(score.epistemic_std, "spread-bar spread-epistemic")}
            <span class="spread-mean" style:left=move || format!("{:.2}%", place(mean))></span>
        </span>
    }
}

/// What the glyph's parts mean.
#[component]
pub fn SpreadLegend() -> impl IntoView {
    view! {
        <p class="legend">
            <span><i class="key key-mean"></i>"GaRM mean"</span>
            <span><i class="key key-aleatoric"></i>"aleatoric: users disagree"</span>
            <span><i class="key key-epistemic"></i>"epistemic: little data like it"</span>
            <span><i class="key key-zero"></i>"zero"</span>
        </p>
    }
}
