//! What a run said: alarms where they are seen, and its log, now and for as long as the run is there.

use crate::api;
use crate::component::field::failed;
use crate::format;
use crate::live::Live;
use crate::platform::clock;
use crate::platform::http::{Body, encoded};
use beckon_shared::control::RunStatus;
use leptos::prelude::*;
use serde_json::Value;
use std::fmt::Write;

/// Alarms that are shown by themselves, the newest; the log has all.
const N_ALARMS: usize = 5;

/// Lines of a run, newest first, or why they cannot be read.
type Said = Option<Result<Value, String>>;

fn list(said: &Said) -> &[Value] {
    let lines = said.as_ref().and_then(|said| said.as_ref().ok()).and_then(Value::as_array);
    lines.map(Vec::as_slice).unwrap_or_default()
}

/// When, and what.
fn parts(line: &Value) -> (String, &str) {
    (clock::local_time(line["time_millis"].as_i64().unwrap_or_default()), line["text"].as_str().unwrap_or_default())
}

/// Alarms and log of a run; read again whenever a run has said something.
pub fn run_log(id: &str, run: Memo<Option<RunStatus>>) -> AnyView {
    let live = expect_context::<Live>();
    let url = format!("/api/runs/{}/log", encoded(id));
    let said = RwSignal::new(Said::None);
    let older = RwSignal::new(None::<String>);
    Effect::new(move || {
        live.lines_version.track();
        api::call("GET", url.clone(), Body::None, move |answer| match answer {
            Ok(answer) => {
                older.set(answer.next);
                // what has not changed is not drawn again
                let new = Some(Ok(answer.value));
                if said.try_with_untracked(|old| *old != new) == Some(true) {
                    said.set(new);
                }
            }
            // what was read once stays
            Err(error) => said.update(|said| {
                if list(said).is_empty() {
                    *said = Some(Err(error));
                }
            }),
        });
    });
    view! {
        {alarms(said, run)}
        {lines(said, older)}
        {move || said.with(|said| match said {
            Some(Err(error)) => Some(failed("run-log-failed", error.clone())),
            _ => None,
        })}
    }
    .into_any()
}

/// The newest alarms, without the one that repeats why the run failed.
fn alarms(said: RwSignal<Said>, run: Memo<Option<RunStatus>>) -> AnyView {
    let shown = move || {
        let failure = run.with(|run| run.as_ref()?.error.clone());
        let is_new = |text: &str| failure.as_ref().is_none_or(|failure| !text.ends_with(failure.as_str()));
        said.with(|said| {
            let alarms = list(said).iter().filter(|line| line["alarm"] == true).map(parts);
            let alarms = alarms.filter(|(_, text)| is_new(text)).take(N_ALARMS);
            let alarms = alarms.map(|(time, text)| format!("Alarm, {time}: {text}"));
            alarms.map(|text| view! { <p class="notice" data-testid="run-alarm">{text}</p> }).collect_view()
        })
    };
    view! { {shown} }.into_any()
}

fn lines(said: RwSignal<Said>, older: RwSignal<Option<String>>) -> AnyView {
    let text = move || {
        said.with(|said| {
            list(said).iter().fold(String::new(), |mut text, line| {
                let (time, said) = parts(line);
                let mark = if line["alarm"] == true { "ALARM " } else { "" };
                // writing to a String cannot fail
                let _ = writeln!(text, "{time}  {mark}{said}");
                text
            })
        })
    };
    let n_lines = move || format::counted(said.with(|said| list(said).len()) as u64, "line", "lines");
    view! {
        <details data-testid="run-log">
            <summary>"Log, newest first: "{n_lines}</summary>
            <pre class="json log" tabindex="0" data-testid="run-lines">{text}</pre>
            {move || older.get().map(|url| view! { <a href=url target="_blank" rel="noopener">"Older lines, as JSON"</a> })}
        </details>
    }
    .into_any()
}
