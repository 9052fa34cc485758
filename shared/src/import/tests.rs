//! Good lines are kept, broken ones named by line and field; the real files give the known counts.

use super::*;
use crate::click::{Impression, ImpressionLevel};

const GOOD: &str = r#"{"impression_id":"a","user_hash":"u","time_millis":1,"prompt":[{"role":"user","text":"rice"}],"slate":[{"text":"brown rice","propensity":0.5,"clicked":true}]}"#;

fn rejects(format: Format, text: &str) -> Vec<(usize, Option<String>)> {
    parse(format, text.as_bytes()).rejects.into_iter().map(|reject| (reject.line, reject.field)).collect()
}

#[test]
fn a_broken_line_is_named_and_the_good_ones_kept() {
    let other = GOOD.replace("\"a\"", "\"b\"");
    let text = format!("\u{feff}{GOOD}\r\n\n{{\"impression_id\": \n{other}\n");
    let parsed = parse(Format::Jsonl, text.as_bytes());
    assert_eq!(parsed.records.len(), 2);
    assert_eq!(parsed.rejects.len(), 1);
    assert_eq!(parsed.rejects[0].line, 3);
    assert!(parsed.rejects[0].reason.contains("broken JSON"), "{:?}", parsed.rejects[0]);
}

#[test]
fn the_field_at_fault_is_named() {
    let cases = [
        (GOOD.replace("0.5", "1.5"), "slate[0].propensity"),
        (GOOD.replace("true", "\"yes\""), "slate[0].clicked"),
        (GOOD.replace("\"brown rice\"", "\" \""), "slate[0].text"),
        (GOOD.replace("\"time_millis\":1,", ""), "time_millis"),
        (GOOD.replace("\"time_millis\":1", "\"time_millis\":-1"), "time_millis"),
        (GOOD.replace("\"clicked\":true", "\"clicked\":true,\"color\":1"), "slate[0].color"),
        (GOOD.replace("\"clicked\":true", "\"clicked\":true,\"visible\":false"), "slate[0].visible"),
        (GOOD.replace("\"clicked\":true", "\"clicked\":true,\"dwell_secs\":-2"), "slate[0].dwell_secs"),
        (GOOD.replace("\"user\"", "\"robot\""), "prompt[0].role"),
        (format!("{GOOD}\n{GOOD}"), "impression_id"),
    ];
    for (text, field) in cases {
        let found = rejects(Format::Jsonl, &text);
        assert_eq!(found.len(), 1, "{text}");
        assert_eq!(found[0].1.as_deref(), Some(field), "{text}");
    }
}

#[test]
fn empty_and_foreign_files_are_refused_in_words() {
    for format in Format::ALL {
        for bytes in [&b""[..], b" \n\n", b"\xff\xfe\x00\x01", b"PK\x03\x04 zip", b"{\"x\": [", b"[]", b"null"] {
            let parsed = parse(format, bytes);
            assert!(parsed.records.is_empty() && !parsed.rejects.is_empty(), "{format:?} {bytes:?}");
            assert!(parsed.rejects.iter().all(|reject| !reject.reason.is_empty()), "{format:?} {bytes:?}");
        }
    }
}

#[test]
fn long_and_broken_bytes_are_refused_by_line() {
    let mut bytes = GOOD.as_bytes().to_vec();
    bytes.extend(b"\n\xff\xfe{\n");
    bytes.extend(vec![b'x'; MAX_LINE_BYTES + 1]);
    let parsed = parse(Format::Jsonl, &bytes);
    assert_eq!((parsed.records.len(), parsed.rejects.len()), (1, 2));
    assert_eq!((parsed.rejects[0].line, parsed.rejects[1].line), (2, 3));
    assert!(parsed.rejects.iter().all(|reject| reject.text.chars().count() <= KEPT_CHARS));
}

#[test]
fn tables_name_line_and_column() {
    let header = "clickability_test_id,headline,eyecatcher_id,impressions,clicks\n";
    let bad = format!("{header}t,one,e,10,11\nt,\"two\nlines\",e,10,1\nt,three,e,x,1\nt,four\n");
    let parsed = parse(Format::Upworthy, bad.as_bytes());
    assert_eq!(parsed.records.len(), 1);
    let named: Vec<_> = parsed.rejects.iter().map(|r| (r.line, r.field.as_deref().unwrap_or_default())).collect();
    assert_eq!(named, [(2, "clicks"), (5, "impressions"), (6, "impressions")]);
    assert_eq!(rejects(Format::Upworthy, "a,b\n1,2\n"), [(1, Some("clickability_test_id".into()))]);
}

#[test]
fn panes_read_alike_from_tsv_and_jsonl() {
    let header = "query\tquestion\toption_1\toption_2\toption_3\toption_4\toption_5\timpression_level\t\
                  engagement_level\toption_cctr_1\toption_cctr_2\toption_cctr_3\toption_cctr_4\toption_cctr_5";
    let tsv = format!("{header}\nschool of rock\tq\tepisodes\trock school\t\t\t\tlow\t4\t0.75\t0.25\t0\t0\t0\n");
    let json = r#"{"query":"school of rock","options":["episodes","rock school"],"impression_level":"low","engagement_level":4,"option_cctr":[0.75,0.25],"pane_quality":3}"#;
    let from_tsv = parse(Format::MimicsDuo, tsv.as_bytes());
    assert_eq!(from_tsv, parse(Format::MimicsDuo, json.as_bytes()));
    let Record::Pane(pane) = &from_tsv.records[0].record else { panic!("a pane") };
    assert_eq!(pane.options, ["school of rock episodes", "rock school"]);
    assert_eq!(pane.impression_level, ImpressionLevel::Low);
}

#[test]
fn simulated_impressions_are_a_source_of_their_own() {
    let text = GOOD.replace("\"time_millis\"", "\"simulated\":true,\"time_millis\"");
    assert_eq!(parse(Format::Jsonl, text.as_bytes()).records[0].source, "simulated");
    assert_eq!(parse(Format::Jsonl, GOOD.as_bytes()).records[0].source, "log");
}

#[test]
fn every_format_has_its_name() {
    for format in Format::ALL {
        assert_eq!(format.name().parse(), Ok(format));
    }
    assert!("xml".parse::<Format>().is_err());
}

#[test]
fn the_published_schema_is_current() {
    let published: serde_json::Value =
        serde_json::from_str(include_str!("../../schema/impression.schema.json")).expect("JSON");
    assert_eq!(published, crate::click::json_schema(), "run `cargo run --release --example schema -p beckon-shared`");
    let _: Impression = serde_json::from_str(GOOD).expect("the example is an impression");
}

#[test]
#[ignore = "needs ../shared/data"]
fn the_real_files_have_the_known_counts() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let root = std::env::var("BECKON_DATA").unwrap_or_else(|_| beside.into());
    for (format, file, want) in [
        (Format::MimicsDuo, "mimics-duo/panes.jsonl", 761),
        (Format::MimicsDuo, "mimics-duo/raw/Mimics-ClickExploreSampling.tsv", 761),
        (Format::Intents, "mimics-intents/query2intents.json", 4_849),
        (Format::MimicsManual, "mimics-manual/MIMICS-Manual.tsv", 1_966),
        (Format::Upworthy, "upworthy/upworthy.csv", 12_782),
        (Format::Conversations, "conversations/next_query.jsonl", 730),
    ] {
        let bytes = std::fs::read(format!("{root}/{file}")).expect(file);
        let parsed = parse(format, &bytes);
        assert_eq!((parsed.records.len(), parsed.rejects.len()), (want, 0), "{file}: {:?}", parsed.rejects.first());
    }
}
