use super::*;
use beckon_shared::metrics::assert_close;

#[test]
fn the_exponential_is_within_its_stated_error() {
    let mut worst = 0.0f64;
    for i in 0..2_000_000 {
        let x = -87.3 + 175.6 * i as f32 / 2_000_000.0;
        let want = f64::from(x).exp();
        worst = worst.max((f64::from(exp(x)) - want).abs() / want);
    }
    assert!(worst < 2e-7, "worst relative error {worst:e}");
    assert_close("at zero", exp(0.0), 1.0, 0.0);
}

#[test]
fn outside_its_range_the_exponential_stays_finite_and_positive() {
    for x in [-1e30, -1000.0, -88.0, 89.0, 1000.0, f32::INFINITY, f32::NEG_INFINITY] {
        let y = exp(x);
        assert!(y > 0.0 && y.is_finite(), "exp({x}) = {y}");
    }
}

#[test]
fn sums_and_maxima_agree_with_plain_loops_at_every_length() {
    for n in 0..70 {
        let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.3).cos()).collect();
        let want: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
        assert_close("dot", sum_of(&a, &b, |x, y| x * y), want, 1e-5);
        assert_eq!(max(&a).to_bits(), a.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x)).to_bits());
        let mut e = a.clone();
        let sum = exp_in_place(&mut e, 0.25);
        let want: f64 = a.iter().map(|x| (f64::from(*x) - 0.25).exp()).sum();
        assert_close("sum of exponentials", sum, want, 1e-4);
    }
}

#[test]
fn the_processor_s_instructions_do_not_change_a_result() {
    let values: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
    let work = || {
        let mut e = values.clone();
        let sum = exp_in_place(&mut e, max(&values));
        (e.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), sum.to_bits())
    };
    assert_eq!(vectorized(work), work());
}
