//! log Φ and its derivative, the inverse Mills ratio, exact at every argument. Method B.2.2, oracle T1.
//!
//! Two paths: f64 through the complementary error function, the reference; and f32 through one
//! polynomial, which is what Burn evaluates with tensor operations (`server::model::reward`) and
//! [`log_phi_f32`] evaluates one number at a time, its twin for tests.

use crate::special::{normal_cdf, normal_pdf};
use std::f64::consts::{FRAC_1_SQRT_2, LN_2, PI};

/// Coefficients c0..c9 of P(t), t = 3/(3+|z|), in log Φ(-a) = -a²/2 - ln 2 + ln t + P(t); our own fit,
/// method B.2.2. Relative error of log Φ over a in [0, 1e4]: 1.3e-7 in f64; 6e-7 measured in f32.
pub const LOG_PHI_COEFFICIENTS: [f64; 10] = [
    -1.324403881602,
    1.000049749564,
    0.3871918210843,
    0.133464862042,
    -0.2004625252226,
    0.429704452305,
    -1.288665861917,
    1.428505320755,
    -0.6930488886439,
    0.1276648418693,
];

/// ln sqrt(2π).
pub fn ln_sqrt_2_pi() -> f64 {
    0.5 * (2.0 * PI).ln()
}

/// log Φ(z), the reference: erfc where it is accurate, its asymptotic series below z = -37.
///
/// Relative error about 1e-12. For z >= 0 it goes through log1p of the other tail, so that log Φ(8)
/// is -6.2e-16 and not a multiple of the machine epsilon.
pub fn log_phi(z: f64) -> f64 {
    if z >= 0.0 {
        (-0.5 * libm::erfc(z * FRAC_1_SQRT_2)).ln_1p()
    } else if z >= -37.0 {
        (0.5 * libm::erfc(-z * FRAC_1_SQRT_2)).ln()
    } else {
        let r = 1.0 / (z * z);
        -0.5 * z * z - (-z).ln() - ln_sqrt_2_pi() + (r * (-1.0 + r * (3.0 - 15.0 * r))).ln_1p()
    }
}

/// lambda(z) = φ(z)/Φ(z) = d log Φ(z)/dz, the reference. About -z for very negative z.
pub fn inverse_mills(z: f64) -> f64 {
    (-0.5 * z * z - ln_sqrt_2_pi() - log_phi(z)).exp()
}

/// ln t + P(t) at t = 3/(3+a): what both tails share.
fn tail_polynomial_f32(a: f32) -> f32 {
    let t = 3.0 / (3.0 + a);
    let p = LOG_PHI_COEFFICIENTS.iter().rev().fold(0.0f32, |sum, &c| sum * t + c as f32);
    t.ln() + p
}

/// log Φ(z) in f32 arithmetic by the polynomial; relative error at most 6e-7 for z <= 0, finite for |z| <= 1e4.
///
/// Both tails are computed from |z| and one is chosen, as the tensor version must do; no branch
/// overflows, so none can send a NaN through a selection.
pub fn log_phi_f32(z: f32) -> f32 {
    let a = if z >= 0.0 { z } else { -z };
    let lower = -0.5 * a * a - std::f32::consts::LN_2 + tail_polynomial_f32(a);
    if z >= 0.0 { (-lower.exp()).ln_1p() } else { lower }
}

/// lambda(z) in f32 arithmetic by the same polynomial; relative error at most 1e-6 for z <= 0.
pub fn inverse_mills_f32(z: f32) -> f32 {
    let a = if z >= 0.0 { z } else { -z };
    if z >= 0.0 {
        (-0.5 * a * a - ln_sqrt_2_pi() as f32 - log_phi_f32(z)).exp()
    } else {
        (2.0 / std::f32::consts::PI).sqrt() * (-tail_polynomial_f32(a)).exp()
    }
}

/// log(1 - exp(-u)) for u > 0, without cancellation at either end.
pub fn log1mexp(u: f64) -> f64 {
    if u < LN_2 { (-(-u).exp_m1()).ln() } else { (-(-u).exp()).ln_1p() }
}

/// Φ⁻¹(p) for p in (0, 1): a rational start (Hastings) polished by Newton steps on log Φ of the
/// smaller tail; absolute error about 1e-12.
///
/// # Panics
/// If `p` is not strictly between 0 and 1.
pub fn normal_quantile(p: f64) -> f64 {
    assert!(p > 0.0 && p < 1.0, "a quantile needs 0 < p < 1, got {p}");
    // work in the lower tail, where log Φ is well conditioned
    let (tail, sign) = if p < 0.5 { (p, 1.0) } else { (1.0 - p, -1.0) };
    let s = (-2.0 * tail.ln()).sqrt();
    let mut z = -(s - (2.30753 + 0.27061 * s) / (1.0 + s * (0.99229 + 0.04481 * s)));
    for _ in 0..8 {
        let step =
            if z > -6.0 { (normal_cdf(z) - tail) / normal_pdf(z) } else { (log_phi(z) - tail.ln()) / inverse_mills(z) };
        z -= step;
        if step.abs() < 1e-14 {
            break;
        }
    }
    sign * z
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    /// T1: z, log Φ(z), lambda(z), from 50-digit arithmetic.
    const T1: [(f64, f64, f64); 14] = [
        (0.0, -0.693147181, 0.797884561),
        (1.0, -0.172753779, 0.287599971),
        (-1.0, -1.841021645, 1.525135276),
        (2.0, -0.023012909, 0.055247863),
        (-2.0, -3.783184334, 2.373215533),
        (-5.0, -15.064998394, 5.186503967),
        (-8.0, -35.013437160, 8.121368112),
        (-10.0, -53.231285151, 10.098093234),
        (-20.0, -203.917155371, 20.049753069),
        (-38.0, -726.557216019, 38.026279467),
        (-40.0, -804.608442014, 40.024968847),
        (-100.0, -5005.524208695, 100.009998001),
        (5.0, -2.866516130e-7, 1.486719941e-6),
        (8.0, -6.220960574e-16, 5.052271084e-15),
    ];

    #[test]
    fn oracle_t1_in_f64() {
        for (z, want, mills) in T1 {
            // nine decimals or ten digits are printed in the table
            assert_close(
                &format!("log Φ({z})"),
                log_phi(z),
                want,
                1e-9 * want.abs() + if z.abs() < 3.0 { 5e-10 } else { 0.0 },
            );
            assert_close(&format!("lambda({z})"), inverse_mills(z), mills, 1e-8 * mills);
        }
        assert_close("log1mexp(1e-10)", log1mexp(1e-10), -23.025850930, 1e-9);
        assert_close("log1mexp(0.1)", log1mexp(0.1), -2.352168461, 1e-9);
        assert_close("log1mexp(2)", log1mexp(2.0), -0.145413458, 1e-9);
    }

    #[test]
    fn oracle_t1_in_f32() {
        for (z, want, mills) in T1 {
            let z32 = z as f32;
            // above 5 exp(lower) is below the spacing of f32 around 1 but log1p keeps it
            assert_close(&format!("log Φ({z})"), log_phi_f32(z32), want, 2e-6 * want.abs());
            assert_close(&format!("lambda({z})"), inverse_mills_f32(z32), mills, 4e-6 * mills);
        }
    }

    #[test]
    fn the_polynomial_holds_its_error_over_the_whole_range() {
        for i in 0..4_000 {
            let z = -(10f64.powf(-3.0 + 7.0 * f64::from(i) / 4_000.0)) as f32;
            let (want, mills) = (log_phi(f64::from(z)), inverse_mills(f64::from(z)));
            assert_close(&format!("log Φ({z})"), log_phi_f32(z), want, 6e-7 * want.abs());
            assert_close(&format!("lambda({z})"), inverse_mills_f32(z), mills, 1e-6 * mills);
        }
        for z in [0.0f32, 1e-6, -1e-6, 8.0, -8.0, 40.0, -40.0, 1e4, -1e4] {
            assert!(log_phi_f32(z).is_finite() && inverse_mills_f32(z).is_finite(), "z = {z}");
        }
    }

    #[test]
    fn the_two_reference_branches_meet() {
        let step = 1e-5;
        let (above, below) = (log_phi(-37.0 + step), log_phi(-37.0 - step));
        assert_close("slope across -37", (above - below) / (2.0 * step), inverse_mills(-37.0), 1e-4);
    }

    #[test]
    fn the_inverse_mills_ratio_is_the_derivative() {
        for z in [-40.0, -8.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 3.0] {
            let h = 1e-5;
            let slope = (log_phi(z + h) - log_phi(z - h)) / (2.0 * h);
            assert_close(&format!("d log Φ at {z}"), slope, inverse_mills(z), 2e-6);
        }
    }

    #[test]
    fn quantiles_invert_the_cdf() {
        assert_close("5%", normal_quantile(0.05), -1.6448536269514722, 1e-12);
        for p in [1e-12, 1e-4, 0.1, 0.5, 0.7, 0.999] {
            let z = normal_quantile(p);
            assert_close(&format!("Φ(Φ⁻¹({p}))"), normal_cdf(z), p, 1e-12 * p.max(1e-3));
        }
    }
}
