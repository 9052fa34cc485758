//! The one numeric comparison of the repository: it passes only where the difference is provably
//! within the tolerance, so NaN on either side fails.

/// Largest absolute difference of two equally long slices, or why they do not agree.
///
/// Passes only on `|got - want| <= tol` for every element; infinities of one sign count as equal.
///
/// # Errors
/// A sentence naming `name`, the first offending index, both values and the tolerance; also where
/// the lengths differ or `tol` is not a number.
pub fn max_diff_within<T: Copy + Into<f64>>(name: &str, got: &[T], want: &[T], tol: f64) -> Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{name}: {} values, expected {}", got.len(), want.len()));
    }
    let mut largest = 0.0;
    for (idx, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want): (f64, f64) = ((*got).into(), (*want).into());
        let diff = if got == want { 0.0 } else { (got - want).abs() };
        if diff <= tol {
            largest = f64::max(largest, diff);
        } else {
            return Err(format!("{name}[{idx}]: got {got}, expected {want}, difference {diff} above tolerance {tol}"));
        }
    }
    Ok(largest)
}

/// Asserts that two slices agree element by element within the absolute tolerance `tol`.
///
/// # Panics
/// With the sentence of [`max_diff_within`] where they do not; NaN never agrees with anything.
#[track_caller]
pub fn assert_all_close<T: Copy + Into<f64>>(name: &str, got: &[T], want: &[T], tol: f64) {
    if let Err(why) = max_diff_within(name, got, want, tol) {
        panic!("{why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_only_on_a_difference_within_tolerance() {
        assert_eq!(max_diff_within("a", &[1.0f32, 2.0], &[1.0, 2.5], 0.5), Ok(0.5));
        assert!(max_diff_within("a", &[1.0f32, 2.0], &[1.0, 2.5], 0.49).is_err());
        assert!(max_diff_within("a", &[f64::INFINITY], &[f64::INFINITY], 0.0).is_ok());
        assert!(max_diff_within("a", &[f64::INFINITY], &[f64::NEG_INFINITY], 1.0).is_err());
        assert!(max_diff_within::<f32>("a", &[1.0], &[], 1.0).is_err());
    }

    #[test]
    fn nan_never_agrees() {
        for (got, want) in [(f64::NAN, 0.0), (0.0, f64::NAN), (f64::NAN, f64::NAN)] {
            assert!(max_diff_within("a", &[got], &[want], f64::INFINITY).is_err());
        }
        assert!(max_diff_within("a", &[0.0], &[1.0], f64::NAN).is_err());
    }

    #[test]
    #[should_panic(expected = "logits[1]: got 3, expected 2")]
    fn the_assertion_names_tensor_and_index() {
        assert_all_close("logits", &[1.0f32, 3.0], &[1.0, 2.0], 1e-3);
    }
}
