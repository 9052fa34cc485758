//! Chromium without a window, driven over its own protocol through the page's `data-testid` attributes.
//!
//! WebGPU runs on SwiftShader, so no GPU is needed. Clicks and typing go through the page's own events; the
//! oracle is always the state of the page, never a picture.

use headless_chrome::browser::tab::Tab;
use headless_chrome::protocol::cdp::types::Event;
use headless_chrome::protocol::cdp::{Runtime, Storage};
use headless_chrome::{Browser, LaunchOptions};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest single call; a greedy decode of many prompts on SwiftShader takes minutes.
const CALL_LIMIT: Duration = Duration::from_secs(600);

/// Whether the browser offers WebGPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebGpu {
    /// On SwiftShader.
    On,
    /// Not at all: `navigator.gpu` gives no adapter.
    Off,
}

/// A tab with its own browser and profile.
pub struct Page {
    /// Keeps the process alive.
    browser: Browser,
    tab: Arc<Tab>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Page {
    /// Opens an address.
    ///
    /// # Panics
    /// When Chromium does not start or the page does not load.
    #[track_caller]
    pub fn open(url: &str, web_gpu: WebGpu) -> Self {
        let mut args = vec!["--disable-quic", "--disable-component-update", "--disable-dev-shm-usage"];
        match web_gpu {
            WebGpu::On => args.extend(["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]),
            WebGpu::Off => args.push("--disable-features=WebGPU,WebGPUService"),
        }
        let options = LaunchOptions::default_builder()
            .path(std::env::var_os("CHROME").map(Into::into))
            .headless(true)
            .sandbox(false) // containers run the tests as root
            .enable_gpu(true)
            .port(Some(0))
            .window_size(Some((1280, 900)))
            .idle_browser_timeout(CALL_LIMIT)
            .args(args.into_iter().map(OsStr::new).collect())
            .build()
            .expect("options of Chromium");
        let browser = Browser::new(options).expect("Chromium starts");
        let tab = browser.new_tab().expect("a tab");
        let errors = Arc::new(Mutex::new(Vec::new()));
        collect_errors(&tab, &errors);
        tab.navigate_to(url).and_then(|tab| tab.wait_until_navigated()).expect("the page loads");
        Self { browser, tab, errors }
    }

    /// Loads another address in the same tab.
    ///
    /// # Panics
    /// When it does not load.
    #[track_caller]
    pub fn go(&self, url: &str) {
        self.tab.navigate_to(url).and_then(|tab| tab.wait_until_navigated()).expect("the page loads");
    }

    /// Lets an origin keep so many bytes, no more.
    ///
    /// # Panics
    /// When Chromium refuses.
    #[track_caller]
    pub fn limit_quota(&self, origin: &str, n_bytes: f64) {
        let limit = Storage::OverrideQuotaForOrigin { origin: origin.to_owned(), quota_size: Some(n_bytes) };
        self.tab.call_method(limit).expect("Chromium limits the quota");
    }

    /// Puts another tab in front until the result is dropped, so that this one is hidden.
    ///
    /// # Panics
    /// When Chromium opens no tab.
    #[track_caller]
    pub fn hide(&self) -> Hidden {
        let front = self.browser.new_tab().expect("a second tab");
        front.bring_to_front().expect("the second tab in front");
        Hidden { front, back: Arc::clone(&self.tab) }
    }

    /// Value of an expression; a promise is awaited.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn eval(&self, expression: &str) -> Value {
        self.try_eval(expression)
            .unwrap_or_else(|error| panic!("{error}\nin {expression}\nconsole: {:?}", self.errors()))
    }

    /// Value of an expression, or what it threw.
    ///
    /// # Errors
    /// The text of the exception.
    ///
    /// # Panics
    /// When Chromium does not answer.
    pub fn try_eval(&self, expression: &str) -> Result<Value, String> {
        let outcome = self
            .tab
            .call_method(Runtime::Evaluate {
                expression: expression.to_owned(),
                return_by_value: Some(true),
                await_promise: Some(true),
                generate_preview: None,
                silent: None,
                include_command_line_api: None,
                user_gesture: Some(true),
                object_group: None,
                context_id: None,
                throw_on_side_effect: None,
                timeout: None,
                disable_breaks: None,
                repl_mode: None,
                allow_unsafe_eval_blocked_by_csp: None,
                unique_context_id: None,
                serialization_options: None,
            })
            .expect("an answer of Chromium");
        match outcome.exception_details {
            Some(details) => {
                let thrown = details.exception.and_then(|exception| exception.description);
                Err(thrown.unwrap_or(details.text))
            }
            None => Ok(outcome.result.value.unwrap_or(Value::Null)),
        }
    }

    /// Text of the first element with this test id and these attributes (`[data-run="r1"]`), if there is one.
    #[track_caller]
    pub fn text(&self, test_id: &str) -> Option<String> {
        self.eval(&format!("{}?.textContent ?? null", element(test_id))).as_str().map(str::to_owned)
    }

    /// An attribute of that element.
    #[track_caller]
    pub fn attribute(&self, test_id: &str, name: &str) -> Option<String> {
        self.eval(&format!("{}?.getAttribute({name:?}) ?? null", element(test_id))).as_str().map(str::to_owned)
    }

    /// How many elements there are.
    #[track_caller]
    pub fn count(&self, test_id: &str) -> u64 {
        self.eval(&format!("document.querySelectorAll({:?}).length", selector(test_id))).as_u64().unwrap_or(0)
    }

    /// Clicks an element as soon as it is there, enabled.
    #[track_caller]
    pub fn click(&self, test_id: &str) {
        let click = format!(
            "(() => {{ const e = {}; if (!e || e.disabled) return false; e.click(); return true }})()",
            element(test_id)
        );
        self.wait(&format!("a click on {test_id}"), 30, || (self.eval(&click) == true).then_some(()));
    }

    /// Types into a field, or picks an option, as soon as it is there.
    #[track_caller]
    pub fn fill(&self, test_id: &str, text: &str) {
        let fill = format!(
            "(() => {{ const e = {}; if (!e || e.disabled) return false; e.focus(); e.value = {};
             for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {{ bubbles: true }}));
             return e.value === {1} }})()",
            element(test_id),
            Value::from(text)
        );
        self.wait(&format!("{text:?} in {test_id}"), 30, || (self.eval(&fill) == true).then_some(()));
    }

    /// Picks a file in an `<input type=file>`, as soon as it is there.
    ///
    /// # Panics
    /// When Chromium refuses.
    #[track_caller]
    pub fn pick_file(&self, test_id: &str, path: &Path) {
        self.wait(test_id, 30, || (self.count(test_id) > 0).then_some(()));
        let path = path.to_str().expect("a path in UTF-8");
        let input = self.tab.find_element(&selector(test_id)).expect("the input");
        input.set_input_files(&[path]).expect("Chromium picks the file");
    }

    /// Waits; when it was in vain, says what the page shows.
    ///
    /// # Panics
    /// When `secs` are over.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, secs: u64, mut ask: impl FnMut() -> Option<T>) -> T {
        let start = std::time::Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if start.elapsed() > Duration::from_secs(secs) {
                let shown = self.eval("document.body.innerText");
                panic!("waited {secs} s in vain for: {what}\nthe page shows: {shown}\nconsole: {:?}", self.errors());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Uncaught exceptions and errors of the console so far.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A page behind another tab.
pub struct Hidden {
    front: Arc<Tab>,
    back: Arc<Tab>,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // a browser that is gone has nothing to close
        let _ = self.front.close(true);
        let _ = self.back.bring_to_front();
    }
}

/// `name` or `name[data-x="y"]` as a CSS selector.
fn selector(test_id: &str) -> String {
    let (name, rest) = test_id.split_at(test_id.find('[').unwrap_or(test_id.len()));
    format!("[data-testid=\"{name}\"]{rest}")
}

fn element(test_id: &str) -> String {
    format!("document.querySelector({})", Value::from(selector(test_id)))
}

fn collect_errors(tab: &Arc<Tab>, errors: &Arc<Mutex<Vec<String>>>) {
    let errors = Arc::clone(errors);
    let push = move |text: String| errors.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    tab.enable_runtime().and_then(|tab| tab.enable_log()).expect("the console can be read");
    let listener = move |event: &Event| match event {
        Event::RuntimeExceptionThrown(thrown) => {
            let details = &thrown.params.exception_details;
            let what = details.exception.as_ref().and_then(|exception| exception.description.clone());
            push(what.unwrap_or_else(|| details.text.clone()));
        }
        Event::LogEntryAdded(entry)
            if entry.params.entry.level == headless_chrome::protocol::cdp::Log::LogEntryLevel::Error =>
        {
            push(entry.params.entry.text.clone());
        }
        _ => {}
    };
    tab.add_event_listener(Arc::new(listener)).expect("the console can be listened to");
}
