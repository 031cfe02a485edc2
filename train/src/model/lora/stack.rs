//! A LLaVA with adapters as a stack for training: the base's pieces, each layer reading its adapters beside its frozen unit.

use tch::{Device, Kind, Tensor};

use super::Lora;
use crate::{
    Result,
    data::Batch,
    engine::{Piece, Stack, llava::Input},
    model::{Llava, llama::Targets},
    unit::Unit,
};

impl Stack for Lora {
    type Batch = Batch;
    type Input = Input;

    fn count(&self) -> usize {
        self.base.count() + self.adapters.len()
    }

    /// The base's units, then the adapters.
    fn unit(&self, i: usize) -> &Unit {
        match i.checked_sub(self.base.count()) {
            Some(n) => &self.adapters[n],
            None => self.base.unit(i),
        }
    }

    fn unit_mut(&mut self, i: usize) -> &mut Unit {
        match i.checked_sub(self.base.count()) {
            Some(n) => &mut self.adapters[n],
            None => self.base.unit_mut(i),
        }
    }

    fn layers(&self) -> usize {
        self.adapters.len()
    }

    fn reads(&self, piece: Piece) -> Vec<usize> {
        let mut units = self.base.reads(piece);
        if let Piece::Layer(n) = piece {
            units.push(self.base.count() + n);
        }
        units
    }

    fn prepare(&self, batch: &Batch, place: (Kind, Device)) -> Result<Input> {
        self.base.prepare(batch, place)
    }

    fn start(&self, input: &Input) -> Result<Tensor> {
        Stack::start(&self.base, input)
    }

    fn layer(&self, i: usize, x: &Tensor, input: &Input) -> Tensor {
        Lora::layer(self, i, &input.rope, x, true)
    }

    fn targets<'a>(&self, input: &'a Input) -> &'a Targets {
        <Llava as Stack>::targets(&self.base, input)
    }

    fn loss(&self, x: &Tensor, ids: &Tensor) -> Tensor {
        Stack::loss(&self.base, x, ids)
    }

    fn rows<'a>(&self, batch: &'a Batch) -> &'a [String] {
        &batch.rows
    }

    fn tokens(&self, batch: &Batch) -> usize {
        self.base.tokens(batch)
    }

    fn random(&self) -> bool {
        self.config.dropout > 0.0
    }
}
