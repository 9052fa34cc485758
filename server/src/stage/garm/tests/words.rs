//! The text regularisation: its value, what it keeps, and that nothing changes without it.

use super::*;
use crate::stage::sft::logps_of;
use beckon_shared::garm::variants::{TEXT_BETA, regularised_total, text_regularisation};

/// What `work` makes of a trainer that is about to start, and what was shown meanwhile.
fn trained<T>(
    model: &ModelConfig,
    lora: Option<LoraConfig>,
    likelihood: Likelihood,
    config: &GarmConfig,
    work: impl FnOnce(&Trainer, &mut StageContext) -> T,
) -> (T, Watcher) {
    let (dir, tokenizer) = (tempfile::tempdir().expect("folder"), tokenizer());
    let policy = ModelConfig { tied_embedding: true, ..model.clone() };
    let init = Llama::init(&policy, 3, &Device::flex()).expect("policy").to_tensors();
    let (train, held_out) = (split(200, 1), split(40, 2));
    let inputs = GarmInputs {
        tokenizer: &tokenizer,
        model,
        init: &init,
        train: &train,
        held_out: &held_out,
        lora,
        likelihood,
        start: &OnceCell::new(),
    };
    let mut watcher = Watcher::default();
    let mut ctx = context(dir.path(), 0, &mut watcher);
    let data = Data::prepare(&inputs, config, ctx.seed).expect("pairs");
    let device = ctx.device.clone().autodiff();
    let made = work(&Trainer { inputs: &inputs, config, data: &data, seed: ctx.seed, device }, &mut ctx);
    (made, watcher)
}

/// Mean log p of preferred suggestions under the trunk, nats.
fn mean_logp(model: &RewardModel, preferred: &[Sequence]) -> f64 {
    let logps = logps_of(model.valid().trunk(), preferred);
    logps.iter().map(|(logp, _)| logp).sum::<f64>() / logps.len() as f64
}

#[test]
fn the_loss_is_the_total_of_the_others_and_of_what_the_trunk_says_of_preferred_texts() {
    let model = network(&tokenizer());
    let config = GarmConfig { text_weight: 0.2, variance_warmup: 0.0, ..config(4) };
    let (want, watcher) = trained(&model, None, Likelihood::Probit, &config, |trainer, ctx| {
        let state = trainer.start(ctx).expect("a start");
        let lesson = trainer.data.lesson(0);
        let preferred: Vec<Sequence> = lesson.pairs.iter().map(|pair| lesson.texts[pair.chosen].clone()).collect();
        let logps = logps_of(state.model.valid().trunk(), &preferred);
        trainer.step(state, ctx).expect("a step");
        logps.iter().map(|(logp, _)| text_regularisation(*logp, TEXT_BETA)).sum::<f64>() / logps.len() as f64
    });
    let shown = |name: &str| watcher.values(name)[0];
    assert_close("L_text", shown("text_loss"), want, 1e-4 * want);
    let others = shown("pair_loss") + 0.5 * shown("anchor_loss") + 0.2 * shown("synthetic_loss");
    assert_close("total", shown("loss"), regularised_total(others, want, 0.2), 1e-4);
}

#[test]
fn without_it_a_step_is_that_of_the_other_losses_to_the_bit() {
    let model = network(&tokenizer());
    let config = GarmConfig { variance_warmup: 0.0, ..config(4) };
    let ((loss, norm), watcher) = trained(&model, None, Likelihood::Probit, &config, |trainer, ctx| {
        let mut state = trainer.start(ctx).expect("a start");
        state.progress.prior = Some(trainer.prior(&state.model));
        let terms = trainer.terms(&state, None, false);
        assert!(terms.text.is_none() && terms.features.iter().all(|read| read.spoken.is_none()), "no words are read");
        let [pair, anchor, synthetic] =
            [terms.pair, terms.anchor, terms.synthetic].map(|term| term.expect("a lesson has all"));
        // the same graph, so that sums have the same order
        let [pair, anchor] = [pair.mul_scalar(1.0), anchor.mul_scalar(config.anchor_weight)];
        let loss = pair + anchor + synthetic.mul_scalar(config.synthetic_weight);
        let grads = GradientsParams::from_grads(loss.backward(), &state.model);
        let rate = warmup_cosine(0, config.n_steps, 1, config.learning_rate);
        let scale = |path: &str| if path.starts_with("variance_head") { VARIANCE_RATE } else { 1.0 };
        let (by_hand, norm) = state.optimizer.step(state.model, grads, rate, &scale);

        let again = trainer.start(ctx).expect("a start");
        let stepped = trainer.step(again, ctx).expect("a step");
        assert_eq!(stepped.model.to_tensors(), by_hand.to_tensors());
        (scalar(loss), norm)
    });
    assert_eq!((watcher.values("loss"), watcher.values("grad_norm")), (vec![loss], vec![norm]));
    assert!(watcher.values("text_loss").is_empty());
}

#[test]
fn with_it_the_trunk_says_preferred_texts_more_readily_and_the_baseline_goes_without() {
    let model = network(&tokenizer());
    let after = |text_weight, lora, likelihood| {
        let config = GarmConfig { text_weight, ..config(20) };
        trained(&model, lora, likelihood, &config, |trainer, ctx| {
            let mut state = trainer.start(ctx).expect("a start");
            for _ in 0..20 {
                state = trainer.step(state, ctx).expect("a step");
            }
            let (sequences, pairs) = trainer.data.reading(trainer.data.train());
            let preferred: Vec<Sequence> = pairs.iter().map(|pair| sequences[pair.chosen].clone()).collect();
            mean_logp(&state.model, &preferred)
        })
    };
    // through adapters the gradient passes a frozen embedding, and less is learnt in as many steps
    for (lora, gain) in [(None, 0.5), (Some(LoraConfig::default()), 0.05)] {
        let ((without, _), (with, shown)) =
            (after(0.0, lora, Likelihood::Probit), after(0.5, lora, Likelihood::Probit));
        assert!(with > without + gain, "{with} nats with it, {without} without, adapters {lora:?}");
        // a lesson may have anchors and ties alone
        let n_shown = shown.values("text_loss").len();
        assert!((15..=20).contains(&n_shown), "{n_shown} of 20 steps");
    }
    let (plain, asked) = (after(0.0, None, Likelihood::BradleyTerry), after(0.5, None, Likelihood::BradleyTerry));
    assert_eq!(plain.0, asked.0);
    assert!(asked.1.values("text_loss").is_empty());
}

#[test]
fn a_trunk_that_words_are_read_from_has_all_layers_and_a_tied_embedding() {
    let model = ModelConfig { n_layers: 2, ..network(&tokenizer()) };
    let config = GarmConfig { text_weight: 0.1, ..config(2) };
    let found = |model: &ModelConfig, lora, config: &GarmConfig| {
        trained(model, lora, Likelihood::Probit, config, start::find).0
    };
    let adapted = found(&model, Some(LoraConfig::default()), &config).expect("a start");
    assert_eq!(adapted.n_layers, 2, "no depth is left to choose");
    let short = GarmConfig { n_layers: Some(1), ..config.clone() };
    let refused = found(&model, None, &short).expect_err("no head reads words there").to_string();
    assert!(refused.contains("leave garm.n_layers out"), "{refused}");
    let untied = ModelConfig { tied_embedding: false, ..model };
    let refused = found(&untied, None, &config).expect_err("the trunk has no output matrix").to_string();
    assert!(refused.contains("garm.text_weight"), "{refused}");
}
