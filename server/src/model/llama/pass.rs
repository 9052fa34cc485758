//! A pass that keeps the inputs of its layers alone, and computes each layer again when the gradient comes back to it
//! (arXiv 1604.06174).
//!
//! A graph over the whole network holds of each layer some ten times the layer's input: norms, queries, keys, values, gate, up.
//! Here there is a graph of one layer at a time, from its input as a leaf to `Σ y · dL/dy`, whose gradient is that of the layer.
//! The price is a second forward pass. What it saves is seen as "Maximum resident set size" of
//! `/usr/bin/time -v beckon loop … --config FILE` with and without `{"checkpoint_activations": true}`; [`crate::model::memory`]
//! estimates it.

use super::Llama;
use crate::model::ops;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};

/// What a pass without a graph leaves for the way back.
#[derive(Debug)]
pub struct Pass {
    /// `[B·T]`.
    tokens: Tensor<1, Int>,
    /// B.
    batch: usize,
    /// Input of each layer and of the last norm, `[B·T, D]`.
    pub(super) inputs: Vec<Tensor<2>>,
}

impl Llama {
    /// [`Llama::hidden`] without a graph, and what [`Llama::carry`] needs: tokens `[B, T]` to `[B, T, D]`.
    ///
    /// # Panics
    /// As [`Llama::hidden`].
    pub fn pass(&self, tokens: Tensor<2, Int>) -> (Tensor<3>, Pass) {
        let [b, t] = tokens.dims();
        assert!(t <= self.max_seq_len, "pass: {t} tokens exceed max_seq_len {}", self.max_seq_len);
        let (tokens, bare) = (tokens.reshape([b * t]).inner(), self.valid());
        let mut x = ops::rows(bare.embed.val(), tokens.clone()); // [B·T, D]
        let mut inputs = Vec::with_capacity(bare.layers.len() + 1);
        for layer in &bare.layers {
            inputs.push(x.clone());
            x = bare.layer(layer, x, b);
        }
        inputs.push(x.clone());
        let d = x.dims()[1];
        let hidden = ops::rms_norm(x, bare.norm.val(), bare.norm_eps).reshape([b, t, d]);
        (hidden, Pass { tokens, batch: b, inputs })
    }

    /// Brings the gradient `[B, T, D]` of a pass's hidden states to the weights, from the last layer to the embedding; `take`
    /// gets the gradients of each as they come.
    pub fn carry(&self, pass: Pass, gradient: Tensor<3>, take: &mut dyn FnMut(GradientsParams)) {
        let Pass { tokens, batch, mut inputs } = pass;
        let [b, t, d] = gradient.dims();
        let mut gradient = gradient.reshape([b * t, d]);
        if let Some(x) = inputs.pop() {
            let norm = |x| ops::rms_norm(x, self.norm.val(), self.norm_eps);
            gradient = self.back_through(x, gradient, &norm, take);
        }
        for (layer, x) in self.layers.iter().zip(inputs).rev() {
            gradient = self.back_through(x, gradient, &|x| self.layer(layer, x, batch), take);
        }
        let embed = self.embed.val();
        if embed.is_require_grad() {
            let carried = (ops::rows(embed, tokens) * Tensor::from_inner(gradient)).sum();
            take(GradientsParams::from_grads(carried.backward(), self));
        }
    }

    /// Gradient by the input `x` of `f`, given that of its output, all `[N, D]`; `take` gets those of the weights in it.
    fn back_through(
        &self,
        x: Tensor<2>,
        gradient: Tensor<2>,
        f: &dyn Fn(Tensor<2>) -> Tensor<2>,
        take: &mut dyn FnMut(GradientsParams),
    ) -> Tensor<2> {
        let leaf = Tensor::from_inner(x).require_grad();
        let carried = (f(leaf.clone()) * Tensor::from_inner(gradient)).sum();
        let mut gradients = carried.backward();
        let before =
            leaf.grad_remove(&mut gradients).expect("every layer adds to its input, so a gradient comes through");
        take(GradientsParams::from_grads(gradients, self));
        before
    }
}
