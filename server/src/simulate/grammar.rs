//! The sentences of the simulated world: hobbies, what a person may want to know about one, and how
//! both sides phrase it. Everything is enumerable, so that an expectation over suggestions is a sum.

use beckon_shared::prompt::{Prompt, Role, Turn};

/// What conversations are about.
pub const TOPICS: [&str; 16] = [
    "yoga",
    "chess",
    "guitar",
    "sailing",
    "baking",
    "pottery",
    "cycling",
    "knitting",
    "archery",
    "fishing",
    "surfing",
    "painting",
    "camping",
    "running",
    "skiing",
    "gardening",
];

/// A related topic is this many places further on the ring of [`TOPICS`].
pub const RELATED_OFFSETS: [usize; 2] = [1, 5];

/// Suggestion templates, one an intent; `{t}` is the topic.
pub const INTENTS: [&str; 11] = [
    "cost of {t} lessons",
    "{t} for beginners",
    "how to practice {t} at home",
    "best gear for {t}",
    "{t} classes near me",
    "health benefits of {t}",
    "common mistakes in {t}",
    "how long to learn {t}",
    "{t} videos to watch",
    "{t} with children",
    "history of {t}",
];

/// Index of the comparison intent, `{t} vs {related}`; it follows [`INTENTS`].
pub const COMPARE: usize = INTENTS.len();
/// Index of the clickbait intent; it follows [`COMPARE`].
pub const CLICKBAIT: usize = COMPARE + 1;
/// Intents of all kinds.
pub const N_INTENTS: usize = CLICKBAIT + 1;

/// Intents that also exist in a long-winded form.
pub const LONG_INTENTS: [usize; 3] = [1, 3, 7];
/// What makes it long-winded.
const LONG_TAIL: &str = " explained step by step in full detail";

/// Clickbait templates.
pub const CLICKBAITS: [&str; 3] =
    ["the secret {t} experts never share", "one weird trick for {t}", "shocking truth about {t}"];

/// What the person wants; each has three wordings that name the topic and three follow-ups that do not.
pub const KINDS: [Kind; 6] = [
    Kind {
        name: "start",
        wordings: ["i want to try {t}", "where would i begin with {t}", "thinking of taking up {t}"],
        follow_ups: ["where would i begin", "i want to try it", "how would a newcomer get into it"],
        answer: "it is easier to start with {t} than most people think.",
    },
    Kind {
        name: "money",
        wordings: ["is {t} expensive", "i have little money for {t}", "what would {t} set me back"],
        follow_ups: ["is it expensive", "i have little money for that", "what would it set me back"],
        answer: "{t} can be cheap or dear, it depends on you.",
    },
    Kind {
        name: "equipment",
        wordings: ["what do i need for {t}", "which {t} things should i buy", "do i have to own much for {t}"],
        follow_ups: ["what do i need for it", "which things should i buy", "do i have to own much"],
        answer: "you need a few things for {t}, and can borrow the rest.",
    },
    Kind {
        name: "company",
        wordings: ["who else does {t} here", "can my family do {t} too", "i do not want to do {t} alone"],
        follow_ups: ["who else does it here", "can my family do it too", "i do not want to do it alone"],
        answer: "many people do {t} together.",
    },
    Kind {
        name: "doubt",
        wordings: ["is {t} worth it", "should i choose {t} or something else", "not sure that {t} suits me"],
        follow_ups: ["is it worth it", "should i choose something else", "not sure that it suits me"],
        answer: "{t} suits most people, but not everyone.",
    },
    Kind {
        name: "stuck",
        wordings: ["i am stuck with {t}", "my {t} does not get better", "why is {t} so hard"],
        follow_ups: ["i am stuck with it", "i do not get better", "why is it so hard"],
        answer: "everyone who does {t} gets stuck now and then.",
    },
];

/// One thing a person may want, and how it is said.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// For people.
    pub name: &'static str,
    /// As a first message.
    pub wordings: [&'static str; 3],
    /// As a later message, the topic being known.
    pub follow_ups: [&'static str; 3],
    /// What the assistant answers.
    pub answer: &'static str,
}

/// How a suggestion is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Short and plain.
    Plain,
    /// With a long tail.
    Long,
    /// Promises more than it holds.
    Clickbait,
}

/// A suggestion of the grammar.
#[derive(Debug, Clone)]
pub struct Phrase {
    /// As shown.
    pub text: String,
    /// Index into [`TOPICS`].
    pub topic: usize,
    /// Below [`N_INTENTS`].
    pub intent: usize,
    /// Dress.
    pub style: Style,
}

/// Topics near `topic`.
pub fn related(topic: usize) -> [usize; 2] {
    RELATED_OFFSETS.map(|o| (topic + o) % TOPICS.len())
}

/// All suggestions about one topic: 11 intents, 2 comparisons, 3 long forms, 3 clickbaits.
pub fn phrases(topic: usize) -> Vec<Phrase> {
    let fill = |template: &str| template.replace("{t}", TOPICS[topic]);
    let phrase = |text, intent, style| Phrase { text, topic, intent, style };
    let mut all: Vec<Phrase> =
        INTENTS.iter().enumerate().map(|(i, template)| phrase(fill(template), i, Style::Plain)).collect();
    all.extend(
        related(topic)
            .iter()
            .map(|&other| phrase(format!("{} vs {}", TOPICS[topic], TOPICS[other]), COMPARE, Style::Plain)),
    );
    all.extend(LONG_INTENTS.iter().map(|&i| phrase(fill(INTENTS[i]) + LONG_TAIL, i, Style::Long)));
    all.extend(CLICKBAITS.iter().map(|template| phrase(fill(template), CLICKBAIT, Style::Clickbait)));
    all
}

/// All conversations about one topic with one wish: three of one turn, three of two turns that end with
/// the assistant, three of three turns whose last does not name the topic.
pub fn prompts(topic: usize, kind: usize) -> Vec<Prompt> {
    let fill = |template: &str| template.replace("{t}", TOPICS[topic]);
    let user = |text: String| Turn { role: Role::User, text };
    let assistant = |text: String| Turn { role: Role::Assistant, text };
    let k = &KINDS[kind];
    let mut all = Vec::with_capacity(9);
    all.extend(k.wordings.iter().map(|w| Prompt { turns: vec![user(fill(w))] }));
    all.extend(k.wordings.iter().map(|w| Prompt { turns: vec![user(fill(w)), assistant(fill(k.answer))] }));
    all.extend(k.follow_ups.iter().map(|f| Prompt {
        turns: vec![
            user(fill("tell me about {t}")),
            assistant(fill("{t} is something many people enjoy.")),
            user((*f).to_owned()),
        ],
    }));
    all
}
