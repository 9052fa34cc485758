//! Each fused operation against the composition that it replaces, in values and gradients, at shapes that are
//! no multiple of any block; and against central finite differences of itself.

use super::*;
use beckon_shared::distill::soft_target::{mixed_loss, soft_target_loss};
use beckon_shared::metrics::assert_close;

/// A float operand: values and shape.
type Operand = (Vec<f32>, Vec<usize>);

fn operand(shape: &[usize], seed: f32) -> Operand {
    let n: usize = shape.iter().product();
    ((0..n).map(|i| ((i as f32 + seed) * 1.7).sin() * 0.8 + 0.1 * seed.cos()).collect(), shape.to_vec())
}

fn tensor<const D: usize>((values, shape): &Operand, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.clone(), shape.clone()), device)
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

/// An operation on matrices (a vector as `[1, n]`), and the two ways to it.
struct Case {
    name: &'static str,
    operands: Vec<Operand>,
    fused: Box<dyn Fn(&[Tensor<2>]) -> Tensor<2>>,
    composed: Box<dyn Fn(&[Tensor<2>]) -> Tensor<2>>,
}

/// Σ c · y with fixed, lively c, which makes every element of y count.
fn weighted(y: Tensor<2>) -> Tensor<1> {
    let [n, m] = y.dims();
    let c = tensor(&operand(&[n, m], 5.0), &y.device());
    (y * c).sum()
}

fn gradients(case: &Case, f: &dyn Fn(&[Tensor<2>]) -> Tensor<2>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let device = Device::flex().autodiff();
    let inputs: Vec<Tensor<2>> = case.operands.iter().map(|o| tensor::<2>(o, &device).require_grad()).collect();
    let y = f(&inputs);
    let grads = weighted(y.clone()).backward();
    (host(y), inputs.iter().map(|x| host(x.grad(&grads).expect("every operand has a gradient"))).collect())
}

/// The weighted sum in f64, at moved operands.
fn value_at(case: &Case, operands: &[Operand]) -> f64 {
    let device = Device::flex();
    let inputs: Vec<Tensor<2>> = operands.iter().map(|o| tensor(o, &device)).collect();
    let y = host((case.fused)(&inputs));
    let c = operand(&[y.len()], 5.0).0;
    y.iter().zip(c).map(|(y, c)| f64::from(*y) * f64::from(c)).sum()
}

fn check(case: &Case) {
    let name = case.name;
    let (y, grads) = gradients(case, &*case.fused);
    let (want_y, want_grads) = gradients(case, &*case.composed);
    let compare = |what: &str, got: &[f32], want: &[f32]| {
        assert_eq!(got.len(), want.len(), "{name}: {what}");
        let size = want.iter().fold(0.1f32, |m, x| m.max(x.abs()));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert_close(&format!("{name}: {what}[{i}]"), *got, f64::from(*want), 2e-5 * f64::from(size));
        }
    };
    compare("value", &y, &want_y);
    for (o, (got, want)) in grads.iter().zip(&want_grads).enumerate() {
        compare(&format!("gradient by operand {o}"), got, want);
    }
    // without a gradient the values are the same bits
    let plain: Vec<Tensor<2>> = case.operands.iter().map(|o| tensor(o, &Device::flex())).collect();
    assert_eq!(host((case.fused)(&plain)), y, "{name}: without autodiff");

    for (o, (values, _)) in case.operands.iter().enumerate() {
        for i in [0, values.len() / 2, values.len() - 1] {
            let at = |delta: f32| {
                let mut moved = case.operands.clone();
                moved[o].0[i] += delta;
                value_at(case, &moved)
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            let what = format!("{name}: finite difference by operand {o}[{i}]");
            assert_close(&what, grads[o][i], slope, 3e-3 + 3e-3 * slope.abs());
        }
    }
}

fn row(vector: &Tensor<2>) -> Tensor<1> {
    let n = vector.dims()[1];
    vector.clone().reshape([n])
}

fn picked(values: &[i32]) -> impl Fn(&Device) -> Tensor<1, Int> + use<> {
    let values = values.to_vec();
    move |device| Tensor::from_data(TensorData::new(values.clone(), [values.len()]), &device.clone().inner())
}

#[test]
fn linear() {
    for (n, i, o) in [(1, 3, 2), (130, 33, 17), (7, 64, 129)] {
        check(&Case {
            name: "linear",
            operands: vec![operand(&[n, i], 0.0), operand(&[i, o], 1.0)],
            fused: Box::new(|x| super::linear(x[0].clone(), x[1].clone())),
            composed: Box::new(|x| x[0].clone().matmul(x[1].clone())),
        });
    }
}

#[test]
fn low_rank_beside_a_weight() {
    for (n, i, o, r) in [(1, 3, 2, 1), (130, 33, 17, 4), (7, 64, 129, 8)] {
        let operands = vec![operand(&[n, i], 0.0), operand(&[i, o], 1.0), operand(&[i, r], 2.0), operand(&[r, o], 3.0)];
        let [x, w, a, b] = [0, 1, 2, 3];
        check(&Case {
            name: "linear_low_rank",
            operands,
            fused: Box::new(move |t| linear_low_rank(t[x].clone(), t[w].clone(), t[a].clone(), t[b].clone(), 0.3)),
            composed: Box::new(move |t| {
                let through = t[x].clone().matmul(t[a].clone()).matmul(t[b].clone());
                t[x].clone().matmul(t[w].clone()) + through.mul_scalar(0.3)
            }),
        });
    }
}

#[test]
fn norm() {
    for (n, d) in [(1, 1), (5, 7), (130, 33), (65, 64)] {
        check(&Case {
            name: "rms_norm",
            operands: vec![operand(&[n, d], 0.0), operand(&[1, d], 1.0)],
            fused: Box::new(|x| rms_norm(x[0].clone(), row(&x[1]), 1e-2)),
            composed: Box::new(|x| composed::rms_norm(x[0].clone(), row(&x[1]), 1e-2)),
        });
    }
}

/// base^(-2i/K).
fn frequencies(head_dim: usize, base: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|i| base.powf(-2.0 * i as f64 / head_dim as f64)).collect()
}

#[test]
fn causal_attention() {
    for (batch, tokens, heads, kv_heads, head_dim) in
        [(1, 1, 1, 1, 2), (2, 5, 4, 2, 6), (3, 70, 3, 1, 8), (1, 129, 2, 2, 4)]
    {
        let shape = Shape { batch, tokens, heads, kv_heads, head_dim };
        let (n, q, kv) = (batch * tokens, heads * head_dim, kv_heads * head_dim);
        let rotary = move |device: &Device| Rotary::new(tokens + 3, &frequencies(head_dim, 100.0), device);
        check(&Case {
            name: "attention",
            operands: vec![operand(&[n, q], 0.0), operand(&[n, kv], 1.0), operand(&[n, kv], 2.0)],
            fused: Box::new(move |x| {
                attention(x[0].clone(), x[1].clone(), x[2].clone(), &rotary(&x[0].device()), shape)
            }),
            composed: Box::new(move |x| {
                composed::attention(x[0].clone(), x[1].clone(), x[2].clone(), &rotary(&x[0].device()), shape)
            }),
        });
    }
}

#[test]
fn gate() {
    for (n, f) in [(1, 1), (33, 1001)] {
        check(&Case {
            name: "swiglu",
            operands: vec![operand(&[n, f], 0.0), operand(&[n, f], 1.0)],
            fused: Box::new(|x| swiglu(x[0].clone(), x[1].clone())),
            composed: Box::new(|x| composed::swiglu(x[0].clone(), x[1].clone())),
        });
    }
}

#[test]
fn log_probabilities() {
    for (n, d, v) in [(1, 3, 2), (9, 17, 33), (300, 8, 50)] {
        let targets: Vec<i32> = (0..n as i32).map(|i| i * 7 % v as i32).collect();
        let [for_fused, for_composed] = [picked(&targets), picked(&targets)];
        let column = |logps: Tensor<1>| logps.unsqueeze::<2>();
        check(&Case {
            name: "token_logps",
            operands: vec![operand(&[n, d], 0.0), operand(&[v, d], 1.0)],
            fused: Box::new(move |x| column(token_logps(x[0].clone(), x[1].clone(), for_fused(&x[0].device())))),
            composed: Box::new(move |x| {
                column(composed::token_logps(x[0].clone(), x[1].clone(), for_composed(&x[0].device())))
            }),
        });
    }
}

/// Against the reference in f64, oracle C13 among the rows; the gradient by the student's logits too.
#[test]
fn soft_targets() {
    let (v, temperature, weight) = (3, 2.0, 0.25);
    let random = (operand(&[4, v], 3.0).0, operand(&[4, v], 8.0).0);
    let teacher: Vec<f32> = [2.0, 1.0, 0.0].into_iter().chain(random.0).collect();
    let student: Vec<f32> = [1.0, 1.0, 0.5].into_iter().chain(random.1).collect();
    let targets = [0, 2, 1, 0, 2];
    let device = Device::flex().autodiff();
    let logits = tensor::<2>(&(student.clone(), vec![5, v]), &device).require_grad();
    let teacher_logits = tensor::<2>(&(teacher.clone(), vec![5, v]), &device);
    let losses = soft_target_losses(logits.clone(), teacher_logits, picked(&targets)(&device), weight, temperature);
    let gradient = host(logits.grad(&losses.clone().sum().backward()).expect("the student learns"));
    for (row, (loss, target)) in host(losses).into_iter().zip(targets).enumerate() {
        let of = |all: &[f32]| -> Vec<f64> { all[row * v..(row + 1) * v].iter().map(|x| f64::from(*x)).collect() };
        let (p, q) = (of(&teacher), of(&student));
        let soft = soft_target_loss(&p, &q, temperature);
        let total: f64 = q.iter().map(|x| x.exp()).sum();
        let entropy = total.ln() - q[target as usize];
        assert_close("loss", loss, mixed_loss(entropy, soft.loss, weight), 2e-6);
        for (i, x) in q.iter().enumerate() {
            let hard = x.exp() / total - f64::from(u8::from(i == target as usize));
            let want = (1.0 - weight) * hard + weight * soft.d_student[i];
            assert_close("gradient", gradient[row * v + i], want, 2e-6);
        }
    }
}

#[test]
fn rows_of_a_matrix() {
    let list = [3, 0, 3, 10, 5, 3];
    let [for_fused, for_composed] = [picked(&list), picked(&list)];
    check(&Case {
        name: "rows",
        operands: vec![operand(&[11, 5], 0.0)],
        fused: Box::new(move |x| rows(x[0].clone(), for_fused(&x[0].device()))),
        composed: Box::new(move |x| composed::rows(x[0].clone(), for_composed(&x[0].device()))),
    });
}

/// Weights that are not trained get no gradient, and cost none; what is trained above them still does.
#[test]
fn a_frozen_weight_lets_the_gradient_pass() {
    let device = Device::flex().autodiff();
    let x = tensor::<2>(&operand(&[4, 6], 0.0), &device).require_grad();
    let frozen = tensor::<2>(&operand(&[6, 5], 1.0), &device);
    let y = super::linear(swiglu(x.clone(), x.clone()), frozen.clone());
    let grads = weighted(y).backward();
    assert!(x.grad(&grads).is_some() && frozen.grad(&grads).is_none());
}

/// Views that are no plain rows in memory: a transposed weight, a slice, an expanded gradient.
#[test]
fn operands_may_lie_strided() {
    let device = Device::flex().autodiff();
    let x = tensor::<2>(&operand(&[6, 9], 0.0), &device).require_grad();
    let weight = tensor::<2>(&operand(&[5, 6], 1.0), &device).require_grad();
    let run = |linear: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
        let y = linear(x.clone().slice([0..6, 2..8]), weight.clone().transpose());
        let grads = y.clone().sum().backward();
        [host(y), host(x.grad(&grads).expect("x")), host(weight.grad(&grads).expect("weight"))]
    };
    let (got, want) = (run(&super::linear), run(&|x, w| x.matmul(w)));
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert_close("strided", *got, f64::from(*want), 1e-5);
    }
}

/// A unit vector at element 0 of a head of width 8, one position on, turns by 1 radian towards
/// element 4; at position 0 it stays.
#[test]
fn rotary_positions_turn_halves_against_each_other() {
    let device = Device::flex();
    let rotary = Rotary::new(4, &frequencies(8, 10_000.0), &device);
    let mut x = vec![0.0f32; 2 * 8];
    (x[0], x[8]) = (1.0, 1.0);
    let x = Tensor::<4>::from_data(TensorData::new(x, [1, 2, 1, 8]), &device);
    let y: Vec<f32> = host(composed::rotate(x, &rotary));
    assert_close("position 0", y[0], 1.0, 0.0);
    assert_close("cos 1", y[8], 0.540_302_3, 1e-6);
    assert_close("sin 1", y[12], 0.841_471, 1e-6);
}

/// The harness finds an operation that is wrong by a thousandth.
#[test]
#[should_panic(expected = "wrong: value")]
fn the_comparison_can_fail() {
    check(&Case {
        name: "wrong",
        operands: vec![operand(&[3, 3], 0.0)],
        fused: Box::new(|x| x[0].clone().mul_scalar(1.001)),
        composed: Box::new(|x| x[0].clone()),
    });
}

/// Euclidean norm of the difference, as a share of `want`'s.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    let apart: f64 = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (apart / want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>()).sqrt()
}

/// Rows beyond what f16 holds, and gradients of which it would hold two digits in binary.
#[test]
fn a_product_with_a_half_weight_is_that_in_f32_but_for_rounding_also_where_f16_ends() {
    let device = Device::flex().autodiff();
    let weight = operand(&[33, 20], 2.0);
    for (of_rows, of_loss) in [(1f32, 1.0), (2e5, 1.0), (1.0, 1e-7)] {
        let mut rows = operand(&[7, 33], 1.0);
        rows.0.iter_mut().for_each(|x| *x *= of_rows);
        let run = |is_half: bool| {
            let weight: Tensor<2> = tensor(&weight, &device);
            let weight = if is_half { half(weight) } else { weight };
            let x = tensor::<2>(&rows, &device).require_grad();
            let y = super::linear(x.clone(), weight);
            let grads = weighted(y.clone().mul_scalar(of_loss)).backward();
            (host(y), host(x.grad(&grads).expect("a gradient by the rows")))
        };
        let ((want, want_grad), (got, got_grad)) = (run(false), run(true));
        assert_ne!(got, want, "it is made in half precision");
        let distances = (distance(&got, &want), distance(&got_grad, &want_grad));
        assert!(distances.0 < 2e-3 && distances.1 < 1e-2, "rows x {of_rows}, loss x {of_loss}: {distances:?}");
    }
}
