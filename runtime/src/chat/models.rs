//! The models of a chat on their devices, and how they move to another one when a device fails.
//!
//! A device fails in three calls: when something is loaded, allocated or read. So a pass counts as done only when its logits were
//! read, and each pass here ends in that reading. After a failure nothing on the device can be trusted: what was there is let go of,
//! the files, which are still mapped, are opened on the other device, and nothing counts as held by the new cache.

use pumice_kernels::Backend;
use pumice_models::{
    config::LlamaConfig,
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    vision::Vision,
};

use super::cache::Slot;
use crate::{Error, Result, sample::Sampler};

/// The devices that a chat computes on. One backend alone serves for all: `Box::new(cpu).into()`.
pub struct Devices {
    /// Of the text model.
    pub text: Box<dyn Backend>,
    /// Of the vision part; `None`: that of the text model.
    pub vision: Option<Box<dyn Backend>>,
    /// Where the chat goes on when one of them fails; `None`: it does not, and the failure is an error.
    pub fallback: Option<Fallback>,
}

impl From<Box<dyn Backend>> for Devices {
    fn from(text: Box<dyn Backend>) -> Self {
        Self { text, vision: None, fallback: None }
    }
}

impl<B: Backend + 'static> From<Box<B>> for Devices {
    fn from(text: Box<B>) -> Self {
        Self::from(text as Box<dyn Backend>)
    }
}

/// Where a chat goes on when a device is lost or its memory runs out.
pub struct Fallback {
    /// Makes the device to go on with; called once for each device that failed.
    pub make: Box<dyn FnMut() -> pumice_kernels::Result<Box<dyn Backend>>>,
    /// Hears of each failure, before the models are opened again.
    pub told: Box<dyn FnMut(&Failure)>,
}

/// A device failed, and the chat goes on with another one.
#[derive(Debug)]
pub struct Failure {
    /// The device that failed.
    pub from: String,
    /// What happened: [`pumice_kernels::Error::DeviceLost`] or [`pumice_kernels::Error::OutOfMemory`].
    pub why: pumice_kernels::Error,
    /// The device to go on with.
    pub to: String,
}

/// What moves together, and whether it has moved already: there is no third device.
struct Place<T> {
    model: Option<T>,
    moved: bool,
}

/// The text model and where it is.
struct Text {
    backend: Box<dyn Backend>,
    llama: Llama,
    /// The vision part, where it is on the same device.
    vision: Option<Vision>,
}

/// The vision part on a device of its own.
struct Eyes {
    backend: Box<dyn Backend>,
    vision: Vision,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Text,
    Eyes,
}

/// The models, their files, and what the KV cache holds.
pub(super) struct Models {
    text_file: File,
    vision_file: Option<File>,
    config: LlamaConfig,
    options: LlamaOptions,
    text: Place<Text>,
    /// The vision part, where it has a device of its own.
    eyes: Option<Place<Eyes>>,
    fallback: Option<Fallback>,
    /// What stands at each position of the KV cache.
    held: Vec<Slot>,
    needs: Needs,
    /// Of the token that follows: the likeliest, (logit, id), where that is all that is needed.
    likeliest: Option<Vec<(f32, u32)>>,
    /// Else the logits of all, [rows of the output matrix].
    row: Vec<f32>,
}

/// What a sampler wants to hear of the token that follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// How many of the likeliest; `None`: all.
    pub few: Option<usize>,
    /// Ids below this one, those of the vocabulary.
    pub among: usize,
}

/// The device's own failure, which another device need not share.
fn failure(error: Error) -> Result<pumice_kernels::Error> {
    use pumice_kernels::Error::{DeviceLost, OutOfMemory};
    match error {
        Error::Model(pumice_models::Error::Backend(why @ (DeviceLost { .. } | OutOfMemory { .. }))) => {
            Ok(why)
        }
        other => Err(other),
    }
}

impl Models {
    /// Opens the text model of `text` and, where there is one, the vision part of `vision`.
    pub fn open(
        (text, vision): (&File, Option<&File>),
        options: &LlamaOptions,
        devices: Devices,
        needs: Needs,
    ) -> Result<Self> {
        let mut models = Self {
            text_file: text.clone(),
            vision_file: vision.cloned(),
            config: LlamaConfig::read(text)?,
            options: *options,
            text: Place { model: None, moved: false },
            eyes: None,
            fallback: devices.fallback,
            held: Vec::new(),
            needs,
            likeliest: None,
            row: Vec::new(),
        };
        let eyes = devices.vision.filter(|_| vision.is_some());
        models.eyes = eyes.as_ref().map(|_| Place { model: None, moved: false });
        for (part, backend) in [(Part::Text, Some(devices.text)), (Part::Eyes, eyes)] {
            if let Some(backend) = backend
                && let Err(error) = models.load(part, backend)
            {
                models.recover(part, error)?;
            }
        }
        Ok(models)
    }

    /// Puts a part on `backend`, after letting go of where it was.
    fn load(&mut self, part: Part, mut backend: Box<dyn Backend>) -> Result<()> {
        match (part, &mut self.eyes) {
            (Part::Text, eyes) => {
                self.text.model = None;
                self.held.clear();
                let llama = Llama::load(&self.text_file, &mut *backend, &self.options)?;
                let here = self.vision_file.as_ref().filter(|_| eyes.is_none());
                let vision = here.map(|file| Vision::load(file, &mut *backend)).transpose()?;
                self.options = *llama.options();
                self.text.model = Some(Text { backend, llama, vision });
            }
            (Part::Eyes, Some(eyes)) => {
                eyes.model = None;
                let file = self.vision_file.as_ref().ok_or(Error::NoVision)?;
                let vision = Vision::load(file, &mut *backend)?;
                eyes.model = Some(Eyes { backend, vision });
            }
            (Part::Eyes, None) => {}
        }
        Ok(())
    }

    /// Goes on with another device, where `error` is a failure of a part's own and there is another one.
    fn recover(&mut self, part: Part, error: Error) -> Result<()> {
        let why = failure(error)?;
        if part == Part::Text {
            self.held.clear();
        }
        let moved = match (part, &mut self.eyes) {
            (Part::Eyes, Some(eyes)) => &mut eyes.moved,
            _ => &mut self.text.moved,
        };
        let Some(fallback) = self.fallback.as_mut().filter(|_| !*moved) else {
            return Err(pumice_models::Error::from(why).into());
        };
        *moved = true;
        let backend = (fallback.make)().map_err(pumice_models::Error::from)?;
        use pumice_kernels::Error::{DeviceLost, OutOfMemory};
        let from = match &why {
            DeviceLost { device, .. } | OutOfMemory { device, .. } => device.clone(),
            _ => String::new(),
        };
        (fallback.told)(&Failure { from, why, to: backend.name() });
        self.load(part, backend)
    }

    /// As [`Models::recover`], for the text model.
    pub fn recover_text(&mut self, error: Error) -> Result<()> {
        self.recover(Part::Text, error)
    }

    /// What the text model looks like.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Positions of the context.
    pub fn ctx(&self) -> usize {
        self.options.ctx
    }

    /// The text model's device in words, where it is on one.
    pub fn device(&self) -> Option<String> {
        Some(self.text.model.as_ref()?.backend.name())
    }

    /// The rows that stand for a picture, [image tokens, hidden of the text model].
    pub fn encode(&mut self, pixels: &[f32]) -> Result<Vec<f32>> {
        let part = if self.eyes.is_some() { Part::Eyes } else { Part::Text };
        match self.encode_once(pixels) {
            Err(error) => {
                self.recover(part, error)?;
                self.encode_once(pixels)
            }
            rows => rows,
        }
    }

    fn encode_once(&mut self, pixels: &[f32]) -> Result<Vec<f32>> {
        let (backend, vision) = match &mut self.eyes {
            Some(eyes) => {
                let eyes = eyes.model.as_mut().ok_or(Error::NoDevice)?;
                (&mut eyes.backend, &eyes.vision)
            }
            None => {
                let text = self.text.model.as_mut().ok_or(Error::NoDevice)?;
                (&mut text.backend, text.vision.as_ref().ok_or(Error::NoVision)?)
            }
        };
        Ok(vision.encode(&mut **backend, pixels)?)
    }

    /// What stands at each position of the KV cache.
    pub fn held(&self) -> &[Slot] {
        &self.held
    }

    /// Lets go of what the cache holds from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.held.truncate(len);
    }

    /// Computes `input`, the rows of `slots`, behind what the cache holds, and what follows the last of them. Returns the rows that
    /// are whole in the cache: fewer than were given only where `progress` (rows done, rows in all) said to stop.
    ///
    /// # Errors
    /// As [`Llama::forward`], or the device fails, for which there is [`Models::recover_text`].
    pub fn forward(
        &mut self,
        input: &[Input<'_>],
        slots: &[Slot],
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<usize> {
        let Text { backend, llama, .. } = self.text.model.as_mut().ok_or(Error::NoDevice)?;
        let done = llama.forward(&mut **backend, input, self.held.len(), Logits::Last, progress)?;
        if done == slots.len() {
            self.read()?;
        }
        self.held.extend_from_slice(&slots[..done]);
        Ok(done)
    }

    /// Reads what the last pass says of the token that follows.
    fn read(&mut self) -> Result<()> {
        let Text { backend, llama, .. } = self.text.model.as_mut().ok_or(Error::NoDevice)?;
        self.likeliest = match self.needs.few {
            Some(k) => llama.top(&mut **backend, k, self.needs.among)?,
            None => None,
        };
        // Where the largest is no finite number the sampler looks at all, and says which is at fault.
        self.likeliest.take_if(|top| !top.first().is_some_and(|(logit, _)| logit.is_finite()));
        if self.likeliest.is_none() {
            self.row.resize(self.config.vocab, 0.0);
            llama.logits(&mut **backend, &mut self.row)?;
        }
        Ok(())
    }

    /// Draws the token that follows; `recent` are those of the answer so far.
    pub fn draw(&self, sampler: &mut Sampler, recent: &[u32]) -> Result<u32> {
        match &self.likeliest {
            Some(likeliest) => sampler.draw_likeliest(likeliest),
            None => sampler.draw(&self.row, self.needs.among, recent),
        }
    }
}
