//! Value and gradient of every loss against the f64 reference, at ordinary and at extreme arguments.

use super::*;
use beckon_shared::garm::anchor::{THRESHOLDS, ordinal_nll};
use beckon_shared::garm::normal::{inverse_mills, log_phi};
use beckon_shared::garm::pair::pair_nll;
use beckon_shared::garm::prior::kl_to_prior;
use beckon_shared::garm::{Gaussian, variants};
use beckon_shared::metrics::assert_close;
use burn::tensor::{Device, TensorData};

const SPECIAL: [f64; 9] = [0.0, 1e-6, -1e-6, 1.0, -3.0, 8.0, -8.0, 40.0, -40.0];

fn vector(values: &[f64], device: &Device) -> Tensor<1> {
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

fn host(tensor: Tensor<1>) -> Vec<f64> {
    let values: Vec<f32> = tensor.inner().into_data().try_into_vec().expect("f32");
    values.into_iter().map(f64::from).collect()
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// Values of `loss(mean, log v)` and its gradients in both.
fn evaluate(
    mean: &[f64],
    log_variance: &[f64],
    loss: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mean = vector(mean, &device()).require_grad();
    let log_variance = vector(log_variance, &device()).require_grad();
    let loss = loss(mean.clone(), log_variance.clone());
    let values = host(loss.clone());
    let grads = loss.sum().backward();
    let grad = |x: &Tensor<1>| x.grad(&grads).map_or_else(|| vec![0.0; x.dims()[0]], host);
    (values, grad(&mean), grad(&log_variance))
}

#[test]
fn log_phi_and_its_derivative_hold_at_every_argument() {
    let z: Vec<f64> = (-400..=400).map(|i| f64::from(i) / 10.0).chain(SPECIAL).chain([1e3, -1e3, 1e4, -1e4]).collect();
    let (log_p, mills) = log_phi_and_mills(vector(&z, &Device::flex()));
    for ((z, log_p), mills) in z.iter().map(|&z| f64::from(z as f32)).zip(host(log_p)).zip(host(mills)) {
        let (want, want_mills) = (log_phi(z), inverse_mills(z));
        // far above 0 the value is exp of a number of tens, whose f32 rounding is the error
        let relative = if z < 5.0 { 2e-6 } else { 2e-5 };
        assert_close(&format!("log Φ({z})"), log_p, want, relative * want.abs() + 1e-37);
        assert_close(&format!("lambda({z})"), mills, want_mills, 2e-5 * want_mills + 1e-37);
    }
}

/// A grid of pairs with z at the special points: (mean chosen, log v chosen, log v rejected, y, w).
fn pair_grid() -> Vec<[f64; 5]> {
    let mut grid = Vec::new();
    for z in SPECIAL {
        for (v_a, v_b) in [(1.0f64, 1.0f64), (0.04, 0.09), (0.3, 9.0), (25.0, 0.02)] {
            for (y, w) in [(1.0, 1.0), (0.98, 0.35), (0.6, 2.0)] {
                grid.push([z * (v_a + v_b).sqrt(), v_a.ln(), v_b.ln(), y, w]);
            }
        }
    }
    grid
}

#[test]
fn the_pair_loss_equals_its_reference_in_value_and_gradient() {
    let grid = pair_grid();
    let column = |k: usize| grid.iter().map(|row| row[k]).collect::<Vec<_>>();
    let n = grid.len();
    let mean = [column(0), vec![0.0; n]].concat();
    let log_variance = [column(1), column(2)].concat();
    let (labels, weights) = (vector(&column(3), &Device::flex()), vector(&column(4), &Device::flex()));
    let (values, d_mean, d_log_variance) =
        evaluate(&mean, &log_variance, |m, v| pair_loss(m, v, labels.clone(), weights.clone(), f64::INFINITY));
    for (i, row) in grid.iter().enumerate() {
        let [mu, log_a, log_b, y, w] = row.map(|x| f64::from(x as f32));
        let want = pair_nll(Gaussian::new(mu, log_a.exp()), Gaussian::new(0.0, log_b.exp()), y, w);
        let name = |what: &str| format!("{what} at z = {}, row {i}", want.z);
        let tol = |x: f64| 2e-5 * x.abs() + 1e-6;
        assert_close(&name("loss"), values[i], want.nll, tol(want.nll));
        assert_close(&name("d mean chosen"), d_mean[i], want.d_mean_chosen, tol(want.d_mean_chosen));
        assert_close(&name("d mean rejected"), d_mean[n + i], -want.d_mean_chosen, tol(want.d_mean_chosen));
        assert_close(
            &name("d log v chosen"),
            d_log_variance[i],
            want.d_log_variance_chosen,
            tol(want.d_log_variance_chosen),
        );
        let rejected = want.d_log_variance_rejected;
        assert_close(&name("d log v rejected"), d_log_variance[n + i], rejected, tol(rejected));
    }
}

#[test]
fn oracle_t2_on_burn() {
    // P6: the worst pair of the table, and P5: a tie, whose means must still move
    let (values, d_mean, d_log_variance) = evaluate(&[-6.0, 0.2, 6.0, 0.2], &[0.5f64.ln(); 4], |m, v| {
        let ones = vector(&[1.0, 1.0], &Device::flex());
        pair_loss(m, v, ones.clone(), ones, f64::INFINITY)
    });
    for (name, got, want) in [
        ("P6 L", values[0], 75.410673002),
        ("P6 dmu", d_mean[0], -12.082214175),
        ("P6 dlv", d_log_variance[0], -36.246642526),
        ("P5 L", values[1], 0.693147181),
        ("P5 dmu", d_mean[1], -0.797884561),
        ("P5 dlv", d_log_variance[1], 0.0),
    ] {
        assert_close(name, got, want, 2e-5 * f64::abs(want) + 1e-6);
    }
}

#[test]
fn the_clip_bounds_the_variance_gradient_and_leaves_value_and_mean_alone() {
    let at = |clip: f64| {
        evaluate(&[-6.0, 6.0], &[0.5f64.ln(); 2], |m, v| {
            let one = vector(&[1.0], &Device::flex());
            pair_loss(m, v, one.clone(), one, clip)
        })
    };
    let (exact, clipped) = (at(f64::INFINITY), at(2.0));
    assert_eq!(exact.0, clipped.0);
    assert_eq!(exact.1, clipped.1);
    assert!(exact.2[0] < -30.0);
    assert_close("clipped", clipped.2[0], -2.0, 0.0);
}

#[test]
fn the_ordinal_loss_equals_its_reference_in_value_and_gradient() {
    let mut rows: Vec<(f64, f64, u8, f64)> = Vec::new();
    for z in SPECIAL {
        for v in [1.0f64, 0.05, 9.0] {
            for level in 0..3 {
                rows.push((z * v.sqrt(), v.ln(), level, 1.0 + f64::from(level)));
            }
        }
    }
    let is_level = [0, 1, 2].map(|o| {
        let column: Vec<f64> = rows.iter().map(|r| f64::from(u8::from(r.2 == o))).collect();
        vector(&column, &Device::flex())
    });
    let weights = vector(&rows.iter().map(|r| r.3).collect::<Vec<_>>(), &Device::flex());
    let mean: Vec<f64> = rows.iter().map(|r| r.0).collect();
    let log_variance: Vec<f64> = rows.iter().map(|r| r.1).collect();
    let (values, d_mean, d_log_variance) = evaluate(&mean, &log_variance, |m, v| {
        ordinal_loss(m, v, is_level.clone(), weights.clone(), THRESHOLDS, f64::INFINITY)
    });
    for (i, (mu, log_v, level, w)) in rows.iter().copied().enumerate() {
        let (mu, log_v) = (f64::from(mu as f32), f64::from(log_v as f32));
        let want = ordinal_nll(Gaussian::new(mu, log_v.exp()), level, THRESHOLDS);
        let name = |what: &str| format!("{what} of level {level} at mu {mu}, log v {log_v}");
        // f32 cancels in the narrow middle bin far out: 40 sigma away three digits remain
        let tol = |x: f64| 1e-3 * x.abs() + 1e-5;
        assert_close(&name("loss"), values[i], w * want.nll, 2e-5 * w * want.nll + 1e-5);
        assert_close(&name("d mean"), d_mean[i], w * want.d_mean, tol(w * want.d_mean));
        assert_close(&name("d log v"), d_log_variance[i], 0.5 * w * want.d_log_std, tol(w * want.d_log_std));
    }
}

#[test]
fn prior_and_bradley_terry_equal_their_references() {
    let (mean, log_variance) = ([1.2, 0.5, -40.0], [0.16f64.ln(), 0.05f64.ln(), 9.0f64.ln()]);
    let (values, d_mean, d_log_variance) = evaluate(&mean, &log_variance, |m, v| prior_loss(m, v, -1.5, 2.25));
    for i in 0..3 {
        let want = kl_to_prior(Gaussian::new(mean[i], log_variance[i].exp()), Gaussian::new(-1.5, 2.25));
        assert_close("KL", values[i], want.kl, 1e-5 * want.kl.max(1.0));
        assert_close("KL dmu", d_mean[i], want.d_mean, 1e-5 * want.d_mean.abs().max(1.0));
        assert_close("KL dlv", d_log_variance[i], want.d_log_variance, 1e-5);
    }
    let (values, d_mean, _) = evaluate(&[2.0, -60.0, 0.5, 60.0], &[0.0; 4], |m, _| {
        bradley_terry_loss(m, vector(&[0.9, 1.0], &Device::flex()), vector(&[1.0, 1.0], &Device::flex()))
    });
    let nll = |d: f64| variants::bradley_terry_nll(Gaussian::new(d, 1.0), Gaussian::new(0.0, 1.0));
    assert_close("soft label", values[0], 0.9 * nll(1.5) + 0.1 * nll(-1.5), 1e-6);
    assert_close("far wrong", values[1], 120.0, 1e-4);
    assert_close("its gradient", d_mean[1], -1.0, 1e-6);
}

#[test]
fn the_text_loss_equals_its_reference_and_stays_finite_for_long_texts() {
    let logps = [-12.0, 0.0, -300.0, -5_000.0];
    let (values, slopes, _) = evaluate(&logps, &[0.0; 4], |logps, _| text_loss(logps, variants::TEXT_BETA));
    for ((logp, value), slope) in logps.iter().zip(values).zip(slopes) {
        let want = variants::text_regularisation(*logp, variants::TEXT_BETA);
        assert_close(&format!("L_text at {logp}"), value, want, 1e-6 * want);
        // -beta sigmoid(-beta log p)
        let want = -variants::TEXT_BETA / (1.0 + (variants::TEXT_BETA * logp).exp());
        assert_close(&format!("its slope at {logp}"), slope, want, 1e-6);
    }
}

/// Central differences of the loss itself, in f32 with a step that f32 can carry.
#[test]
fn gradients_are_finite_differences_of_the_loss() {
    let h = 1e-2;
    let weights = [1.0];
    let pair = |mean: &[f64], log_variance: &[f64]| {
        evaluate(mean, log_variance, |m, v| {
            let (y, w) = (vector(&[0.9], &Device::flex()), vector(&weights, &Device::flex()));
            pair_loss(m, v, y, w, f64::INFINITY)
        })
    };
    for (mu, log_v) in [(0.7, -0.3), (-1.5, 0.4), (0.0, 0.0), (1e-6, 0.1)] {
        let (_, d_mean, d_log_variance) = pair(&[mu, 0.2], &[log_v, 0.1]);
        let slope = |plus: (Vec<f64>, Vec<f64>, Vec<f64>), minus: (Vec<f64>, Vec<f64>, Vec<f64>)| {
            (plus.0[0] - minus.0[0]) / (2.0 * h)
        };
        let by_mean = slope(pair(&[mu + h, 0.2], &[log_v, 0.1]), pair(&[mu - h, 0.2], &[log_v, 0.1]));
        assert_close(&format!("d mean at {mu}"), d_mean[0], by_mean, 2e-4);
        let by_variance = slope(pair(&[mu, 0.2], &[log_v + h, 0.1]), pair(&[mu, 0.2], &[log_v - h, 0.1]));
        assert_close(&format!("d log v at {mu}"), d_log_variance[0], by_variance, 2e-4);
    }
}
