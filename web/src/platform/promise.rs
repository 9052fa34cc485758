//! A value that arrives later, between two parts of one thread; and futures as promises for JavaScript.

use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::JsValue;
use wasm_bindgen::closure::Closure;
use wasm_bindgen_futures::JsFuture;

struct Slot<T> {
    value: Option<T>,
    resolve: Option<js_sys::Function>,
}

/// The end that brings the value.
pub struct Sender<T>(Rc<RefCell<Slot<T>>>);

/// The end that waits.
pub struct Receiver<T> {
    slot: Rc<RefCell<Slot<T>>>,
    promise: js_sys::Promise,
}

/// Both ends.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, resolve: None }));
    let promise = js_sys::Promise::new(&mut |resolve, _| slot.borrow_mut().resolve = Some(resolve));
    (Sender(slot.clone()), Receiver { slot, promise })
}

impl<T> Sender<T> {
    /// Brings the value; only the first counts.
    pub fn send(self, value: T) {
        let resolve = {
            let mut slot = self.0.borrow_mut();
            slot.value = Some(value);
            slot.resolve.take()
        };
        if let Some(resolve) = resolve {
            let _ = resolve.call0(&JsValue::UNDEFINED);
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if let Some(resolve) = self.0.borrow_mut().resolve.take() {
            let _ = resolve.call0(&JsValue::UNDEFINED);
        }
    }
}

impl<T> Receiver<T> {
    /// The value; `None` if the sender went away without one.
    pub async fn receive(self) -> Option<T> {
        let _ = JsFuture::from(self.promise).await;
        self.slot.borrow_mut().value.take()
    }
}

/// A promise that resolves with text or rejects with an `Error`.
pub fn from_future(future: impl Future<Output = Result<String, String>> + 'static) -> js_sys::Promise {
    wasm_bindgen_futures::future_to_promise(async move {
        match future.await {
            Ok(text) => Ok(JsValue::from_str(&text)),
            Err(message) => Err(js_sys::Error::new(&message).into()),
        }
    })
}

/// An argument that JavaScript gave.
pub struct Argument(JsValue);

impl Argument {
    /// As text; `None` for anything else, `null` included.
    pub fn text(&self) -> Option<String> {
        self.0.as_string()
    }

    /// As a number.
    pub fn number(&self) -> Option<f64> {
        self.0.as_f64()
    }
}

/// A function of the embedding interface: up to four arguments in, promise of text out.
pub type PublicFunction = Box<dyn Fn([Argument; 4]) -> js_sys::Promise>;

/// Puts an object with these functions on `window`.
pub fn publish(name: &str, functions: Vec<(&'static str, PublicFunction)>) {
    let object = js_sys::Object::new();
    for (key, f) in functions {
        type Raw = dyn Fn(JsValue, JsValue, JsValue, JsValue) -> js_sys::Promise;
        let closure = Closure::<Raw>::new(move |a, b, c, d| f([a, b, c, d].map(Argument)));
        let _ = js_sys::Reflect::set(&object, &JsValue::from_str(key), &closure.into_js_value());
    }
    let _ = js_sys::Reflect::set(&js_sys::global(), &JsValue::from_str(name), &object);
}
