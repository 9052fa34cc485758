//! Special functions of the statistics here, in f64: digamma, trigamma, the regularised incomplete beta
//! function and its inverse, the normal distribution. Used by CTR smoothing, calibration and tests.
//!
//! Gamma and error functions come from `libm`, which gives the same bits natively and on wasm32.
//! Log Φ with its gradient is not here: see [`crate::garm`].

/// ψ(x) = d ln Γ(x)/dx for x > 0; relative error about 1e-13.
///
/// Recurrence up to x >= 10, then the asymptotic series.
pub fn digamma(mut x: f64) -> f64 {
    let mut value = 0.0;
    while x < 10.0 {
        value -= 1.0 / x;
        x += 1.0;
    }
    let r = 1.0 / (x * x);
    let series = r
        * (1.0 / 12.0
            - r * (1.0 / 120.0 - r * (1.0 / 252.0 - r * (1.0 / 240.0 - r * (1.0 / 132.0 - r * 691.0 / 32760.0)))));
    value + x.ln() - 0.5 / x - series
}

/// ψ₁(x) = dψ(x)/dx for x > 0; relative error about 1e-12.
pub fn trigamma(mut x: f64) -> f64 {
    let mut value = 0.0;
    while x < 10.0 {
        value += 1.0 / (x * x);
        x += 1.0;
    }
    let r = 1.0 / (x * x);
    let series = r
        * (1.0 / 6.0 - r * (1.0 / 30.0 - r * (1.0 / 42.0 - r * (1.0 / 30.0 - r * (5.0 / 66.0 - r * 691.0 / 2730.0)))));
    value + 1.0 / x + 0.5 * r + series / x
}

/// Continued fraction of the incomplete beta function (modified Lentz), for x < (a+1)/(a+b+2).
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let guard = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..5_000 {
        let m = f64::from(m);
        for numerator in [
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        ] {
            d = 1.0 / guard(1.0 + numerator * d);
            c = guard(1.0 + numerator / c);
            value *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// I_x(a, b), the CDF of Beta(a, b) at `x`, for a, b > 0; absolute error about 1e-13.
pub fn beta_cdf(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let log_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * (-x).ln_1p();
    if x < (a + 1.0) / (a + b + 2.0) {
        log_front.exp() * beta_fraction(x, a, b) / a
    } else {
        1.0 - log_front.exp() * beta_fraction(1.0 - x, b, a) / b
    }
}

/// Quantile `q` in (0, 1) of Beta(a, b), by bisection of [`beta_cdf`]; relative error about 1e-10.
pub fn beta_quantile(q: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0f64, 1.0f64);
    // 1,100 halvings reach the smallest f64; the usual case stops after about 50
    for _ in 0..1_100 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high || high - low <= 1e-14 * high {
            break;
        }
        if beta_cdf(middle, a, b) < q {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Density of the standard normal.
pub fn normal_pdf(z: f64) -> f64 {
    (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt()
}

/// Φ(z), the CDF of the standard normal, relative error about 1e-15 in both tails.
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

/// ln(p / (1 - p)).
pub fn logit(p: f64) -> f64 {
    p.ln() - (-p).ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn digamma_and_trigamma_at_known_points() {
        const EULER: f64 = 0.577_215_664_901_532_9;
        assert_close("ψ(1)", digamma(1.0), -EULER, 1e-13);
        assert_close("ψ(1/2)", digamma(0.5), -EULER - 2.0 * 2f64.ln(), 1e-13);
        assert_close("ψ(30) - ψ(29)", digamma(30.0) - digamma(29.0), 1.0 / 29.0, 1e-13);
        let pi2 = std::f64::consts::PI.powi(2);
        assert_close("ψ₁(1)", trigamma(1.0), pi2 / 6.0, 1e-12);
        assert_close("ψ₁(1/2)", trigamma(0.5), pi2 / 2.0, 1e-12);
    }

    #[test]
    fn beta_quantiles_invert_the_cdf() {
        for (a, b) in [(0.05, 3.0), (0.58, 54.9), (5.0, 55.0), (400.0, 20.0), (1.0, 1.0), (2000.0, 90_000.0)] {
            for q in [0.001, 0.05, 0.5, 0.95] {
                let x = beta_quantile(q, a, b);
                assert_close(&format!("I of quantile {q} of Beta({a}, {b})"), beta_cdf(x, a, b), q, 1e-9);
            }
        }
        assert_close("uniform", beta_quantile(0.3, 1.0, 1.0), 0.3, 1e-12);
    }

    /// Oracle C6: Beta(5, 55).
    #[test]
    fn c6_lower_bound() {
        assert_close("LCB5", beta_quantile(0.05, 5.0, 55.0), 0.033987177, 1e-9);
    }

    #[test]
    fn normal_tails() {
        assert_close("Φ(1.959963984540054)", normal_cdf(1.959_963_984_540_054), 0.975, 1e-14);
        assert_close("ln Φ(-20)", normal_cdf(-20.0).ln(), -203.917155371, 1e-8);
        assert_close("logit of 0.05", logit(0.05), -2.944438979, 1e-9);
    }
}
