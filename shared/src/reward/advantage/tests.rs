//! Oracle F1 to F3 and F9 to F11, property 3, and what each algorithm is made of.

use super::*;
use crate::metrics::assert_close;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[track_caller]
fn assert_all(name: &str, got: &[f64], want: &[f64], tol: f64) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_close(&format!("{name}[{i}]"), *g, *w, tol);
    }
}

#[test]
fn oracle_f1() {
    let r = [1.0, 0.5, 0.0, 0.25];
    assert_close("std", std(&r), 0.426956282, 1e-9);
    assert_all("GRPO", &grpo(&r), &[1.317157, 0.146351, -1.024455, -0.439052], 1e-6);
    assert_all("Dr.GRPO", &dr_grpo(&r), &[0.5625, 0.0625, -0.4375, -0.1875], 1e-12);
    assert_all("RLOO", &leave_one_out(&r), &[0.75, 0.083333, -0.583333, -0.25], 1e-6);
    let noise = [0.5001, 0.5, 0.5, 0.4999];
    assert_all("GRPO on noise", &grpo(&noise), &[0.550510, 0.0, 0.0, -0.550510], 1e-6);
    assert_all("RLOO on noise", &leave_one_out(&noise), &[0.000133, 0.0, 0.0, -0.000133], 1e-6);
}

#[test]
fn oracle_f2() {
    let rows = [
        ([0.0, 1.0], [0.0, 0.0], 0.707007, 0.707007),
        ([0.0, 1.0], [0.0, 1.0], 0.707057, 1.414014),
        ([0.0, 2.0], [0.0, 0.0], 0.707057, 0.707057),
    ];
    for (first, second, sum_first, normalised_first) in rows {
        let components = [first.to_vec(), second.to_vec()];
        let got = sum_then_normalise(&components, &[1.0, 1.0], |_, _| {});
        assert_all("sum first", &got, &[-sum_first, sum_first], 1e-6);
        let got = normalise_then_sum(&components, &[1.0, 1.0], |_, _| {});
        assert_all("normalise first", &got, &[-normalised_first, normalised_first], 1e-6);
    }
}

#[test]
fn oracle_f3() {
    let w = [1.0, 0.5];
    let one = [vec![0.9, 0.4, 0.1, 0.6], vec![0.2, 0.8, 0.5, 0.5]];
    let two = [vec![0.3, 0.35, 0.2, 0.25], vec![0.9, 0.1, 0.4, 0.6]];
    let u = [&one, &two].map(|group| normalise_then_sum(group, &w, |_, _| {}));
    let sums = [&one, &two].map(|group| sum_then_normalise(group, &w, |_, _| {}));
    assert_all("u1", &u[0], &[0.575702, 0.315166, -1.187824, 0.296956], 1e-6);
    assert_all("u2", &u[1], &[0.980611, 0.566186, -1.308576, -0.238221], 1e-6);
    let a = batch_normalise(&u);
    assert_all("A1", &a[0], &[0.682386, 0.373570, -1.407942, 0.351985], 1e-6);
    assert_all("A2", &a[1], &[1.162330, 0.671106, -1.551070, -0.282366], 1e-6);
    assert_all("sum 1", &sums[0], &[0.892918, 0.178584, -1.428669, 0.357167], 1e-6);
    assert_all("sum 2", &sums[1], &[1.355983, -0.753324, -0.753324, 0.150665], 1e-6);
}

#[test]
fn oracle_f9_to_f11() {
    let sequences = [vec![1.0, 1.0], vec![2.0; 4]];
    assert_close("GRPO", join_token_losses(&sequences, LossNormaliser::PerSequence), 1.5, 1e-12);
    assert_close("DAPO", join_token_losses(&sequences, LossNormaliser::PerToken), 1.666667, 1e-6);
    let constant = LossNormaliser::Constant { max_tokens: 8 };
    assert_close("Dr.GRPO", join_token_losses(&sequences, constant), 0.625, 1e-12);
    let (old, new) = ([-1.0, -2.0, -0.5], [-0.9, -2.1, -0.4]);
    assert_all("token ratios", &token_ratios(&new, &old), &[1.105171, 0.904837, 1.105171], 1e-6);
    assert_close("GSPO", sequence_ratio(&new, &old, true), 1.033895114, 1e-9);
    assert_close("sequence", sequence_ratio(&new, &old, false), 1.105170918, 1e-9);
    assert_close("clip", clipped_objective(1.3, 1.0, 0.2, 0.2, None), 1.2, 1e-12);
    assert_close("clip-higher", clipped_objective(1.3, 1.0, 0.2, 0.28, None), 1.28, 1e-12);
    assert_close("negative", clipped_objective(0.7, -1.0, 0.2, 0.2, None), -0.8, 1e-12);
    assert_close("negative above", clipped_objective(1.5, -1.0, 0.2, 0.2, None), -1.5, 1e-12);
    assert_close("dual clip", clipped_objective(9.0, -1.0, 0.2, 0.2, Some(4.0)), -4.0, 1e-12);
}

#[test]
fn property_3_leave_one_out_sums_to_zero() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for n in 1..20 {
        let r: Vec<f64> = (0..n).map(|_| rng.random_range(-5.0..5.0)).collect();
        let a = leave_one_out(&r);
        assert_close("sum", a.iter().sum::<f64>(), 0.0, 1e-12);
        if n > 1 {
            let others = (r.iter().sum::<f64>() - r[0]) / (n - 1) as f64;
            assert_close("definition", a[0], r[0] - others, 1e-12);
        }
        let scaled = scale_by_batch_std(&[a], 0.1);
        assert_close("scaled sum", scaled[0].iter().sum::<f64>(), 0.0, 1e-12);
    }
}

#[test]
fn each_algorithm_is_made_of_its_published_parts() {
    let groups = [Some(vec![1.0, 0.5, 0.0, 0.25]), None, Some(vec![0.3, 0.3])];
    let of = |a: Advantage| a.of(&groups, &[4, 3, 2]);
    assert_all("Dr.GRPO", &of(Advantage::DrGrpo)[0], &[0.5625, 0.0625, -0.4375, -0.1875], 1e-12);
    for a in [Advantage::Grpo, Advantage::Dapo, Advantage::Gspo] {
        assert_all("GRPO", &of(a)[0], &[1.317157, 0.146351, -1.024455, -0.439052], 1e-6);
    }
    let loo = of(Advantage::LeaveOneOut);
    let all: Vec<f64> = leave_one_out(&[1.0, 0.5, 0.0, 0.25]).into_iter().chain([0.0, 0.0]).collect();
    assert_close("RLOO over the batch's spread", loo[0][0], 0.75 / std(&all), 1e-12);
    let global = of(Advantage::ReinforcePlusPlus);
    assert_close("centred over the batch", global.concat().iter().sum::<f64>(), 0.0, 1e-9);
    for a in Advantage::ALL {
        assert_eq!(of(a)[1], [0.0; 3], "{a:?}: a dropped group teaches nothing");
        assert!(of(a).concat().iter().all(|v| v.is_finite()), "{a:?}");
    }
}

#[test]
fn dapo_drops_a_group_without_spread_and_keeps_noise_from_the_others() {
    let groups = [Some(vec![1.0, 1.0, 1.0]), Some(vec![0.0, 1.0, 0.0])];
    let a = Advantage::Dapo.of(&groups, &[3, 3]);
    assert_eq!(a[0], [0.0; 3]);
    assert_all("the other", &a[1], &grpo(&[0.0, 1.0, 0.0]), 1e-12);
}

#[test]
fn token_weights_are_the_normaliser() {
    let sequences = [vec![1.0, 1.0], vec![2.0; 4]];
    let lengths = [2, 4];
    for (a, want) in [(Advantage::Grpo, 1.5), (Advantage::Dapo, 5.0 / 3.0), (Advantage::DrGrpo, 0.625)] {
        let weights = a.token_weights(&lengths, 8);
        let sum: f64 = sequences.iter().zip(weights).map(|(s, w)| w * s.iter().sum::<f64>()).sum();
        assert_close("summed", sum, want, 1e-12);
        assert_close("joined", join_token_losses(&sequences, a.normaliser(8)), want, 1e-12);
    }
}

#[test]
fn clips_and_ratios_belong_together() {
    assert_eq!((Advantage::Gspo.ratio(), Advantage::Gspo.clip()), (RatioOf::SequencePerToken, (3e-4, 4e-4)));
    assert_eq!((Advantage::Dapo.ratio(), Advantage::Dapo.clip()), (RatioOf::Token, (0.2, 0.28)));
    assert_eq!((Advantage::Grpo.clip(), Advantage::LeaveOneOut.ratio()), ((0.2, 0.2), RatioOf::Sequence));
}

#[test]
fn a_batch_used_again_is_weighed_by_the_slope_of_the_clipped_objective() {
    let old = [-1.0, -2.0, -0.5];
    // within every clip but GSPO's, above them, far above, below
    for moved in [1e-4, 0.1, 0.3, 1.6, -0.4] {
        let now = [old[0] + moved, old[1] - 0.5 * moved, old[2] + moved];
        for (a, advantage) in Advantage::ALL.into_iter().flat_map(|a| [1.5, -0.5].map(|advantage| (a, advantage))) {
            let (low, high) = a.clip();
            let clipped = |ratio: f64| clipped_objective(ratio, advantage, low, high, Some(4.0));
            let objective = |now: &[f64]| -> f64 {
                match a.ratio() {
                    RatioOf::Token => token_ratios(now, &old).into_iter().map(clipped).sum(),
                    RatioOf::Sequence => clipped(sequence_ratio(now, &old, false)),
                    // the normaliser divides by the length
                    RatioOf::SequencePerToken => 3.0 * clipped(sequence_ratio(now, &old, true)),
                }
            };
            let weights = a.off_policy_weights(&now, &old, advantage);
            for t in 0..3 {
                let mut around = [now, now];
                around[0][t] += 1e-6;
                around[1][t] -= 1e-6;
                let slope = (objective(&around[0][..]) - objective(&around[1][..])) / 2e-6;
                assert_close(&format!("{a:?} {moved} {advantage} {t}"), weights[t] * advantage, slope, 1e-6);
            }
        }
    }
}

#[test]
fn a_clipped_ratio_stops_the_gradient_and_algorithms_clip_different_ratios() {
    let (now, old) = ([-0.5, -2.0], [-1.0, -2.0]);
    let of = |a: Advantage, advantage: f64| a.off_policy_weights(&now, &old, advantage);
    // the first token went up by 1.65, past every clip; the second did not move
    assert_all("GRPO, praised", &of(Advantage::Grpo, 1.0), &[0.0, 1.0], 0.0);
    assert_all("GRPO, blamed", &of(Advantage::Grpo, -1.0), &[0.5f64.exp(), 1.0], 1e-12);
    assert_all("GSPO, praised", &of(Advantage::Gspo, 1.0), &[0.0, 0.0], 0.0);
    assert_all("GSPO, blamed", &of(Advantage::Gspo, -1.0), &[0.25f64.exp(); 2], 1e-12);
    assert_all("RLOO, praised", &of(Advantage::LeaveOneOut, 1.0), &[0.0, 0.0], 0.0);
    let far = Advantage::Grpo.off_policy_weights(&[-0.1, 900.0], &[-2.0, -2.0], -1.0);
    assert_all("dual clip, and an overflow", &far, &[0.0, 0.0], 0.0);
    assert_all("not yet moved", &Advantage::Gspo.off_policy_weights(&old, &old, 1.0), &[1.0, 1.0], 0.0);
}

#[test]
fn long_answers_cost_linearly_more() {
    for (n, want) in [(10, 0.0), (12, 0.0), (14, -0.5), (16, -1.0), (20, -1.0)] {
        assert_close("penalty", overlong_penalty(n, 16, 4), want, 1e-12);
    }
    assert_close("no buffer", overlong_penalty(17, 16, 0), -1.0, 0.0);
    assert_close("no buffer, fits", overlong_penalty(16, 16, 0), 0.0, 0.0);
}

#[test]
fn algorithms_have_names_in_a_configuration() {
    let names = Advantage::ALL.map(|a| serde_json::to_value(a).expect("a name"));
    assert_eq!(names, ["leave_one_out", "dr_grpo", "grpo", "dapo", "gspo", "reinforce_plus_plus"]);
}
