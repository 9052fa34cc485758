//! Lists in parts: `limit` and `before`, and a `Link` header that leads to the next part (RFC 8288).

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, header};
use beckon_shared::control::command::segment;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// Items of a part where nothing is said, and at most.
const DEFAULT_LIMIT: usize = 1_000;

/// Which part of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Part {
    /// At most this many items, 1 to 1,000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only those after the item with this id, in the list's order.
    before: Option<String>,
}

impl Part {
    /// At most this many.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, DEFAULT_LIMIT)
    }

    /// The cursor as a number; `i64::MAX` where there is none, 0 where it is no number of ours.
    pub fn before_number(&self) -> i64 {
        self.before.as_ref().map_or(i64::MAX, |before| before.parse().unwrap_or(0))
    }

    /// The cursor as a number in a list that is read from its smallest on; 0 where there is none, `i64::MAX` where it is no
    /// number of ours.
    pub fn after_number(&self) -> i64 {
        self.before.as_ref().map_or(0, |before| before.parse().unwrap_or(i64::MAX))
    }

    /// The cursor as it was sent.
    pub fn cursor(&self) -> Option<&str> {
        self.before.as_deref()
    }

    /// The part of a whole list; `id` names an item. A cursor that is not in the list gives nothing.
    pub fn of<T: Serialize>(&self, path: &str, items: Vec<T>, id: impl Fn(&T) -> &str) -> (HeaderMap, Json<Vec<T>>) {
        let (items, next) = self.cut(items, id);
        (self.link(path, next), Json(items))
    }

    /// As [`Part::of`], with the item that the next part comes after, where there is one.
    pub fn cut<T>(&self, items: Vec<T>, id: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
        let from = match &self.before {
            None => 0,
            Some(before) => items.iter().position(|item| id(item) == before).map_or(items.len(), |idx| idx + 1),
        };
        let rest = items.len() - from;
        let items: Vec<T> = items.into_iter().skip(from).take(self.limit()).collect();
        let next = items.last().filter(|_| rest > items.len()).map(|last| id(last).to_owned());
        (items, next)
    }

    /// The item that the next part comes after, where `items` were read with [`Part::limit`]: a full part may be the last one,
    /// and then the next is empty.
    pub fn next<T>(&self, items: &[T], id: impl Fn(&T) -> String) -> Option<String> {
        items.last().filter(|_| items.len() == self.limit()).map(id)
    }

    /// The header that leads to the part after the item `next`.
    pub fn link(&self, path: &str, next: Option<String>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let link = next.map(|id| format!("<{path}?limit={}&before={}>; rel=\"next\"", self.limit(), segment(&id)));
        if let Some(value) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            headers.insert(header::LINK, value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn following_the_links_gives_every_item_once() {
        let all: Vec<String> = (0..7).map(|i| format!("r{i}")).collect();
        let mut part = Part { limit: Some(3), before: None };
        let mut got = Vec::new();
        loop {
            let (headers, Json(items)) = part.of("/api/runs", all.clone(), |item| item);
            assert!(items.len() <= 3);
            got.extend(items);
            let Some(link) = headers.get(header::LINK) else { break };
            let link = link.to_str().expect("text");
            assert!(link.starts_with("</api/runs?limit=3&before=r") && link.ends_with("rel=\"next\""), "{link}");
            part.before = got.last().cloned();
        }
        assert_eq!(got, all);
    }

    #[test]
    fn a_strange_cursor_gives_nothing_and_a_strange_limit_is_bounded() {
        let part = Part { limit: Some(0), before: Some("x".into()) };
        assert_eq!(part.of("/api/runs", vec!["r1".to_owned()], |item| item).1.0, Vec::<String>::new());
        assert_eq!((part.limit(), part.before_number(), part.after_number()), (1, 0, i64::MAX));
        let first = Part::default();
        assert_eq!((first.limit(), first.before_number(), first.after_number()), (1_000, i64::MAX, 0));
    }

    #[test]
    fn a_full_part_leads_on_and_a_shorter_one_does_not() {
        let part = Part { limit: Some(2), before: None };
        assert_eq!(part.next(&[7, 8], i32::to_string), Some("8".to_owned()));
        assert_eq!(part.next(&[7], i32::to_string), None);
    }
}
