//! A unit: the parameters that are computed, sharded and freed together (an embedding, a layer, a head, a projector).
//!
//! A trainable unit lies in one flat buffer, so that ranks can divide it by equal shards and an optimizer can run over it as one tensor;
//! its parameters are views of that buffer and leaves of autograd. A frozen unit keeps its tensors as they came (mapped from a file).

use tch::{Device, Kind, Tensor};

/// A parameter's place in its unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Full name as in the checkpoint (`model.layers.0.self_attn.q_proj.weight`).
    pub name: String,
    /// Shape, PyTorch order.
    pub shape: Vec<i64>,
    /// First element in the flat buffer.
    pub offset: i64,
}

impl Slot {
    /// Number of elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// Parameters that live and die together.
#[derive(Debug)]
pub struct Unit {
    /// `layers.3`, `embed`, `projector`, …
    pub name: String,
    /// What it holds, in order.
    pub slots: Vec<Slot>,
    /// `[padded]` in the compute type; `None` while frozen or not gathered.
    pub flat: Option<Tensor>,
    /// One tensor per slot: a view of `flat` that requires grad, or the frozen tensor.
    pub leaves: Vec<Tensor>,
}

impl Unit {
    /// A unit that is only read. Tensors keep their storage (zero copy).
    pub fn frozen(name: &str, tensors: Vec<(String, Tensor)>) -> Self {
        let mut offset = 0;
        let mut slots = Vec::new();
        let mut leaves = Vec::new();
        for (name, tensor) in tensors {
            let slot = Slot { name, shape: tensor.size(), offset };
            offset += slot.numel();
            slots.push(slot);
            leaves.push(tensor);
        }
        Self { name: name.into(), slots, flat: None, leaves }
    }

    /// Copies the tensors into one flat buffer of `kind` on `device`, padded with zeros to a multiple of `ranks`, and makes them leaves that require grad.
    pub fn trainable(self, kind: Kind, device: Device, ranks: i64) -> Self {
        let total: i64 = self.slots.iter().map(Slot::numel).sum();
        let padded = (total + ranks - 1) / ranks * ranks;
        let flat = Tensor::zeros([padded], (kind, device));
        tch::no_grad(|| {
            for (slot, leaf) in self.slots.iter().zip(&self.leaves) {
                flat.narrow(0, slot.offset, slot.numel()).copy_(&leaf.reshape([-1]));
            }
        });
        let mut unit = Self { flat: Some(flat), leaves: Vec::new(), ..self };
        unit.view();
        unit
    }

    /// A frozen unit in `kind` on `device`; what is so already keeps its storage.
    pub fn to(mut self, kind: Kind, device: Device) -> Self {
        for leaf in &mut self.leaves {
            *leaf = leaf.to_device(device).to_kind(kind);
        }
        self
    }

    /// Makes the leaves anew as views of `flat`.
    pub fn view(&mut self) {
        let flat = self.flat.as_ref().expect("a unit that is gathered");
        self.leaves = self
            .slots
            .iter()
            .map(|s| {
                let leaf = flat.narrow(0, s.offset, s.numel()).view(s.shape.as_slice()).detach();
                leaf.set_requires_grad(true)
            })
            .collect();
    }

    /// Elements without the padding.
    pub fn numel(&self) -> i64 {
        self.slots.iter().map(Slot::numel).sum()
    }

    /// The parameter whose name ends in `suffix`, after a dot or as a whole.
    pub fn get(&self, suffix: &str) -> &Tensor {
        self.find(suffix).unwrap_or_else(|| panic!("unit {} has no parameter {suffix}", self.name))
    }

    /// As [`get`](Self::get), for parameters that a checkpoint may lack.
    pub fn find(&self, suffix: &str) -> Option<&Tensor> {
        let at = self.slots.iter().position(|s| {
            s.name.strip_suffix(suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'))
        });
        at.and_then(|i| self.leaves.get(i))
    }
}
