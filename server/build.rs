//! Prepares what the server embeds: the page's folder (a note where the page is not built yet) and the optional assets.

use std::fmt::Write as _;
use std::path::PathBuf;

const NOTE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Beckon</title>\
<p>This beckon was built before its page. Run <code>cargo xtask build-page</code>, then build the server again \
(<code>cargo xtask demo</code> does both).</p></html>\n";

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));

    let index = root.join("page/index.html");
    if !index.exists() {
        std::fs::create_dir_all(root.join("page")).expect("server/page can be made");
        std::fs::write(&index, NOTE).expect("server/page can be written");
    }
    println!("cargo:rerun-if-changed=page");

    let mut code = String::new();
    for (name, file) in [("NANO", "nano.beckon"), ("SAMPLE", "sample.jsonl")] {
        let value = if root.join("assets").join(file).exists() { embed(file) } else { "None".into() };
        writeln!(code, "const {name}: Option<&[u8]> = {value};").expect("a string takes everything");
    }
    // the folder, so that a file that appears later is noticed
    std::fs::create_dir_all(root.join("assets")).expect("server/assets can be made");
    println!("cargo:rerun-if-changed=assets");
    std::fs::write(out.join("assets.rs"), code).expect("OUT_DIR can be written");
}

/// By way of `env!`, which Cargo watches: a build directory that two clones share must not point into the other one.
fn embed(file: &str) -> String {
    format!("Some(include_bytes!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/assets/{file}\")))")
}
