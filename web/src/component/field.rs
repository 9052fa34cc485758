//! Fields of forms with their label above, and what an answer says below.

use leptos::prelude::*;

/// A text field; `mode` is the keyboard of a touch screen: `text`, `numeric`, `decimal`.
pub fn text_field(
    label: &'static str,
    testid: &'static str,
    mode: &'static str,
    value: RwSignal<String>,
    required: bool,
) -> AnyView {
    view! {
        <label>{label}
            <input type="text" inputmode=mode data-testid=testid required=required prop:value=move || value.get()
                on:input=move |ev| value.set(event_target_value(&ev))/>
        </label>
    }
    .into_any()
}

/// A closed list; `options` holds the value of each and its name.
pub fn select_field(
    label: &'static str,
    testid: &'static str,
    value: RwSignal<String>,
    options: Box<dyn Fn() -> Vec<(String, String)> + Send>,
) -> AnyView {
    let option = move |(id, shown): (String, String)| {
        let of = id.clone();
        view! { <option value=id prop:selected=move || value.get() == of>{shown}</option> }
    };
    view! {
        <label>{label}
            <select required data-testid=testid on:change=move |ev| value.set(event_target_value(&ev))>
                {move || options().into_iter().map(option).collect_view()}
            </select>
        </label>
    }
    .into_any()
}

/// Why something was not done.
pub fn failed(testid: &'static str, text: String) -> AnyView {
    view! { <p class="error" role="alert" data-testid=testid>{text}</p> }.into_any()
}

/// A secret that the server shows once, or why there is none.
pub fn shown_once(testid: &'static str, secret: Result<String, String>) -> AnyView {
    match secret {
        Ok(secret) => view! {
            <p class="result" role="status">"Shown once, keep it: " <code class="secret" data-testid=testid>{secret}</code></p>
        }
        .into_any(),
        Err(error) => failed(testid, error),
    }
}
