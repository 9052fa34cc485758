//! Lists that come in parts: the header that leads from one to the next, and parts put together. For every client of the
//! server, the page and the command line.

use serde_json::Value;

/// Where a list goes on, from the value of a `Link` header (RFC 8288): the target of the relation `next`. `None` where the list
/// ends.
pub fn next_part(link: &str) -> Option<&str> {
    let mut rest = link;
    loop {
        let (target, behind) = rest.split_once('<')?.1.split_once('>')?;
        // what describes a target ends where the next one begins
        let described = behind.split_once('<').map_or(behind, |(described, _)| described);
        let mut parameters = described.split(';').filter_map(|parameter| parameter.split_once('='));
        if parameters.any(|(name, value)| name.trim().eq_ignore_ascii_case("rel") && is_next(value)) {
            return Some(target);
        }
        rest = behind;
    }
}

/// Whether `next` is among the relations of a value, which is in quotes or not, and has a comma behind it or not.
fn is_next(value: &str) -> bool {
    let relations = value.trim_matches(|c: char| c == '"' || c == ',' || c.is_whitespace());
    relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"))
}

/// Puts a further part behind what is there: of a list its items, of an object the items of each of its lists. Anything else
/// stays as it is.
pub fn append(whole: &mut Value, part: Value) {
    match (whole, part) {
        (Value::Array(whole), Value::Array(mut part)) => whole.append(&mut part),
        (Value::Object(whole), Value::Object(part)) => {
            for (name, part) in part {
                match whole.get_mut(&name) {
                    Some(whole) => append(whole, part),
                    None => drop(whole.insert(name, part)),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_next_part_is_found_among_the_links() {
        let next = Some("/api/runs?limit=2&before=r3");
        for link in [
            "</api/runs?limit=2&before=r3>; rel=\"next\"",
            "</api/runs?limit=2&before=r3>;rel=next",
            "</api/runs>; rel=\"first\", </api/runs?limit=2&before=r3>; title=\"more\"; REL=\"next\", </x>; rel=last",
            "</api/runs?limit=2&before=r3>; rel=\"prev next\"",
        ] {
            assert_eq!(next_part(link), next, "{link}");
        }
        for link in ["", "</api/runs>", "</api/runs>; rel=\"prev\"", "</next>; rel=nextish", "<; rel=next", "no link"] {
            assert_eq!(next_part(link), None, "{link}");
        }
    }

    #[test]
    fn parts_come_behind_each_other() {
        let mut list = json!([1, 2]);
        append(&mut list, json!([3]));
        assert_eq!(list, json!([1, 2, 3]));
        let mut graph = json!({"nodes": [1], "edges": [], "version": 1});
        append(&mut graph, json!({"nodes": [2], "edges": [3], "more": [4], "version": 2}));
        assert_eq!(graph, json!({"nodes": [1, 2], "edges": [3], "more": [4], "version": 1}));
    }
}
