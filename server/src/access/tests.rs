//! Tokens: right, wrong, expired, removed, malformed; none is ever stored.

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let store = Store::open(&dir.path().join("beckon.sqlite")).expect("opens");
    (dir, store)
}

fn denied(store: &Store, token: &str, now_millis: i64) -> AccessError {
    match identify(store, token, now_millis) {
        Err(IdentifyError::Access(error)) => error,
        other => panic!("{token}: {other:?}"),
    }
}

#[test]
fn a_token_is_its_holders_until_it_expires_or_is_removed() {
    let (_dir, store) = store();
    let (text, token) = new_token("ann", Role::Operator, 100, Some(200)).expect("random");
    assert!(store.add_token(&token).expect("stored"));
    let ann = Sender::Holder { role: Role::Operator, name: "ann".into() };
    assert_eq!(identify(&store, &text, 150).expect("right"), ann);
    assert_eq!(denied(&store, &text, 200), AccessError::Expired);
    let (_, second) = new_token("ann", Role::Admin, 100, None).expect("random");
    assert!(!store.add_token(&second).expect("asked"), "a name was given twice");
    assert!(store.remove_token("ann").expect("removed"));
    assert_eq!(denied(&store, &text, 150), AccessError::Unknown);
}

#[test]
fn a_wrong_secret_opens_nothing() {
    let (_dir, store) = store();
    let (text, token) = new_token("ann", Role::Admin, 0, None).expect("random");
    store.add_token(&token).expect("stored");
    let last = if text.ends_with('0') { '1' } else { '0' };
    let wrong = format!("{}{last}", &text[..text.len() - 1]);
    for bad in [wrong.as_str(), "", "bk", "bk__", &format!("bk_{}_", token.id), "bi_e1_x", "bk_0000000000000000_"] {
        assert_eq!(denied(&store, bad, 0), AccessError::Unknown, "{bad}");
    }
    // the hash is no token either
    assert_eq!(denied(&store, &format!("bk_{}_{}", token.id, hex(&token.hash)), 0), AccessError::Unknown);
}

#[test]
fn the_store_never_holds_a_secret() {
    let (dir, store) = store();
    let (text, token) = new_token("ann", Role::Admin, 0, None).expect("random");
    store.add_token(&token).expect("stored");
    drop(store);
    let secret = text.rsplit('_').next().expect("a secret").as_bytes().to_vec();
    for entry in std::fs::read_dir(dir.path()).expect("listed") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("read");
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[test]
fn tokens_are_read_from_header_and_cookie() {
    let headers = |name: header::HeaderName, values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| _ = headers.append(name.clone(), header::HeaderValue::from_static(value)));
        headers
    };
    let bearer = |values: &[&'static str]| token_of(&headers(header::AUTHORIZATION, values));
    assert_eq!(bearer(&["Bearer abc"]), Ok(Some("abc".into())));
    assert_eq!(bearer(&["bearer  abc "]), Ok(Some("abc".into())));
    for bad in [&["abc"][..], &["Basic abc"], &["Bearer "], &["Bearer a", "Bearer b"]] {
        assert_eq!(bearer(bad), Err(AccessError::Malformed), "{bad:?}");
    }
    let cookie = token_of(&headers(header::COOKIE, &["theme=dark; beckon_token=abc; x=y"]));
    assert_eq!(cookie, Ok(Some("abc".into())));
    assert_eq!(token_of(&HeaderMap::new()), Ok(None));
}

#[tokio::test]
async fn a_pass_is_good_while_its_token_is_and_only_for_what_its_role_may() {
    let (_dir, store) = store();
    let store = Arc::new(store);
    let (text, token) = new_token("ann", Role::Viewer, 0, None).expect("random");
    store.add_token(&token).expect("stored");
    let (ended_text, ended) = new_token("bob", Role::Admin, 0, Some(1)).expect("random");
    store.add_token(&ended).expect("stored");
    let pass = |token: Option<&str>, need| {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let value = header::HeaderValue::from_str(&format!("Bearer {token}")).expect("a value");
            headers.insert(header::AUTHORIZATION, value);
        }
        Pass::new(Arc::clone(&store), &headers, need)
    };
    let ann = pass(Some(&text), Need::View);
    assert!(ann.is_good().await);
    assert!(!pass(Some(&text), Need::Operate).is_good().await, "a viewer's token does for an operator");
    assert!(!pass(Some(&ended_text), Need::View).is_good().await, "a token that has expired does");
    assert!(store.remove_token("ann").expect("removed"));
    assert!(!ann.is_good().await, "a token that was removed does");
    assert!(pass(None, Need::View).is_good().await, "who needed no token is out");
}

#[test]
fn two_tokens_are_never_the_same() {
    let tokens: std::collections::HashSet<String> =
        (0..100).map(|_| new_token("n", Role::Viewer, 0, None).expect("random").0).collect();
    assert_eq!(tokens.len(), 100);
}
