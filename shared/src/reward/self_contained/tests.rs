//! What stands alone, what half does, what does not.

use super::*;

#[test]
fn what_stands_alone() {
    for fine in [
        "day trips from lisbon",
        "weather",
        "how do i reset my fitbit",
        "apps that track sleep",
        "one pot pasta recipes",
        "i'm vegetarian",
        "0x80070005 windows 10",
    ] {
        assert_eq!(self_containedness(fine), 1.0, "{fine}");
    }
    for half in ["what are its side effects", "which museums are near that hotel", "compare those phones by battery"] {
        assert_eq!(self_containedness(half), 0.5, "{half}");
    }
    for bad in
        ["", "yes please", "how does it work", "tell me more about that", "is that it", "what else?", "those ones"]
    {
        assert_eq!(self_containedness(bad), 0.0, "{bad}");
    }
}

#[test]
fn no_word_stands_in_both_lists_or_twice() {
    let mut all: Vec<&str> = POINTING.iter().chain(&EMPTY).copied().collect();
    let n = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), n);
}
