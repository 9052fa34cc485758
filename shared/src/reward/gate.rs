//! Hard gate: deterministic rules that a suggestion must pass before any score counts. Method B.4.1.
//! A rule cannot be argued with by a policy that has learnt to please a scorer. On the suggestions of real
//! search panes the gate fails 1.2%, nearly all of them true duplicates.
//!
//! Each rule is one function that returns true where the suggestion is *fine*; [`Gate::check`] runs them
//! in order of [`Rule`] and reports the first that fails.
//!
//! Departures from method B.4.1, which was written for lists of full queries:
//! - one-word suggestions pass (1-16 words, not 2-16): real suggestion panes are full of them
//!   ("weather" after "ellsworth maine"); the length band still prefers two;
//! - copying is measured on the suggestion's own length *and* on whether it adds a word, since a good
//!   refinement often starts with the whole query ("fitbit sync now" -> "pc fitbit sync now");
//! - duplicates are found by words and not by an edit similarity of 0.9, which takes "update windows 7" and
//!   "update windows 8" for one (3.5% of the suggestions of real panes);
//! - a group is G draws for one slot, where some repetition is natural; the number of copies allowed is a
//!   field, 1 for a slate to be shown.

use super::similarity::{longest_common_substring, normalised, words};
use crate::prompt::Prompt;

/// Fewest and most words; characters for scripts without spaces.
const WORD_BAND: (usize, usize) = (1, 16);
const CJK_CHARACTER_BAND: (usize, usize) = (2, 32);
/// From this share of its own length on, a suggestion is text of an earlier turn.
const COPIED_SHARE: f64 = 0.8;

/// Openers of an assistant's answer; a suggestion speaks for the user.
const ASSISTANT_OPENERS: [&str; 20] = [
    "as an ai",
    "as a language model",
    "sure",
    "certainly",
    "of course",
    "absolutely",
    "here is",
    "here are",
    "here's",
    "let me help",
    "let me know",
    "i can help",
    "i can provide",
    "i'd be happy",
    "i would be happy",
    "i hope this",
    "would you like me",
    "do you want me",
    "you're welcome",
    "happy to help",
];

/// Words that end a suggestion whatever its scores: sexually explicit terms and calls to violence.
const BLOCKED_TERMS: [&str; 16] = [
    "porn",
    "porno",
    "pornhub",
    "xxx",
    "xvideos",
    "hentai",
    "nsfw",
    "blowjob",
    "milf",
    "beastiality",
    "incest",
    "rape",
    "child porn",
    "kill yourself",
    "make a bomb",
    "behead",
];

/// The rules, in the order in which they are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Ended by `<|end|>`, not cut off.
    Terminated,
    /// 1-16 words (2-32 characters of CJK).
    Length,
    /// No word or phrase over and over.
    Loop,
    /// Not a copy of a turn.
    Copy,
    /// No more than the allowed number of copies in the group.
    Duplicate,
    /// Script of the conversation.
    Script,
    /// No URL, address or phone number.
    Contact,
    /// Not an assistant's opening words.
    Voice,
    /// No blocked term.
    Blocklist,
}

/// Ends with `<|end|>`: a cut-off suggestion would otherwise be a way to length-hack.
pub fn is_terminated(finished: bool) -> bool {
    finished
}

fn is_cjk(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}')
}

/// 1-16 words; where most letters are CJK, 2-32 characters.
pub fn has_fitting_length(suggestion: &str) -> bool {
    let letters = suggestion.chars().filter(|c| c.is_alphanumeric()).count();
    let cjk = suggestion.chars().filter(|c| is_cjk(*c)).count();
    let (n, (low, high)) =
        if 2 * cjk > letters { (letters, CJK_CHARACTER_BAND) } else { (words(suggestion).len(), WORD_BAND) };
    (low..=high).contains(&n)
}

/// No phrase of one to three words three times in a row, and no word that makes up half of a suggestion of
/// six words or more.
pub fn has_no_loop(suggestion: &str) -> bool {
    let words = words(suggestion);
    let in_a_row = (1..=3).any(|n| words.windows(3 * n).any(|w| w[..n] == w[n..2 * n] && w[n..2 * n] == w[2 * n..]));
    let most = words.iter().map(|w| words.iter().filter(|v| *v == w).count()).max().unwrap_or(0);
    !in_a_row && (words.len() < 6 || 2 * most < words.len())
}

/// Not verbatim text of a turn: fails where the suggestion lies wholly inside a turn of the user, or where
/// the longest common substring is at least 0.8 of the suggestion *and* every word of the suggestion
/// is, up to its ending, a word of that turn ("sync nows" adds nothing to "sync now", "pc sync now" does).
pub fn is_not_a_copy(suggestion: &str, prompt: &Prompt) -> bool {
    let own_words = words(suggestion);
    let (own, spaced) = (normalised(suggestion), format!(" {} ", own_words.join(" ")));
    !prompt.turns.iter().any(|turn| {
        let turn_words = words(&turn.text);
        let shared = longest_common_substring(&own, &normalised(&turn.text)) as f64;
        let adds = own_words.iter().any(|w| !turn_words.iter().any(|t| is_same_word(w, t)));
        let inside = format!(" {} ", turn_words.join(" ")).contains(&spaced);
        inside || (shared >= COPIED_SHARE * own.chars().count() as f64 && !adds)
    })
}

/// Equal, or one is the other with one or two letters appended ("apple", "apples"); never for words with
/// digits, where an ending changes what is meant.
fn is_same_word(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let is_ending = |rest: &str| rest.chars().count() <= 2 && rest.chars().all(char::is_alphabetic);
    a == b
        || (short.chars().count() >= 3
            && short.chars().all(char::is_alphabetic)
            && long.strip_prefix(short).is_some_and(is_ending))
}

/// The same words up to endings, in any order.
fn is_same_suggestion(a: &[String], b: &[String]) -> bool {
    let sorted = |words: &[String]| {
        let mut words = words.to_vec();
        words.sort();
        words
    };
    a.len() == b.len() && sorted(a).iter().zip(sorted(b)).all(|(a, b)| is_same_word(a, &b))
}

/// Fewer than `max_copies` suggestions before `idx` in `group` say the same (the same words up to
/// endings, in any order): the first copies stay, later ones fail.
pub fn is_not_a_duplicate(group: &[&str], idx: usize, max_copies: usize) -> bool {
    let own = words(group[idx]);
    let n_same = group[..idx].iter().filter(|other| is_same_suggestion(&own, &words(other))).count();
    n_same < max_copies
}

/// Coarse script of a letter: enough to see that an answer changed language family.
fn script(c: char) -> Option<&'static str> {
    match c {
        c if !c.is_alphabetic() => None,
        '\u{0000}'..='\u{024f}' => Some("latin"),
        '\u{0370}'..='\u{03ff}' => Some("greek"),
        '\u{0400}'..='\u{052f}' => Some("cyrillic"),
        '\u{0590}'..='\u{05ff}' => Some("hebrew"),
        '\u{0600}'..='\u{077f}' => Some("arabic"),
        '\u{0900}'..='\u{097f}' => Some("devanagari"),
        '\u{0e00}'..='\u{0e7f}' => Some("thai"),
        c if is_cjk(c) => Some("cjk"),
        _ => Some("other"),
    }
}

/// At most half of the suggestion's letters are of a script that the conversation does not use; passes
/// where the conversation has no letters.
pub fn has_the_script_of(suggestion: &str, prompt: &Prompt) -> bool {
    let known: Vec<_> = prompt.turns.iter().flat_map(|t| t.text.chars().filter_map(script)).collect();
    let letters: Vec<_> = suggestion.chars().filter_map(script).collect();
    known.is_empty() || 2 * letters.iter().filter(|s| !known.contains(s)).count() <= letters.len()
}

/// No URL, mail address or phone number. A bare site name ("amazon.com") is a normal query and passes; a
/// path behind it does not. A phone number is ten digits or more in one run of digits, spaces and
/// `+-().`, or `ddd-dddd`; an error code inside a word (`0x80070005`) is neither.
pub fn has_no_contact(suggestion: &str) -> bool {
    let lower = suggestion.to_lowercase();
    let url = lower.contains("://")
        || lower.contains("www.")
        || lower.split_whitespace().any(|w| {
            (w.contains('@') && w.contains('.')) || [".com/", ".org/", ".net/", ".io/"].iter().any(|d| w.contains(d))
        });
    !url && !has_phone_number(&lower)
}

fn has_phone_number(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || " +-().".contains(c);
    // a run that touches a letter is part of a word, such as an error code
    text.split(|c: char| !is_part(c) && !c.is_alphanumeric()).any(|piece| {
        piece.split_whitespace().collect::<Vec<_>>().split(|w| w.chars().any(char::is_alphabetic)).any(|run| {
            let run = run.join(" ");
            let n_digits = run.chars().filter(char::is_ascii_digit).count();
            n_digits >= 10 || run.split(' ').any(is_local_number)
        })
    })
}

/// `ddd-dddd`.
fn is_local_number(word: &str) -> bool {
    word.split_once('-')
        .is_some_and(|(a, b)| a.len() == 3 && b.len() == 4 && a.chars().chain(b.chars()).all(|c| c.is_ascii_digit()))
}

/// Does not open as an assistant would: a suggestion is what the user says next.
pub fn has_the_users_voice(suggestion: &str) -> bool {
    let own = words(suggestion).join(" ");
    !ASSISTANT_OPENERS.iter().any(|o| own == *o || own.starts_with(&format!("{o} ")))
}

/// No blocked term, as whole words.
pub fn has_no_blocked_term(suggestion: &str) -> bool {
    let own = format!(" {} ", words(suggestion).join(" "));
    !BLOCKED_TERMS.iter().any(|t| own.contains(&format!(" {t} ")))
}

/// The gate with its one free choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// How often a suggestion may occur in a group.
    pub max_copies: usize,
}

/// One member of a group as the gate sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// The text.
    pub text: &'a str,
    /// Whether it ended with `<|end|>`.
    pub finished: bool,
}

impl Gate {
    /// For a slate that is shown: no duplicates.
    pub const SLATE: Self = Self { max_copies: 1 };

    /// First rule that each member of `group` breaks; `None` where it passes.
    pub fn check(&self, prompt: &Prompt, group: &[Candidate<'_>]) -> Vec<Option<Rule>> {
        let texts: Vec<&str> = group.iter().map(|c| c.text).collect();
        group
            .iter()
            .enumerate()
            .map(|(idx, c)| {
                let rules: [(Rule, bool); 9] = [
                    (Rule::Terminated, is_terminated(c.finished)),
                    (Rule::Length, has_fitting_length(c.text)),
                    (Rule::Loop, has_no_loop(c.text)),
                    (Rule::Copy, is_not_a_copy(c.text, prompt)),
                    (Rule::Duplicate, is_not_a_duplicate(&texts, idx, self.max_copies)),
                    (Rule::Script, has_the_script_of(c.text, prompt)),
                    (Rule::Contact, has_no_contact(c.text)),
                    (Rule::Voice, has_the_users_voice(c.text)),
                    (Rule::Blocklist, has_no_blocked_term(c.text)),
                ];
                rules.into_iter().find(|(_, fine)| !fine).map(|(rule, _)| rule)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{Role, Turn};

    #[test]
    fn length_counts_words_or_cjk_characters() {
        for fine in ["weather", "pc fitbit sync", &"word ".repeat(16), "东京天气"] {
            assert!(has_fitting_length(fine), "{fine}");
        }
        for bad in ["", "  ?! ", &"word ".repeat(17), "天", &"天".repeat(33)] {
            assert!(!has_fitting_length(bad), "{bad}");
        }
    }

    #[test]
    fn loops_fail_and_doubled_words_pass() {
        assert!(has_no_loop("knock knock jokes for kids"));
        assert!(has_no_loop("new york new york lyrics"));
        assert!(!has_no_loop("free free free"));
        assert!(!has_no_loop("how to how to how to cook"));
        assert!(!has_no_loop("windows a windows b windows c"));
    }

    #[test]
    fn copies_fail_and_refinements_pass() {
        let prompt = Prompt {
            turns: vec![
                Turn { role: Role::User, text: "Fitbit sync now".into() },
                Turn { role: Role::Assistant, text: "Open the app and pull down to start a sync.".into() },
            ],
        };
        for fine in [
            "pc fitbit sync now",
            "fitbit sync now iphone",
            "open the app and pull cast",
            "fitbit battery life",
            "sync problems",
        ] {
            assert!(is_not_a_copy(fine, &prompt), "{fine}");
        }
        for bad in ["fitbit  SYNC now", "sync now", "fitbit sync nows", "open the app and pull down"] {
            assert!(!is_not_a_copy(bad, &prompt), "{bad}");
        }
    }

    #[test]
    fn the_first_copies_stay() {
        let group = ["red apples", "Red  apple", "green pears", "apples red"];
        let fine = |max| (0..4).map(|i| is_not_a_duplicate(&group, i, max)).collect::<Vec<_>>();
        assert_eq!(fine(1), [true, false, true, false]);
        assert_eq!(fine(2), [true, true, true, false]);
        for (a, b) in
            [("update windows 7", "update windows 8"), ("accord interior", "accord exterior"), ("ps4", "ps4s")]
        {
            assert!(is_not_a_duplicate(&[a, b], 1, 1), "{a} and {b} differ");
        }
    }

    #[test]
    fn another_script_fails() {
        let prompt = Prompt::from_query("wetter in berlin");
        assert!(has_the_script_of("wetter münchen 7 tage", &prompt));
        assert!(!has_the_script_of("погода в берлине", &prompt));
        assert!(has_the_script_of("погода", &Prompt::from_query("1234")));
    }

    #[test]
    fn contacts_fail_and_codes_pass() {
        for fine in
            ["0x80070005 windows 10", "amazon.com login", "kb4103721 2018 2019", "iphone 11 vs 12", "4.1 (2018)"]
        {
            assert!(has_no_contact(fine), "{fine}");
        }
        for bad in [
            "https://a.b",
            "www.a.com",
            "mail me@a.com",
            "a.com/offer",
            "call 555-1234",
            "+1 (800) 555-1234",
            "8005551234",
        ] {
            assert!(!has_no_contact(bad), "{bad}");
        }
    }

    #[test]
    fn assistant_voice_and_blocked_terms_fail() {
        assert!(!has_the_users_voice("Sure, here are some ideas"));
        assert!(!has_the_users_voice("As an AI, I cannot"));
        assert!(has_the_users_voice("surely you can explain"));
        assert!(has_the_users_voice("I'm vegetarian, what else?"));
        assert!(!has_no_blocked_term("free XXX videos"));
        assert!(has_no_blocked_term("grapes of wrath"));
    }

    #[test]
    fn the_first_broken_rule_is_reported() {
        let prompt = Prompt::from_query("aloe vera");
        let candidate = |text, finished| Candidate { text, finished };
        let group = [
            candidate("aloe vera gel", true),
            candidate("aloe vera gel", true),
            candidate("aloe vera", true),
            candidate("aloe vera juice", false),
            candidate("", true),
        ];
        let want = [None, Some(Rule::Duplicate), Some(Rule::Copy), Some(Rule::Terminated), Some(Rule::Length)];
        assert_eq!(Gate::SLATE.check(&prompt, &group), want);
        assert_eq!(Gate { max_copies: 2 }.check(&prompt, &group)[1], None);
    }
}
