//! The operations of a Llama block on Burn's CPU backend (flex), each with a closed-form gradient.
//!
//! In the loop: under every training step and every score on a CPU. Burn's autodiff would keep each
//! intermediate value of a composition and walk over memory once per elementary operation, mostly on one
//! thread; here an operation is one node of the graph and each of its passes uses rayon's pool, which flex
//! uses too. The mathematics stands in one file per operation, on slices; this file tells Burn about it.
//! `super::composed` holds the same mathematics for every device, and the tests hold the two against each
//! other.
//!
//! All sums are partitioned by the shapes alone, so a result does not depend on the number of threads.

pub mod adamw;
pub mod attention;
pub mod low_rank;
pub mod matrix;
pub mod norm;
pub mod rows;
pub mod simd;
pub mod swiglu;
pub mod vocabulary;

use attention::{Dims, Operands};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Flex, backend_extension};
use burn::tensor::{DType, TensorData};
use matrix::{Matrix, product};
use vocabulary::Softmax;

/// Operations that flex has beyond Burn's own. Shapes as in [`super`].
///
/// # Panics
/// All of them, where shapes do not fit or values are not f32.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    /// `x · weight`: `[N, I]` and `[I, O]` to `[N, O]`.
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`low_rank`].
    fn linear_low_rank(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;
    /// See [`norm`].
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    /// See [`attention`].
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        dims: Dims,
    ) -> FloatTensor<Self>;
    /// See [`swiglu`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`vocabulary`].
    fn token_logps(hidden: FloatTensor<Self>, embed: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self>;
    /// Rows of a matrix, see [`rows`].
    fn rows(matrix: FloatTensor<Self>, picked: IntTensor<Self>) -> FloatTensor<Self>;
}

/// A tensor whose values lie in one run of memory.
fn dense(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// Values of a [`dense`] tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("the fused operations compute on dense f32 tensors")
}

/// Values of a [`dense`] tensor to be changed; a copy first where somebody else holds them too.
fn values_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    let (start, end) = tensor.layout().contiguous_offsets().expect("the fused operations compute on dense tensors");
    &mut tensor.storage_mut()[start..end]
}

/// Sizes of a matrix.
fn sizes(tensor: &FlexTensor) -> [usize; 2] {
    tensor.layout().shape().dims()
}

fn tensor(values: Vec<f32>, shape: impl Into<Vec<usize>>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// Indices on the host.
fn indices(tensor: &FlexTensor) -> Vec<u32> {
    let tensor = dense(tensor.clone());
    let index = |i: i64| u32::try_from(i).expect("an index is not negative and below 2^32");
    match tensor.dtype() {
        DType::I32 => tensor.as_slice::<i32>().into_iter().flatten().map(|i| index(i64::from(*i))).collect(),
        DType::I64 => tensor.as_slice::<i64>().into_iter().flatten().map(|i| index(*i)).collect(),
        other => panic!("indices of type {other:?}"),
    }
}

impl FusedOps for Flex {
    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (x, weight) = (dense(x), dense(weight));
        let ([n, i], [j, o]) = (sizes(&x), sizes(&weight));
        tensor(product(Matrix::new(values(&x), n, i), Matrix::new(values(&weight), j, o)), [n, o])
    }

    fn linear_low_rank(x: FlexTensor, weight: FlexTensor, a: FlexTensor, b: FlexTensor, scale: f32) -> FlexTensor {
        SavedLowRank { inputs: [x, weight, a, b].map(dense), thin: Vec::new(), scale }.forward().0
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
        let (x, weight) = (dense(x), dense(weight));
        tensor(norm::forward(values(&x), values(&weight), eps).0, sizes(&x))
    }

    fn attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        cos: FlexTensor,
        sin: FlexTensor,
        dims: Dims,
    ) -> FlexTensor {
        let saved = SavedAttention { inputs: [q, k, v, cos, sin].map(dense), log_sums: Vec::new(), dims };
        tensor(attention::forward(saved.operands(), dims).0, sizes(&saved.inputs[0]))
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (dense(gate), dense(up));
        tensor(swiglu::forward(values(&gate), values(&up)), sizes(&gate))
    }

    fn token_logps(hidden: FlexTensor, embed: FlexTensor, targets: FlexTensor) -> FlexTensor {
        let (hidden, embed, targets) = (dense(hidden), dense(embed), indices(&targets));
        let [n, d] = sizes(&hidden);
        tensor(vocabulary::forward(values(&hidden), values(&embed), d, &targets, false).0, [n])
    }

    fn rows(matrix: FlexTensor, picked: FlexTensor) -> FlexTensor {
        let (matrix, picked) = (dense(matrix), indices(&picked));
        let [_, d] = sizes(&matrix);
        tensor(rows::forward(values(&matrix), d, &picked), [picked.len(), d])
    }
}

/// Puts an operation into autodiff's graph. `forward` gives the output and, where its argument says that a
/// gradient will be asked for, what the backward pass needs.
fn record<C, G, const N: usize>(
    gradient: G,
    nodes: [NodeGuard; N],
    forward: impl FnOnce(bool) -> (FlexTensor, Option<G::State>),
) -> FloatTensor<Autodiff<Flex, C>>
where
    C: CheckpointStrategy,
    G: Backward<Flex, N>,
{
    match gradient.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (output, state) = forward(true);
            prep.finish(state.expect("kept, as was asked"), output)
        }
        OpsKind::UnTracked(prep) => prep.finish(forward(false).0),
    }
}

/// Hands gradients to those parents that take one.
fn register<const N: usize>(grads: &mut Gradients, parents: [Option<NodeId>; N], found: [Option<FlexTensor>; N]) {
    for (parent, gradient) in parents.into_iter().zip(found) {
        if let (Some(parent), Some(gradient)) = (parent, gradient) {
            grads.register::<Flex>(parent, gradient);
        }
    }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        record::<C, _, 2>(LinearGradient, [x_node, weight_node], |keep| {
            let (x, weight) = (dense(x), dense(weight));
            let y = Flex::linear(x.clone(), weight.clone());
            (y, keep.then_some([x, weight]))
        })
    }

    fn linear_low_rank(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let ((a, a_node), (b, b_node)) = (a.into_parts(), b.into_parts());
        record::<C, _, 4>(LowRankGradient, [x_node, weight_node, a_node, b_node], |keep| {
            let mut saved = SavedLowRank { inputs: [x, weight, a, b].map(dense), thin: Vec::new(), scale };
            let (y, thin) = saved.forward();
            saved.thin = thin;
            (y, keep.then_some(saved))
        })
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        record::<C, _, 2>(NormGradient, [x_node, weight_node], |keep| {
            let (x, weight) = (dense(x), dense(weight));
            let (y, scale) = norm::forward(values(&x), values(&weight), eps);
            (tensor(y, sizes(&x)), keep.then_some(([x, weight], scale)))
        })
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        dims: Dims,
    ) -> FloatTensor<Self> {
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        record::<C, _, 3>(AttentionGradient, [q_node, k_node, v_node], |keep| {
            let mut saved = SavedAttention { inputs: [q, k, v, cos, sin].map(dense), log_sums: Vec::new(), dims };
            let (y, log_sums) = attention::forward(saved.operands(), dims);
            saved.log_sums = log_sums;
            (tensor(y, sizes(&saved.inputs[0])), keep.then_some(saved))
        })
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        record::<C, _, 2>(SwigluGradient, [gate_node, up_node], |keep| {
            let (gate, up) = (dense(gate), dense(up));
            let y = Flex::swiglu(gate.clone(), up.clone());
            (y, keep.then_some([gate, up]))
        })
    }

    fn token_logps(hidden: FloatTensor<Self>, embed: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        let ((hidden, hidden_node), (embed, embed_node)) = (hidden.into_parts(), embed.into_parts());
        record::<C, _, 2>(LogpsGradient, [hidden_node, embed_node], |keep| {
            let (inputs, targets) = ([dense(hidden), dense(embed)], indices(&targets));
            let [n, d] = sizes(&inputs[0]);
            let (logps, softmax) = vocabulary::forward(values(&inputs[0]), values(&inputs[1]), d, &targets, keep);
            (tensor(logps, [n]), softmax.map(|softmax| SavedLogps { inputs, targets, softmax }))
        })
    }

    fn rows(matrix: FloatTensor<Self>, picked: IntTensor<Self>) -> FloatTensor<Self> {
        let (matrix, node) = matrix.into_parts();
        record::<C, _, 1>(RowsGradient, [node], |_| {
            let (matrix, picked) = (dense(matrix), indices(&picked));
            let [n, d] = sizes(&matrix);
            (tensor(rows::forward(values(&matrix), d, &picked), [picked.len(), d]), Some((picked, n)))
        })
    }
}

/// Inputs of a product with its side path, x, W, A, B, and the side path's thin rows.
#[derive(Debug, Clone)]
struct SavedLowRank {
    inputs: [FlexTensor; 4],
    thin: Vec<f32>,
    scale: f32,
}

impl SavedLowRank {
    fn operands(&self) -> low_rank::Operands<'_> {
        let [x, weight, a, b] = self.inputs.each_ref().map(|tensor| {
            let [rows, columns] = sizes(tensor);
            Matrix::new(values(tensor), rows, columns)
        });
        low_rank::Operands { x, weight, a, b, scale: self.scale }
    }

    /// The product, and its thin rows.
    fn forward(&self) -> (FlexTensor, Vec<f32>) {
        let operands = self.operands();
        let (y, thin) = low_rank::forward(operands);
        (tensor(y, [operands.x.rows(), operands.weight.columns()]), thin)
    }
}

/// Inputs of an attention, q, k, v, cos, sin, and its softmax's denominators.
#[derive(Debug, Clone)]
struct SavedAttention {
    inputs: [FlexTensor; 5],
    log_sums: Vec<f32>,
    dims: Dims,
}

impl SavedAttention {
    fn operands(&self) -> Operands<'_> {
        let [q, k, v, cos, sin] = self.inputs.each_ref().map(values);
        Operands { q, k, v, cos, sin }
    }
}

/// Inputs of log-probabilities and their softmax.
#[derive(Debug, Clone)]
struct SavedLogps {
    inputs: [FlexTensor; 2],
    targets: Vec<u32>,
    softmax: Softmax,
}

#[derive(Debug)]
struct LinearGradient;
#[derive(Debug)]
struct LowRankGradient;
#[derive(Debug)]
struct NormGradient;
#[derive(Debug)]
struct AttentionGradient;
#[derive(Debug)]
struct SwigluGradient;
#[derive(Debug)]
struct LogpsGradient;
#[derive(Debug)]
struct RowsGradient;

impl Backward<Flex, 2> for LinearGradient {
    type State = [FlexTensor; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = dense(grads.consume::<Flex>(&ops.node));
        let [x, weight] = ops.state;
        let ([n, i], [_, o]) = (sizes(&x), sizes(&weight));
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let dy = Matrix::new(values(&dy), n, o);
        let dx = parents[0].map(|_| tensor(product(dy, Matrix::new(values(&weight), i, o).transposed()), [n, i]));
        let dw = parents[1].map(|_| tensor(product(Matrix::new(values(&x), n, i).transposed(), dy), [i, o]));
        register(grads, parents, [dx, dw]);
    }
}

impl Backward<Flex, 4> for LowRankGradient {
    type State = SavedLowRank;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = dense(grads.consume::<Flex>(&ops.node));
        let [n, o] = sizes(&dy);
        let saved = ops.state;
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let wants = parents.map(|parent| parent.is_some());
        let mut found = low_rank::backward(Matrix::new(values(&dy), n, o), saved.operands(), &saved.thin, wants);
        let found = std::array::from_fn(|i| found[i].take().map(|d| tensor(d, sizes(&saved.inputs[i]))));
        register(grads, parents, found);
    }
}

impl Backward<Flex, 2> for NormGradient {
    type State = ([FlexTensor; 2], Vec<f32>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = dense(grads.consume::<Flex>(&ops.node));
        let ([x, weight], scale) = ops.state;
        let (dx, dw) = norm::backward(values(&dy), values(&x), values(&weight), &scale);
        let n = dw.len();
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register(grads, parents, [Some(tensor(dx, sizes(&x))), Some(tensor(dw, [n]))]);
    }
}

impl Backward<Flex, 3> for AttentionGradient {
    type State = SavedAttention;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = dense(grads.consume::<Flex>(&ops.node));
        let saved = ops.state;
        let [dq, dk, dv] = attention::backward(values(&dy), saved.operands(), &saved.log_sums, saved.dims);
        let [q_sizes, kv_sizes] = [0, 1].map(|i: usize| sizes(&saved.inputs[i]));
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let found = [(dq, q_sizes), (dk, kv_sizes), (dv, kv_sizes)].map(|(d, sizes)| Some(tensor(d, sizes)));
        register(grads, parents, found);
    }
}

impl Backward<Flex, 2> for SwigluGradient {
    type State = [FlexTensor; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = dense(grads.consume::<Flex>(&ops.node));
        let [gate, up] = ops.state;
        let (dgate, dup) = swiglu::backward(values(&dy), values(&gate), values(&up));
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register(grads, parents, [dgate, dup].map(|d| Some(tensor(d, sizes(&gate)))));
    }
}

impl Backward<Flex, 2> for LogpsGradient {
    type State = SavedLogps;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dlogps = dense(grads.consume::<Flex>(&ops.node));
        let SavedLogps { inputs: [hidden, embed], targets, softmax } = ops.state;
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let wants = parents.map(|parent| parent.is_some());
        let [dhidden, dembed] =
            vocabulary::backward(values(&dlogps), softmax, values(&hidden), values(&embed), &targets, wants);
        let dhidden = dhidden.map(|d| tensor(d, sizes(&hidden)));
        register(grads, parents, [dhidden, dembed.map(|d| tensor(d, sizes(&embed)))]);
    }
}

impl Backward<Flex, 1> for RowsGradient {
    type State = (Vec<u32>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = dense(grads.consume::<Flex>(&ops.node));
        let [_, d] = sizes(&dy);
        let (picked, n_rows) = ops.state;
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let dmatrix = tensor(rows::backward(values(&dy), d, &picked, n_rows), [n_rows, d]);
        register(grads, parents, [Some(dmatrix)]);
    }
}

/// One AdamW step on flex, in place where nobody else holds the tensors. Takes and gives a parameter and its
/// moments, flattened.
///
/// # Panics
/// If a tensor is not on flex, or on it with autodiff.
pub fn adamw_step(
    [p, m, v]: [burn::tensor::Tensor<1>; 3],
    g: burn::tensor::Tensor<1>,
    step: adamw::Step,
) -> [burn::tensor::Tensor<1>; 3] {
    let flex = |t: burn::tensor::Tensor<1>| dense(t.try_into_primitive::<Flex>().expect("a tensor of flex"));
    let ([mut p, mut m, mut v], g) = ([p, m, v].map(flex), flex(g));
    adamw::step(values_mut(&mut p), values(&g), values_mut(&mut m), values_mut(&mut v), step);
    [p, m, v].map(burn::tensor::Tensor::from_primitive::<Flex>)
}

/// Sum of the squares of a tensor of flex, f64.
///
/// # Panics
/// If the tensor is not on flex, or on it with autodiff.
pub fn sum_squares<const D: usize>(g: burn::tensor::Tensor<D>) -> f64 {
    adamw::sum_squares(values(&dense(g.try_into_primitive::<Flex>().expect("a tensor of flex"))))
}
