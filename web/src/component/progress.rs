//! Progress of anything that may take longer than a second.

use crate::format;
use crate::platform::{clock, spawn};
use leptos::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A bar with a sentence; without a share it moves to say that work goes on.
#[component]
pub fn Progress(
    /// What is going on.
    #[prop(into)]
    label: Signal<String>,
    /// In [0, 1]; `None` where it cannot be known.
    #[prop(into)]
    share: Signal<Option<f64>>,
    /// For the browser test.
    #[prop(optional)]
    testid: &'static str,
) -> impl IntoView {
    let percent = move || share.get().map(|s| (s * 100.0).clamp(0.0, 100.0));
    view! {
        <div class="progress" data-testid=testid>
            <div class="progress-label">
                <span>{move || label.get()}</span>
                <span class="num">{move || percent().map(|p| format!("{p:.0} %"))}</span>
            </div>
            <div
                class="progress-track"
                class:indeterminate=move || share.with(Option::is_none)
                role="progressbar"
                aria-label=move || label.get()
                aria-valuemin="0"
                aria-valuemax="100"
                aria-valuenow=move || percent().map(|p| format!("{p:.0}"))
            >
                <span style:width=move || percent().map_or(String::new(), |p| format!("{p:.1}%"))></span>
            </div>
        </div>
    }
}

/// Seconds since it appeared, beside work whose end is not known.
#[component]
pub fn Elapsed() -> impl IntoView {
    let start = clock::now_secs();
    let secs = RwSignal::new(0.0);
    let gone = Arc::new(AtomicBool::new(false));
    {
        let gone = gone.clone();
        on_cleanup(move || gone.store(true, Ordering::Relaxed));
    }
    spawn(async move {
        loop {
            clock::sleep(200).await;
            if gone.load(Ordering::Relaxed) {
                return;
            }
            secs.set(clock::now_secs() - start);
        }
    });
    // the first second needs no number
    move || (secs.get() >= 1.0).then(|| view! { <span class="num muted">{format::duration(secs.get())}</span> })
}
