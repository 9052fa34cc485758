use super::*;
use beckon_shared::config::{Preset, tensor_names};
use beckon_shared::engine::{Engine, SuggestRequest};
use beckon_shared::quant::{BlockFormat, Matrix};
use beckon_shared::sampling::Sampling;
use beckon_shared::tensor::DenseTensor;
use rand::Rng;

fn base() -> Checkpoint {
    let tokenizer = Tokenizer::train(["how to cook rice", "how to cook brown rice"], 300).expect("trains");
    let model = beckon_shared::config::ModelConfig { vocab_size: 300, max_seq_len: 128, ..Preset::Tiny.model() };
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut policy = BTreeMap::new();
    for (name, shape) in tensor_names(&model) {
        let data = (0..shape.iter().product()).map(|_| rng.random_range(-0.2f32..0.2)).collect();
        let matrix = Matrix::from_dense(&DenseTensor::new(shape, data), BlockFormat::F32).expect("packs");
        policy.insert(name, matrix);
    }
    let parts = PolicyParts { name: "base".into(), model: &model, lineage: lineage(), tokenizer: &tokenizer };
    Checkpoint::from_policy(parts, policy).expect("a checkpoint")
}

fn lineage() -> Lineage {
    Lineage { command: "test".into(), ..Lineage::default() }
}

fn example(i: usize, suggestion: &str) -> SftExample {
    SftExample {
        source: "test".into(),
        group: format!("g{}", i % 7),
        prompt: Prompt::from_query(format!("rice {i}")),
        suggestion: suggestion.into(),
        weight: 1.0 + i as f32,
    }
}

#[test]
fn every_built_in_template_is_a_policy_that_writes() {
    let base = base();
    let log: Vec<SftExample> = (0..20).map(|i| example(i, "cook it")).collect();
    let tokenizer = base.tokenizer().expect("tokenizer");
    let examples = draw_examples(&log, &tokenizer, 2, 1).expect("enough");
    let mut ids = BTreeSet::from([base.id.clone()]);
    for (name, _) in BUILT_IN {
        let template = Template::built_in(name).expect("is there");
        // letters are tokens in this vocabulary, so the instruction takes most of the sequence
        let made = match with_template(&base, &template, &examples, name.into(), lineage()) {
            Err(ColdStartError::TooLong { n_tokens, max_seq_len: 128 }) if name != "examples.v1" => {
                assert!(n_tokens > 64);
                continue;
            }
            made => made.expect("a policy"),
        };
        assert!(ids.insert(made.id.clone()), "another checkpoint than the base");
        assert_eq!(made.manifest.lineage.parent.as_deref(), Some(base.id.as_str()));
        let again = Checkpoint::decode(&made.encode().expect("bytes")).expect("reads back");
        let text = again.tokenizer().expect("tokenizer").format().render(&Prompt::from_query("soup"));
        assert_eq!(text.matches("cook it<|end|>").count(), 2, "{text}");
        assert!(text.ends_with("<|user|>soup<|suggest|>"), "{text}");
        let mut engine = Engine::cpu(&again).expect("engine");
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 1 };
        let prompt = Prompt::from_query("soup");
        let request = SuggestRequest { prompt, n_candidates: 2, max_new_tokens: 4, sampling };
        let outcome = crate::model::device::block_on(engine.suggest(&request, &|| 0.0)).expect("writes");
        assert_eq!(
            outcome.n_prompt_tokens,
            again.tokenizer().expect("tokenizer").encode_prompt(&request.prompt, 124).len()
        );
    }
    assert!(ids.len() > 1);
}

#[test]
fn a_template_that_only_speaks_of_examples_shows_none() {
    let shows = |source: &str| Template { name: "mine".into(), source: source.into() }.shows_examples();
    assert!(BUILT_IN.iter().all(|(name, source)| shows(source) == (*name != "instruct.v1")));
    assert!(!shows("no examples here: {{ conversation }}{{ suggest }}") && !shows("{% for"));
}

#[test]
fn examples_are_drawn_by_seed_one_a_group_and_never_hold_a_special_token() {
    let tokenizer = base().tokenizer().expect("tokenizer");
    let mut log: Vec<SftExample> = (0..40).map(|i| example(i, "cook it")).collect();
    log.extend((0..40).map(|i| example(100 + i, "say <|end|> and go on")));
    let drawn = |seed| -> Vec<String> {
        let drawn = draw_examples(&log, &tokenizer, 5, seed).expect("enough");
        drawn.iter().map(|e| e.prompt.query().to_owned()).collect()
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    let groups: BTreeSet<&str> =
        draw_examples(&log, &tokenizer, 5, 1).expect("enough").iter().map(|e| e.group.as_str()).collect();
    assert_eq!(groups.len(), 5);
    let error = draw_examples(&log, &tokenizer, 8, 1).expect_err("seven groups");
    assert_eq!(error.to_string().split(':').next(), Some("the log gives 7 examples of 8"));
    assert!(log[40..].iter().all(|e| draw_examples(std::slice::from_ref(e), &tokenizer, 1, 1).is_err()));
}

#[test]
fn a_template_that_is_none_is_refused_by_name() {
    let base = base();
    let refused = |source: &str| {
        let template = Template { name: "mine".into(), source: source.into() };
        with_template(&base, &template, &[], "x".into(), lineage()).expect_err("refused").to_string()
    };
    assert!(refused("{{ begin }}{{ suggest }}").contains("{{ conversation }} 0 times"));
    assert!(refused("{{ conversation }}{{ conversation }}{{ suggest }}").contains("2 times"));
    assert!(refused("{{ conversation }}").contains("1 times"));
    assert!(refused("{{ nobody }}{{ conversation }}{{ suggest }}").contains("template mine cannot be rendered"));
    assert!(refused("{% for i in range(999999) %}x{% endfor %}{{ conversation }}{{ suggest }}").contains("mine"));
    let long = format!("{}{{{{ conversation }}}}{{{{ suggest }}}}", "rice ".repeat(80));
    assert!(refused(&long).contains("tokens of 128"));
}
