use super::*;
use crate::prompt::Turn;

/// The template of SmolLM2-Instruct, which is ChatML with a system turn of its own.
pub(crate) const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

/// As Mistral's: no system turn, turns must alternate, methods of Python strings.
const MISTRAL: &str = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}";

fn special(spelling: &str) -> bool {
    let chatml = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];
    let llama = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<s>", "</s>"];
    chatml.contains(&spelling) || llama.contains(&spelling)
}

fn conversation() -> Prompt {
    let turn = |role, text: &str| Turn { role, text: text.into() };
    Prompt { turns: vec![turn(Role::User, "hi"), turn(Role::Assistant, "hello"), turn(Role::User, "why?")] }
}

#[test]
fn chatml_is_cut_into_its_pieces() {
    let format = PromptFormat::from_chat_template(CHATML, "<|im_start|>", "<|im_end|>", &special).unwrap();
    assert_eq!(format.begin, "", "bos begins the turn itself, and the template's own system turn is left out");
    assert_eq!(format.user, ["<|im_start|>user\n", "<|im_end|>\n"]);
    assert_eq!(format.assistant, ["<|im_start|>assistant\n", "<|im_end|>\n"]);
    assert_eq!(format.suggest, "<|im_start|>user\n");
    assert_eq!(format.end, "<|im_end|>");
    let text = format.render(&conversation());
    let turns =
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n";
    assert_eq!(text, format!("{turns}<|im_start|>user\n"));
}

#[test]
fn chatml_told_by_its_looks_is_what_is_cut_from_it() {
    let spelled_otherwise =
        CHATML.replace("message['role']", "message.role").replace('\'', "\"").replace("> + \"", ">");
    let with_bos = format!("{{{{- bos_token }}}}{}", CHATML.replace('\n', "\\n"));
    for source in [CHATML, &spelled_otherwise, &with_bos] {
        for (bos, eos) in [("<|im_start|>", "<|im_end|>"), ("<s>", "</s>"), ("", "<|im_end|>")] {
            let known = PromptFormat::from_known_template(source, bos, eos, &special).unwrap();
            assert_eq!(known, PromptFormat::from_chat_template(source, bos, eos, &special).unwrap(), "{source}");
        }
    }
    let trimmed = CHATML.replace("message['content']", "message['content'] | trim");
    let no_line = CHATML.replace(" + '\n'}}", "}}");
    let late_bos = CHATML.replace("{% endfor %}", "{{ bos_token }}{% endfor %}");
    for source in [LLAMA3, MISTRAL, "", &trimmed, &no_line, &late_bos] {
        let unknown = PromptFormat::from_known_template(source, "<s>", "</s>", &special);
        assert!(matches!(unknown, Err(TemplateError::Unknown)), "{source}: {unknown:?}");
    }
    assert!(PromptFormat::from_known_template(CHATML, "", "", &|_| false).is_err(), "no token of this vocabulary");
}

#[test]
fn llama_3_begins_with_bos_and_ends_with_eot() {
    let format = PromptFormat::from_chat_template(LLAMA3, "<|begin_of_text|>", "<|eot_id|>", &special).unwrap();
    assert_eq!(format.begin, "<|begin_of_text|>");
    assert_eq!(format.user, ["<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"]);
    assert_eq!(format.end, "<|eot_id|>");
}

#[test]
fn without_a_system_turn_the_conversation_begins_at_once() {
    let format = PromptFormat::from_chat_template(MISTRAL, "<s>", "</s>", &special).unwrap();
    assert_eq!((format.begin.as_str(), format.end.as_str()), ("<s>", "</s>"));
    assert_eq!(format.user, ["[INST] ", " [/INST]"]);
    assert_eq!(format.assistant, ["", "</s>"]);
    assert_eq!(format.suggest, "[INST] ");
}

#[test]
fn what_is_no_template_is_refused() {
    let of = |source: &str| PromptFormat::from_chat_template(source, "", "</s>", &special).unwrap_err();
    assert!(matches!(of("{% for %}"), TemplateError::Render { .. }));
    assert!(matches!(of("nothing of the conversation"), TemplateError::Cut { .. }));
    assert!(matches!(of(&"x".repeat(1 << 17)), TemplateError::TooLong { .. }));
    // a downloaded file must not hang the program
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
    assert!(matches!(of(endless), TemplateError::Render { .. }));
    let no_end = "{% for m in messages %}{{ m['content'] + '|' }}{% endfor %}";
    let error = PromptFormat::from_chat_template(no_end, "", "", &special).unwrap_err();
    assert!(matches!(error, TemplateError::NoEnd { .. }), "{error}");
}

#[test]
fn our_own_template_renders_as_our_pieces() {
    let own = PromptFormat::own();
    let template = own.to_chat_template();
    let is_special = |spelling: &str| spelling.starts_with("<|") && spelling.ends_with("|>");
    let text = own.render(&conversation());
    assert_eq!(text, "<|user|>hi<|assistant|>hello<|user|>why?<|suggest|>");
    let again = PromptFormat::from_chat_template(&template, "", "<|end|>", &is_special).unwrap();
    assert_eq!((again.user, again.assistant, again.end), (own.user, own.assistant, own.end));
    assert_eq!((again.begin.as_str(), again.suggest.as_str()), ("", "<|user|>"));
}
