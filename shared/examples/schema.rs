//! Writes the published JSON Schema of an impression:
//! `cargo run --release --example schema -p beckon-shared`.

fn main() -> std::io::Result<()> {
    let schema = serde_json::to_string_pretty(&beckon_shared::click::json_schema()).expect("a schema is JSON");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/impression.schema.json");
    std::fs::write(path, schema + "\n")
}
