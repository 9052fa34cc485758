//! Oracle C13 and finite differences.

use super::*;
use crate::metrics::assert_close;

const TEACHER: [f64; 3] = [2.0, 1.0, 0.0];
const STUDENT: [f64; 3] = [1.0, 1.0, 0.5];

#[test]
fn c13() {
    let got = soft_target_loss(&TEACHER, &STUDENT, 2.0);
    assert_close("KL(T to S)", got.loss, 0.193636223, 1e-9);
    assert_close("KL(S to T)", soft_target_loss(&STUDENT, &TEACHER, 2.0).loss, 0.193530967, 1e-9);
    for (g, want) in got.d_student.iter().zip([-0.293225847, 0.105343163, 0.187882684]) {
        assert_close("gradient", *g, want, 1e-9);
    }
    assert_close("half", mixed_loss(1.0, got.loss, 0.5), 0.5 + 0.5 * got.loss, 1e-12);
}

#[test]
fn the_gradient_is_a_finite_difference_and_the_minimum_is_the_teacher() {
    let h = 1e-6;
    for temperature in [0.5, 1.0, 2.0, 8.0] {
        let got = soft_target_loss(&TEACHER, &STUDENT, temperature);
        for j in 0..3 {
            let at = |d: f64| {
                let mut student = STUDENT;
                student[j] += d;
                soft_target_loss(&TEACHER, &student, temperature).loss
            };
            assert_close("dL", got.d_student[j], (at(h) - at(-h)) / (2.0 * h), 1e-7);
        }
        assert_close("at the teacher", soft_target_loss(&TEACHER, &TEACHER, temperature).loss, 0.0, 1e-15);
    }
    let far = soft_target_loss(&[900.0, 0.0], &[-900.0, 0.0], 1.0);
    assert!(far.d_student.iter().all(|g| g.is_finite()), "{far:?}");
}
