//! The kernels with relaxed vectors: a module of their own over this module's memory, where the browser takes it.

use beckon_shaders::kernels::matmul_int8::relaxed;
use js_sys::{Function, Object, Reflect, WebAssembly};
use std::cell::RefCell;
use wasm_bindgen::{JsCast, JsValue};

thread_local! {
    static MATMUL: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Compiles the module and makes its kernel paths available; a browser that refuses it works without.
pub fn install() {
    if let Ok((matmul, has_dot)) = instantiate() {
        MATMUL.set(Some(matmul));
        relaxed::install(call, has_dot);
    }
}

/// Calls the product with the place of what it is of.
fn call(place: u32) {
    MATMUL.with_borrow(|matmul| {
        if let Some(matmul) = matmul
            && let Err(error) = matmul.call1(&JsValue::UNDEFINED, &JsValue::from(place))
        {
            wasm_bindgen::throw_val(error);
        }
    });
}

/// Size of this module's memory.
pub fn memory_bytes() -> u64 {
    let buffer = wasm_bindgen::memory().unchecked_into::<WebAssembly::Memory>().buffer();
    u64::from(buffer.unchecked_into::<js_sys::ArrayBuffer>().byte_length())
}

/// The product, and whether it had better multiply in fours.
fn instantiate() -> Result<(Function, bool), JsValue> {
    let module = WebAssembly::Module::new(&js_sys::Uint8Array::from(&relaxed::module()[..]).into())?;
    let [of, name] = relaxed::IMPORT;
    let (imports, own) = (Object::new(), Object::new());
    Reflect::set(&own, &name.into(), &wasm_bindgen::memory())?;
    Reflect::set(&imports, &of.into(), &own)?;
    let instance = WebAssembly::Instance::new(&module, &imports)?;
    let export = |name: &str| Reflect::get(&instance.exports(), &name.into())?.dyn_into::<Function>();
    let has_dot = export(relaxed::DOT_EXPORT)?.call0(&JsValue::UNDEFINED)?.as_f64() == Some(1.0);
    Ok((export(relaxed::EXPORT)?, has_dot))
}
