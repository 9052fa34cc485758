//! Data parallelism: a step's gradient from several devices.
//!
//! Every device has a copy of the weights. A step's rows are split into parts of like cost, each part's loss and gradient are
//! computed where its copy is, and the gradients are added up on the first device, which alone has the optimiser; then the
//! copies get what it has learnt. One thread gives all the orders: a lent device takes them without being waited for, so it
//! works while the first device does. Burn's own collective operations would spare the way through the first device; they are
//! there for CUDA alone.

use super::batch::plan_sorted;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::HashMap;

/// Where a step is computed: the device of the model that learns, and others with copies of it.
#[derive(Debug)]
pub struct Replicas<M> {
    /// With autodiff.
    device: Device,
    copies: Vec<(Device, M)>,
}

impl<M: Module> Replicas<M> {
    /// Copies `model`, which is on `device`, to each of `others`. All with autodiff.
    pub fn new(model: &M, device: &Device, others: &[Device]) -> Self {
        let copy = |other: &Device| {
            let other = other.clone().autodiff();
            (other.clone(), model.clone().fork(&other))
        };
        Self { device: device.clone().autodiff(), copies: others.iter().map(copy).collect() }
    }

    /// Devices.
    pub fn n_devices(&self) -> usize {
        1 + self.copies.len()
    }

    /// The device of the model that learns, with autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The weights that part `i` of a step is computed with, and where they are.
    pub fn place<'a>(&'a self, model: &'a M, i: usize) -> (&'a M, &'a Device) {
        match i % self.n_devices() {
            0 => (model, &self.device),
            k => (&self.copies[k - 1].1, &self.copies[k - 1].0),
        }
    }

    /// Rows of the given lengths in parts of at most `limit` padded tokens, as many for each device. With one device and no
    /// limit all rows are one part, as they are.
    pub fn split(&self, lengths: &[usize], limit: Option<usize>) -> Vec<Vec<usize>> {
        let n = self.n_devices();
        if n == 1 {
            return match limit {
                Some(limit) => plan_sorted(lengths, limit),
                None => vec![(0..lengths.len()).collect()],
            };
        }
        let total: usize = lengths.iter().sum();
        let limit = limit.unwrap_or(usize::MAX);
        let n_parts = n * total.div_ceil(n.saturating_mul(limit)).max(1);
        let mut size = total.div_ceil(n_parts).max(1);
        loop {
            let parts = plan_sorted(lengths, size.min(limit));
            if parts.len() <= n_parts || size >= limit {
                return parts;
            }
            size += size / 16 + 1;
        }
    }

    /// Does `work` for every part where its place is, and hands the results to `take` in order. What other devices have to do
    /// is begun before this one's, which holds up the thread.
    pub fn each<P, R>(
        &self,
        model: &M,
        parts: impl IntoIterator<Item = P>,
        mut work: impl FnMut(&M, &Device, P) -> R,
        mut take: impl FnMut(R),
    ) {
        let mut parts = parts.into_iter();
        loop {
            let round: Vec<P> = parts.by_ref().take(self.n_devices()).collect();
            if round.is_empty() {
                return;
            }
            let begun = round.into_iter().enumerate().rev().map(|(i, part)| {
                let (model, device) = self.place(model, i);
                work(model, device, part)
            });
            let begun: Vec<R> = begun.collect();
            begun.into_iter().rev().for_each(&mut take);
        }
    }

    /// Gives the copies what `model` has learnt. Frozen weights stay where they are.
    pub fn refresh(&mut self, model: &M) {
        if self.copies.is_empty() {
            return;
        }
        let mut learnt = Learnt(HashMap::new());
        model.visit(&mut learnt);
        for (_, copy) in &mut self.copies {
            *copy = copy.clone().map(&mut learnt);
        }
    }
}

/// Weights that learn, on the host.
struct Learnt(HashMap<ParamId, TensorData>);

impl ModuleVisitor for Learnt {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() {
            self.0.insert(param.id, value.inner().into_data());
        }
    }
}

impl ModuleMapper for Learnt {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.0.get(&param.id) else { return param };
        let (id, value, mapper) = param.consume();
        let value = Tensor::<D>::from_data(data.clone(), &value.device()).require_grad();
        Param::from_mapped_value(id, value, mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Param;

    #[derive(Module, Debug)]
    struct Weights {
        learns: Param<Tensor<1>>,
        frozen: Param<Tensor<1>>,
    }

    fn weights(values: [f32; 2]) -> Weights {
        let device = Device::flex().autodiff();
        let param = |value: f32| Param::from_data(TensorData::new(vec![value], [1]), &device);
        Weights { learns: param(values[0]), frozen: param(values[1]).set_require_grad(false) }
    }

    fn replicas(model: &Weights, n: usize) -> Replicas<Weights> {
        Replicas::new(model, &Device::flex(), &vec![Device::flex(); n - 1])
    }

    #[test]
    fn every_row_is_in_one_part_and_every_device_has_as_many_parts() {
        let lengths: Vec<usize> = (0..50).map(|i| 5 + i * 7 % 40).collect();
        let model = weights([0.0; 2]);
        for (n, limit) in [(2, None), (3, None), (2, Some(200)), (5, Some(100))] {
            let parts = replicas(&model, n).split(&lengths, limit);
            let mut rows = parts.concat();
            rows.sort_unstable();
            assert_eq!(rows, (0..50).collect::<Vec<_>>(), "{n} devices, {limit:?}");
            let size = |part: &Vec<usize>| part.iter().map(|&i| lengths[i]).max().unwrap_or(0) * part.len();
            assert!(parts.iter().all(|part| size(part) <= limit.unwrap_or(usize::MAX)), "{n} devices, {limit:?}");
            if limit.is_none() {
                assert_eq!(parts.len(), n, "a part each");
                let sizes: Vec<usize> = parts.iter().map(size).collect();
                let (least, most) = (sizes.iter().min().expect("parts"), sizes.iter().max().expect("parts"));
                assert!(*most < 2 * least, "shares {sizes:?}");
            }
        }
        assert_eq!(replicas(&model, 1).split(&lengths, None), [(0..50).collect::<Vec<_>>()]);
    }

    #[test]
    fn results_come_in_the_order_of_the_parts_and_other_devices_begin_first() {
        let model = weights([0.0; 2]);
        let (mut begun, mut taken) = (Vec::new(), Vec::new());
        let work = |_: &Weights, _: &Device, part: usize| {
            begun.push(part);
            part
        };
        replicas(&model, 3).each(&model, 0..5, work, |part| taken.push(part));
        assert_eq!(begun, [2, 1, 0, 4, 3]);
        assert_eq!(taken, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn copies_get_what_was_learnt_and_keep_what_is_frozen() {
        let mut model = weights([1.0, 2.0]);
        let mut replicas = replicas(&model, 2);
        let with = |param: &Param<Tensor<1>>, value: f32, learns: bool| {
            let value = Tensor::from_data([value], &Device::flex().autodiff());
            Param::initialized(param.id, value).set_require_grad(learns)
        };
        model = Weights { learns: with(&model.learns, 5.0, true), frozen: with(&model.frozen, 6.0, false) };
        replicas.refresh(&model);
        let (copy, _) = replicas.place(&model, 1);
        let value = |param: &Param<Tensor<1>>| param.val().into_scalar::<f32>();
        assert_eq!((value(&copy.learns), value(&copy.frozen)), (5.0, 2.0));
        assert!(copy.learns.val().is_require_grad() && !copy.frozen.val().is_require_grad());
    }
}
