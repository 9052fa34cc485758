//! Everything that was set, every default filled in.

use crate::api;
use crate::platform::http::Body;
use leptos::prelude::*;

/// The configuration of what stands at `url`; read when it is opened, as it cannot change.
pub fn all_settings(testid: &'static str, url: String) -> AnyView {
    let text = RwSignal::new(String::new());
    let read = move |_| {
        if text.with_untracked(String::is_empty) {
            api::call("GET", url.clone(), Body::None, move |answer| {
                text.set(answer.map_or_else(|error| error, |answer| format!("{:#}", answer.value["config"])));
            });
        }
    };
    view! {
        <details on:toggle=read>
            <summary>"All settings"</summary>
            <pre class="json" tabindex="0" data-testid=testid>{move || text.get()}</pre>
        </details>
    }
    .into_any()
}
