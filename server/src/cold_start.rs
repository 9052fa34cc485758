//! Cold start: a policy made by a prompt alone, before there are clicks to learn from (method A: the paper's loop
//! begins with prompt engineering; templates and few-shot examples are our design).
//!
//! In the loop: in place of SFT and RL. A template (Jinja) says what stands around the conversation: an instruction,
//! examples drawn from the train side of a log, anything else. It is rendered once; what stands before and behind the
//! conversation become the first and last piece of the checkpoint's
//! [`PromptFormat`]. So a template is a policy like any other: the page runs it,
//! `beckon eval policy` judges it, an experiment has it as an arm, a run can start from it.
//!
//! What a template may use:
//!
//! | name | what |
//! | --- | --- |
//! | `begin`, `suggest` | the base's own first and last piece |
//! | `conversation` | where the conversation goes; exactly once |
//! | `user(text)`, `assistant(text)` | a turn between the base's pieces |
//! | `examples` | list of `conversation` (between its pieces) and `suggestion` |
//! | `after` | what ends a suggestion that something follows |

use beckon_shared::checkpoint::{Checkpoint, CheckpointError, Lineage, PolicyParts};
use beckon_shared::digest::sha256_hex;
use beckon_shared::preference::SftExample;
use beckon_shared::prompt::{Prompt, PromptFormat, Role, Turn};
use beckon_shared::tokenizer::{Tokenizer, TokenizerError};
use minijinja::{Environment, UndefinedBehavior, context};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// The templates that come with the program: name with version, source.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("instruct.v1", include_str!("../assets/prompts/instruct.v1.jinja")),
    ("examples.v1", include_str!("../assets/prompts/examples.v1.jinja")),
    ("both.v1", include_str!("../assets/prompts/both.v1.jinja")),
];

/// Where the conversation goes while a template is rendered: a private-use character.
const CONVERSATION: &str = "\u{e0f4}";
/// Steps that a template may take.
const MAX_STEPS: u64 = 200_000;
/// Longest conversation and suggestion of an example, bytes: short ones leave room for more of them.
const MAX_CONVERSATION: usize = 300;
const MAX_SUGGESTION: usize = 80;

/// A template by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Name and version, for people and the lineage.
    pub name: String,
    /// Jinja.
    pub source: String,
}

impl Template {
    /// The built-in template of that name.
    pub fn built_in(name: &str) -> Option<Self> {
        let (name, source) = BUILT_IN.iter().find(|(own, _)| *own == name)?;
        Some(Self { name: (*name).to_owned(), source: (*source).to_owned() })
    }

    /// Whether it shows examples.
    pub fn shows_examples(&self) -> bool {
        // one that cannot be parsed shows nothing; `with_template` says what is wrong with it
        let environment = Environment::new();
        environment
            .template_from_str(&self.source)
            .is_ok_and(|template| template.undeclared_variables(false).contains("examples"))
    }
}

/// Why a template makes no policy.
#[derive(Debug, thiserror::Error)]
pub enum ColdStartError {
    /// It cannot be rendered.
    #[error("template {name} cannot be rendered: {reason}")]
    Render {
        /// Which.
        name: String,
        /// What the template engine says.
        reason: String,
    },
    /// The conversation does not stand in it once.
    #[error("template {name} has {{{{ conversation }}}} {n} times, it needs it once, with something behind it")]
    Conversation {
        /// Which.
        name: String,
        /// How often.
        n: usize,
    },
    /// The log has too few examples.
    #[error("the log gives {found} examples of {wanted}: ask for fewer (--examples), or give a log with more (--data)")]
    TooFew {
        /// How many there are.
        found: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// It leaves too little room for the conversation.
    #[error(
        "the prompt alone takes {n_tokens} tokens of {max_seq_len}, at most half may be taken: ask for fewer examples, or import the base with a larger --max-seq-len"
    )]
    TooLong {
        /// Tokens before the conversation.
        n_tokens: usize,
        /// What the model reads at most.
        max_seq_len: usize,
    },
    /// The base's tokenizer cannot be read, or not with the new pieces.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The checkpoint cannot be made.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Draws `n` examples of as many groups, by `seed`, among the better half by evidence. Text that holds the spelling
/// of a special token is left out: it would become that token.
///
/// # Errors
/// [`ColdStartError::TooFew`].
pub fn draw_examples<'a>(
    log: &'a [SftExample],
    tokenizer: &Tokenizer,
    n: usize,
    seed: u64,
) -> Result<Vec<&'a SftExample>, ColdStartError> {
    let is_plain = |text: &str| !text.trim().is_empty() && !tokenizer.holds_special(text);
    let fits = |e: &&SftExample| {
        let length: usize = e.prompt.turns.iter().map(|turn| turn.text.len()).sum();
        length <= MAX_CONVERSATION
            && e.suggestion.len() <= MAX_SUGGESTION
            && is_plain(&e.suggestion)
            && e.prompt.turns.iter().all(|turn| is_plain(&turn.text))
    };
    let mut kept: Vec<&SftExample> = log.iter().filter(fits).collect();
    kept.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let half = kept.len().div_ceil(2).max(n).min(kept.len());
    kept.truncate(half);
    kept.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut groups = BTreeSet::new();
    kept.retain(|e| groups.insert(e.group.as_str()));
    if kept.len() < n {
        return Err(ColdStartError::TooFew { found: kept.len(), wanted: n });
    }
    kept.truncate(n);
    Ok(kept)
}

/// The policy of `base` behind a template; a reward model of the base is left out, since it never read such prompts.
/// `lineage` is completed: parent, template and examples.
///
/// # Errors
/// [`ColdStartError`].
pub fn with_template(
    base: &Checkpoint,
    template: &Template,
    examples: &[&SftExample],
    name: String,
    mut lineage: Lineage,
) -> Result<Checkpoint, ColdStartError> {
    let tokenizer = base.tokenizer()?;
    let format = format_of(tokenizer.format(), template, examples)?;
    let tokenizer = Tokenizer::pretrained(tokenizer.to_json(), format)?;
    let model = &base.manifest.model;
    let n_tokens = tokenizer.encode_prompt(&Prompt::default(), usize::MAX).len();
    if n_tokens > model.max_seq_len / 2 {
        return Err(ColdStartError::TooLong { n_tokens, max_seq_len: model.max_seq_len });
    }
    let policy: BTreeMap<_, _> = base
        .tensors
        .iter()
        .filter_map(|(name, matrix)| Some((name.strip_prefix("policy.")?.to_owned(), matrix.clone())))
        .collect();
    lineage.parent = Some(base.id.clone());
    lineage.attribution.extend(base.manifest.lineage.attribution.iter().cloned());
    lineage.config = serde_json::json!({ "prompt_template": {
        "name": template.name,
        "sha256": sha256_hex(template.source.as_bytes()),
        "n_examples": examples.len(),
    } });
    Ok(Checkpoint::from_policy(PolicyParts { name, model, lineage, tokenizer: &tokenizer }, policy)?)
}

/// The pieces of `own` with the template's text before and behind the conversation.
fn format_of(
    own: &PromptFormat,
    template: &Template,
    examples: &[&SftExample],
) -> Result<PromptFormat, ColdStartError> {
    let rendered = render(own, template, examples)
        .map_err(|error| ColdStartError::Render { name: template.name.clone(), reason: error.to_string() })?;
    let parts: Vec<&str> = rendered.split(CONVERSATION).collect();
    match parts[..] {
        [before, behind] if !behind.is_empty() => Ok(PromptFormat {
            begin: before.to_owned(),
            suggest: behind.to_owned(),
            // an export says the new pieces, not the base's own template
            chat_template: None,
            ..own.clone()
        }),
        _ => Err(ColdStartError::Conversation { name: template.name.clone(), n: parts.len() - 1 }),
    }
}

fn render(own: &PromptFormat, template: &Template, examples: &[&SftExample]) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let around = |turn: &Turn| {
        let [before, behind] = own.around(turn.role);
        format!("{before}{}{behind}", turn.text)
    };
    for (name, role) in [("user", Role::User), ("assistant", Role::Assistant)] {
        let [before, behind] = own.around(role).clone();
        environment.add_function(name, move |text: String| format!("{before}{text}{behind}"));
    }
    let after = if own.user[1].starts_with(&own.end) { own.user[1].clone() } else { own.end.clone() };
    let examples: Vec<_> = examples
        .iter()
        .map(|e| {
            context! { conversation => e.prompt.turns.iter().map(around).collect::<String>(), suggestion => &e.suggestion }
        })
        .collect();
    let values =
        context! { begin => &own.begin, suggest => &own.suggest, after, examples, conversation => CONVERSATION };
    environment.template_from_str(&template.source)?.render(values)
}

#[cfg(test)]
mod tests;
