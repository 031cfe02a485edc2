//! LLaVA as a stack: the table and the projected pictures, the layers, the labelled rows' loss.
//!
//! Which stage it is follows from which units are trainable: the projector alone (stage 1), or with table, layers and head (stage 2).

use tch::{Device, Kind, Tensor};

use super::stack::{Piece, Stack};
use crate::{
    Result,
    data::Batch,
    model::{
        Llava,
        llama::{self, Rope, Targets},
        llava,
    },
    unit::Unit,
};

/// A batch on the device.
#[derive(Debug)]
pub struct Input {
    /// `[b, t]` i64.
    ids: Tensor,
    /// `[n, p, c]` features of the pictures in the text model's type; none for a batch of text.
    features: Option<Tensor>,
    places: Vec<(usize, usize)>,
    pub(crate) rope: Rope,
    targets: Targets,
}

/// Places of the units in [`Llava::units`].
const PROJECTOR: usize = 1;
const EMBED: usize = 2;
const LAYERS: usize = 3;

impl Stack for Llava {
    type Batch = Batch;
    type Input = Input;

    fn count(&self) -> usize {
        LAYERS + self.layers.len() + 1
    }

    fn unit(&self, i: usize) -> &Unit {
        self.units().nth(i).expect("one of count()")
    }

    fn unit_mut(&mut self, i: usize) -> &mut Unit {
        self.units_mut().nth(i).expect("one of count()")
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn reads(&self, piece: Piece) -> Vec<usize> {
        let head = LAYERS + self.layers.len();
        match piece {
            Piece::Start => vec![PROJECTOR, EMBED],
            Piece::Layer(i) => vec![LAYERS + i],
            Piece::Head if self.config.text.tied => vec![EMBED, head],
            Piece::Head => vec![head],
        }
    }

    fn prepare(&self, batch: &Batch, (kind, device): (Kind, Device)) -> Result<Input> {
        Ok(Input {
            ids: llava::ids(batch, device),
            features: self.features(batch)?.map(|f| f.to_kind(kind)),
            places: batch.places.clone(),
            rope: Rope::new(&self.config.text, batch.t as i64, kind, device),
            targets: Targets::new(batch, device)?,
        })
    }

    fn start(&self, input: &Input) -> Result<Tensor> {
        let x = llama::embed(&self.embed, &input.ids);
        match &input.features {
            Some(features) => llava::splice(&x, &self.project(features)?, &input.places),
            None => Ok(x),
        }
    }

    fn layer(&self, i: usize, x: &Tensor, input: &Input) -> Tensor {
        llama::layer(&self.layers[i], &self.config.text, &input.rope, x)
    }

    fn targets<'a>(&self, input: &'a Input) -> &'a Targets {
        &input.targets
    }

    fn loss(&self, x: &Tensor, ids: &Tensor) -> Tensor {
        llama::cross_entropy(&self.head, self.tied(), &self.config.text, x, ids)
    }

    fn rows<'a>(&self, batch: &'a Batch) -> &'a [String] {
        &batch.rows
    }

    fn tokens(&self, batch: &Batch) -> usize {
        batch.b * batch.t
    }
}
