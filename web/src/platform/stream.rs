//! Server-sent events. `EventSource` reconnects by itself and sends the last event's number; only when
//! the browser gives up (a status that is not 200) do we open a new one.

use super::clock;
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;

/// Pause before a new `EventSource` when the browser gave up, milliseconds.
const RETRY_MILLIS: i32 = 3_000;

/// What happened to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It stands.
    Open,
    /// It broke; it is being tried again.
    Lost,
}

type OnMessage = Rc<RefCell<dyn FnMut(String)>>;
type OnLink = Rc<RefCell<dyn FnMut(Link)>>;

/// Listens to `url` for as long as the page lives.
pub fn listen(url: &'static str, on_message: impl FnMut(String) + 'static, on_link: impl FnMut(Link) + 'static) {
    connect(url, Rc::new(RefCell::new(on_message)), Rc::new(RefCell::new(on_link)));
}

fn connect(url: &'static str, on_message: OnMessage, on_link: OnLink) {
    let Ok(source) = web_sys::EventSource::new(url) else {
        (on_link.borrow_mut())(Link::Lost);
        return;
    };
    let message = {
        let on_message = on_message.clone();
        Closure::<dyn FnMut(web_sys::MessageEvent)>::new(move |event: web_sys::MessageEvent| {
            if let Some(text) = event.data().as_string() {
                (on_message.borrow_mut())(text);
            }
        })
    };
    let open = {
        let on_link = on_link.clone();
        Closure::<dyn FnMut()>::new(move || (on_link.borrow_mut())(Link::Open))
    };
    let error = {
        let source = source.clone();
        Closure::<dyn FnMut()>::new(move || {
            (on_link.borrow_mut())(Link::Lost);
            if source.ready_state() == web_sys::EventSource::CLOSED {
                source.set_onerror(None);
                let (on_message, on_link) = (on_message.clone(), on_link.clone());
                super::spawn(async move {
                    clock::sleep(RETRY_MILLIS).await;
                    connect(url, on_message, on_link);
                });
            }
        })
    };
    source.set_onmessage(Some(message.as_ref().unchecked_ref()));
    source.set_onopen(Some(open.as_ref().unchecked_ref()));
    source.set_onerror(Some(error.as_ref().unchecked_ref()));
    // they live as long as the connection; a new one after a refusal leaks these three, once every few seconds at most
    message.forget();
    open.forget();
    error.forget();
}
