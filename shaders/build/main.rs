//! Puts the relaxed module together (`src/kernels/matmul_int8/relaxed.rs`), which the crate holds as bytes: what makes it is several
//! times as large as it is, and the page has no room for that.

mod code;
mod emit;
#[path = "../src/kernels/matmul_int8/relaxed/layout.rs"]
#[expect(dead_code, reason = "some of it is for the caller")]
mod layout;
mod team;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    for source in ["build", "src/kernels/matmul_int8/relaxed/layout.rs"] {
        println!("cargo::rerun-if-changed={source}");
    }
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    std::fs::write(out.join("relaxed.wasm"), emit::module())
}
