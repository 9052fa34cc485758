//! Special functions of the statistics here, in f64: digamma, trigamma, the regularised incomplete beta
//! function and its inverse, tails of the normal, Student and chi-square distributions. Used by CTR
//! smoothing, calibration, A/B statistics and tests.
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

/// P(|T| > |t|) for Student's t with `dof` > 0 degrees of freedom; infinite `dof` is the normal.
///
/// Below 1,000 degrees I_{ν/(ν+t²)}(ν/2, 1/2), where that is accurate to about 1e-12; above, Hill's expansion
/// (Communications of the ACM 13, 1970, algorithm 395), whose error falls with a high power of `dof` and which does
/// not subtract two large log-gammas.
pub fn student_tails(t: f64, dof: f64) -> f64 {
    let t2 = t * t;
    if dof < 1_000.0 {
        return beta_cdf(dof / (dof + t2), 0.5 * dof, 0.5);
    }
    if dof.is_infinite() {
        return 2.0 * normal_cdf(-t.abs());
    }
    let a = dof - 0.5;
    let (b, y) = (48.0 * a * a, a * (t2 / dof).ln_1p());
    let correction = (((-0.4 * y - 3.3) * y - 24.0) * y - 85.5) / (0.8 * y * y + 100.0 + b) + y + 3.0;
    2.0 * normal_cdf(-(correction / b + 1.0) * y.sqrt())
}

/// The t > 0 with P(|T| > t) = `alpha`, by bisection of [`student_tails`]; relative error about 1e-12.
/// NaN for a NaN `dof`.
///
/// # Panics
/// If `alpha` is not strictly between 0 and 1.
pub fn student_two_sided_quantile(alpha: f64, dof: f64) -> f64 {
    assert!(alpha > 0.0 && alpha < 1.0, "a quantile needs 0 < alpha < 1, got {alpha}");
    if dof.is_nan() {
        return f64::NAN;
    }
    let (mut low, mut high) = (0.0f64, 2.0f64);
    while student_tails(high, dof) > alpha && high < 1e300 {
        high *= 2.0;
    }
    for _ in 0..1_100 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high || high - low <= 1e-14 * high {
            break;
        }
        if student_tails(middle, dof) > alpha {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// P(chi² with `dof` > 0 degrees of freedom > x) = Q(dof/2, x/2), the regularised upper incomplete gamma function:
/// its series below a + 1, its continued fraction (modified Lentz) above. Relative error about 1e-12.
pub fn chi_square_tail(x: f64, dof: f64) -> f64 {
    let (a, x) = (0.5 * dof, 0.5 * x);
    if !(x > 0.0) {
        return if x.is_nan() { f64::NAN } else { 1.0 };
    }
    let log_front = a * x.ln() - x - libm::lgamma(a);
    if x < a + 1.0 {
        let (mut term, mut sum, mut k) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-17 {
            k += 1.0;
            term *= x / k;
            sum += term;
        }
        return 1.0 - log_front.exp() * sum;
    }
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (f64::INFINITY, 1.0 / b);
    let mut value = d;
    for i in 1..100_000 {
        let i = f64::from(i);
        let numerator = -i * (i - a);
        b += 2.0;
        d = 1.0 / (numerator * d + b);
        c = b + numerator / c;
        value *= c * d;
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    log_front.exp() * value
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

    /// SciPy 1.17: `2 * t.sf(t, dof)`.
    #[test]
    fn student_tails_on_both_sides_of_the_switch() {
        for (t, dof, want) in [
            (2.0, 3.0, 0.13932596855884305),
            (2.5, 17.3, 0.02274750017580115),
            (2.0, 999.0, 0.045770616973757),
            (2.0, 1000.0, 0.04577034649325166),
            (6.0, 5_000.0, 2.112096283305395e-9),
            (0.3, 1e6, 0.7641772179789942),
        ] {
            assert_close(&format!("t {t}, dof {dof}"), student_tails(t, dof) / want, 1.0, 1e-9);
        }
        assert_close("normal", student_tails(1.959_963_984_540_054, f64::INFINITY), 0.05, 1e-14);
        assert_close("quantile", student_two_sided_quantile(0.05, 30.0), 2.0422724563012378, 1e-10);
        assert_close("normal quantile", student_two_sided_quantile(0.05, f64::INFINITY), 1.959_963_984_540_054, 1e-10);
    }

    /// SciPy 1.17: `chi2.sf(x, dof)`.
    #[test]
    fn chi_square_tails() {
        for (x, dof, want) in [
            (4.571428571428571, 2.0, 0.10170139230422684),
            (3.356693980033321, 4.0, 0.5),
            (11.235955056179776, 1.0, 0.0008022781177678721),
            (0.5, 7.0, 0.9994464813904249),
            (60.0, 20.0, 7.121750862815593e-6),
            (300.0, 3.0, 9.948758346327588e-65),
        ] {
            assert_close(&format!("chi² {x}, dof {dof}"), chi_square_tail(x, dof) / want, 1.0, 1e-9);
        }
        assert_eq!((chi_square_tail(0.0, 1.0), chi_square_tail(-1.0, 1.0)), (1.0, 1.0));
    }

    #[test]
    fn normal_tails() {
        assert_close("Φ(1.959963984540054)", normal_cdf(1.959_963_984_540_054), 0.975, 1e-14);
        assert_close("ln Φ(-20)", normal_cdf(-20.0).ln(), -203.917155371, 1e-8);
        assert_close("logit of 0.05", logit(0.05), -2.944438979, 1e-9);
    }
}
