use super::*;
use crate::prompt::{Role, Turn};

const TEXTS: [&str; 6] = [
    "how to cook rice",
    "how to cook brown rice",
    "best rice cooker brands",
    "Cooking Rice in a pot",
    "what is the weather in london today",
    "weather tomorrow in london",
];

fn tokenizer() -> Tokenizer {
    Tokenizer::train(TEXTS, 512).unwrap()
}

#[test]
fn round_trip_gives_the_normalised_text() {
    let t = tokenizer();
    for text in [
        "",
        " ",
        "how to cook rice",
        "Ｆｕｌｌ ＷＩＤＴＨ ﬁsh",
        "naïve café\n\ttabs  two",
        "日本語 🙂 e\u{301}",
        "<|end|> <|user|>",
        "\0\u{7f}",
    ] {
        let tokens = t.encode_text(text);
        assert_eq!(t.decode(&tokens), normalise(text), "{text:?}");
        assert!(tokens.iter().all(|&id| id > END && (id as usize) < t.vocab_size()), "{text:?} gave {tokens:?}");
    }
    assert_eq!(normalise("Ｆｕｌｌ ﬁsh"), "full fish");
}

#[test]
fn training_merges_and_shrinks_text() {
    let t = tokenizer();
    assert!(t.vocab_size() > MIN_VOCAB_SIZE && t.vocab_size() <= 512, "{}", t.vocab_size());
    assert!(t.encode_text("how to cook rice").len() <= 5);
    // no token crosses the space between words
    assert_eq!(t.encode_text("rice"), t.encode_text("rice weather")[..t.encode_text("rice").len()]);
}

#[test]
fn merges_by_hand() {
    // "aab" three times, "ab" twice: a-b occurs 5 times and merges first, then a-ab
    let counts = BTreeMap::from([("aab".to_owned(), 3), ("ab".to_owned(), 2)]);
    let v = train_merges(&counts, MIN_VOCAB_SIZE + 10);
    assert_eq!(v.merges, [("a".to_owned(), "b".to_owned()), ("a".to_owned(), "ab".to_owned())]);
    assert_eq!(v.spelling[MIN_VOCAB_SIZE..], ["ab".to_owned(), "aab".to_owned()]);
    // a pair that overlaps itself is taken from the left
    assert_eq!(merge_word(&[7, 7, 7], (7, 7), 9), [9, 7]);
}

#[test]
fn deterministic_and_independent_of_order() {
    let reversed = Tokenizer::train(TEXTS.iter().rev(), 512).unwrap();
    assert_eq!(tokenizer().to_json(), reversed.to_json());
    assert_eq!(tokenizer().hash(), reversed.hash());
}

#[test]
fn json_round_trip() {
    let t = tokenizer();
    let again = Tokenizer::from_json(t.to_json()).unwrap();
    assert_eq!(again.to_json(), t.to_json());
    assert_eq!(again.encode_text("cook the weather"), t.encode_text("cook the weather"));
    assert_eq!(again.encode_text("<|end|>"), t.encode_text("<|end|>"));
}

#[test]
fn prompts_and_suggestions() {
    let t = tokenizer();
    let prompt = Prompt {
        turns: vec![
            Turn { role: Role::User, text: "cook rice".into() },
            Turn { role: Role::Assistant, text: "in a pot".into() },
            Turn { role: Role::User, text: "weather <|suggest|>".into() },
        ],
    };
    let tokens = t.encode_prompt(&prompt, 1000);
    let specials: Vec<u32> = tokens.iter().copied().filter(|&id| id <= END).collect();
    assert_eq!(specials, [USER, ASSISTANT, USER, SUGGEST]);
    assert_eq!((tokens[0], *tokens.last().unwrap()), (USER, SUGGEST));
    assert_eq!(t.decode(&tokens), "cook ricein a potweather <|suggest|>");
    assert_eq!(t.encode_prompt(&Prompt::default(), 1000), [SUGGEST]);
    let suggestion = t.encode_suggestion("brown rice");
    assert_eq!(suggestion.last(), Some(&END));
    assert_eq!(t.decode(&suggestion), "brown rice");
}

#[test]
fn long_prompts_keep_the_newest() {
    let t = tokenizer();
    let prompt = Prompt {
        turns: vec![
            Turn { role: Role::User, text: "cook rice".into() },
            Turn { role: Role::Assistant, text: "weather in london today".into() },
        ],
    };
    let full = t.encode_prompt(&prompt, 1000);
    for max in 0..=full.len() {
        let cut = t.encode_prompt(&prompt, max);
        assert!(cut.len() <= max.max(1) && *cut.last().unwrap() == SUGGEST, "{max}: {cut:?}");
        assert!(cut[0] <= END, "{max}: a kept turn begins with its role token, {cut:?}");
        // behind the role token the cut prompt is the end of the full one
        assert_eq!(cut[1..], full[full.len() - (cut.len() - 1)..], "{max}");
    }
    assert_eq!(t.encode_prompt(&prompt, full.len()), full);
}

#[test]
fn refuses_what_is_no_tokenizer_of_ours() {
    assert!(matches!(Tokenizer::train(TEXTS, 260), Err(TokenizerError::VocabTooSmall { got: 260 })));
    assert!(matches!(Tokenizer::from_json("{"), Err(TokenizerError::Json { .. })));
    let swapped = tokenizer().to_json().replace("<|pad|>", "<|bad|>");
    assert!(matches!(
        Tokenizer::from_json(&swapped),
        Err(TokenizerError::SpecialToken { token: "<|pad|>", got: None, want: 0 })
    ));
    let gap = tokenizer().to_json().replace("\"rice\":", "\"rice\":9").replace("Ġrice\":", "Ġrice\":9");
    assert!(Tokenizer::from_json(&gap).is_err());
}
