//! Cuts a Hugging Face chat template (Jinja) into the pieces around its turns.
//!
//! The template is rendered for a few conversations whose turns are marks that no template holds; what stands
//! between the marks are the pieces. Templates come from downloaded files: steps are limited, and nothing but
//! the conversation, the spellings of two tokens and `raise_exception` is there to be used.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};

/// Steps that a template may take; a real one takes some hundred.
const MAX_STEPS: u64 = 200_000;
/// Longest template.
const MAX_BYTES: usize = 1 << 16;
/// Marks in place of what people write: private-use characters.
const USER_MARK: &str = "\u{e0f1}";
const ASSISTANT_MARK: &str = "\u{e0f2}";
const LAST_MARK: &str = "\u{e0f3}";

/// Why a chat template gives no prompt format.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Longer than any real one.
    #[error("the chat template has {n_bytes} bytes, at most {MAX_BYTES} are read")]
    TooLong {
        /// Its length.
        n_bytes: usize,
    },
    /// It cannot be rendered.
    #[error("the chat template cannot be rendered: {reason}")]
    Render {
        /// What the template engine says.
        reason: String,
    },
    /// What it renders does not hold the turns in order.
    #[error("the chat template cannot be cut into turns: {reason}")]
    Cut {
        /// What is missing.
        reason: &'static str,
    },
    /// None of those that are told by their looks.
    #[error(
        "this page reads the chat template ChatML only, and the file has another one: import it with `beckon model import` and load the checkpoint"
    )]
    Unknown,
    /// No token ends a user turn.
    #[error(
        "nothing ends a turn of this model: {behind_user:?} stands behind it, and the vocabulary names no end token"
    )]
    NoEnd {
        /// What stands behind a user turn.
        behind_user: String,
    },
}

/// What stands around turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    /// Before the first turn, what the template says by itself included.
    pub begin: String,
    pub user_start: String,
    pub user_end: String,
    pub assistant_start: String,
    pub assistant_end: String,
}

struct Renderer<'a> {
    environment: Environment<'a>,
    source: &'a str,
    bos: &'a str,
    eos: &'a str,
}

impl Renderer<'_> {
    fn render(&self, turns: &[(&str, &str)]) -> Result<String, TemplateError> {
        let messages: Vec<_> = turns.iter().map(|&(role, content)| context! { role, content }).collect();
        let add_generation_prompt = false;
        let values = context! { messages, add_generation_prompt, bos_token => self.bos, eos_token => self.eos };
        self.environment.render_str(self.source, values).map_err(|e| TemplateError::Render { reason: in_words(&e) })
    }
}

fn in_words(error: &Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("line {line}: {detail}"),
        _ => error.to_string(),
    }
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The pieces of a template.
pub(super) fn cut(source: &str, bos: &str, eos: &str) -> Result<Pieces, TemplateError> {
    if source.len() > MAX_BYTES {
        return Err(TemplateError::TooLong { n_bytes: source.len() });
    }
    let mut environment = Environment::new();
    environment.set_fuel(Some(MAX_STEPS));
    // as Hugging Face renders them
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|e| TemplateError::Render { reason: in_words(&e) })?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    let renderer = Renderer { environment, source, bos, eos };

    let conversation = [("user", USER_MARK), ("assistant", ASSISTANT_MARK), ("user", LAST_MARK)];
    let told = renderer.render(&conversation)?;
    let answered = renderer.render(&conversation[..2])?;
    let (start, rest) = split(&told, USER_MARK)?;
    let (middle, rest) = split(rest, ASSISTANT_MARK)?;
    let (between, user_end) = split(rest, LAST_MARK)?;
    let (_, assistant_end) = split(&answered, ASSISTANT_MARK)?;
    let cannot = |reason| TemplateError::Cut { reason };
    let assistant_start =
        middle.strip_prefix(user_end).ok_or(cannot("a user turn ends in another way before an answer"))?;
    let user_start =
        between.strip_prefix(assistant_end).ok_or(cannot("an answer ends in another way before a user turn"))?;
    let begin = start.strip_suffix(user_start).ok_or(cannot("the first user turn begins in another way"))?;
    Ok(Pieces {
        begin: begin.to_owned(),
        user_start: user_start.to_owned(),
        user_end: user_end.to_owned(),
        assistant_start: assistant_start.to_owned(),
        assistant_end: assistant_end.to_owned(),
    })
}

fn split<'a>(text: &'a str, mark: &str) -> Result<(&'a str, &'a str), TemplateError> {
    text.split_once(mark).ok_or(TemplateError::Cut { reason: "what a turn says is changed or left out" })
}
