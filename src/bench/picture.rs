//! Loading, pictures and questions, through the same [`Chat`] as `pumice chat`: what a person waits for.
//!
//! Every repeat opens the model anew, so that a photograph meets an empty cache, as the first one of a conversation does, and the
//! opening is measured too. Every picture is another one, since a chat does not look at the same picture twice.

use std::io::Cursor;

use anyhow::Context;
use image::{ImageFormat, Rgb, RgbImage};
use pumice_kernels::{DType, Timed};
use pumice_models::{
    gguf::File,
    llama::LlamaOptions,
    plan::{Plan, free_memory},
    vision::Vision,
};
use pumice_runtime::{
    Picture,
    chat::{Chat, Options, Seen},
};

use super::{machine, model::Model, session::Session, setting::Setting, test::Test};
use crate::holding::{self, HoldingArgs};

/// The first question, about the pictures.
const FIRST: &str = "What is in the picture?";
/// The second one.
const SECOND: &str = "And what colour is it?";
/// Positions for questions, template and answers beside the pictures' rows.
const WORDS: usize = 512;
/// The context that `pumice chat` opens with, where the model was trained for as many.
const CONTEXT: usize = 2048;
/// Bytes beside files and cache that a model may take: activations, a picture, the program.
const BESIDES: u64 = 300_000_000;
/// Sides of the pictures in pixels: what cameras and chat programs send when asked for a small picture.
const SIDES: (u32, u32) = (1024, 768);

/// How to open a chat, and what to ask.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    /// Pictures of the first question; 0: none is asked.
    pub images: usize,
    /// Type of the cache.
    pub cache_type: DType,
    /// How the weights are held in memory.
    pub holding: HoldingArgs,
    /// Whether to time every op in one more pass of the tower.
    pub ops: bool,
    /// Whether to go on where the estimate of memory says no.
    pub force: bool,
}

impl Talk {
    /// The tests that a round measures.
    pub fn tests(self) -> usize {
        if self.images > 0 { 4 + self.images } else { 1 }
    }

    /// Positions of the context.
    pub fn context(self, model: &Model) -> usize {
        let rows = self.images * model.image_tokens.unwrap_or(0);
        CONTEXT.min(model.trained).max(rows + WORDS)
    }

    /// Bytes of memory that opening and asking may take.
    fn allowed(self, model: &Model) -> anyhow::Result<u64> {
        let text = File::open(&model.text)?;
        let eyes = model.mmproj.as_deref().map(File::open).transpose()?;
        let options =
            LlamaOptions { ctx: self.context(model), cache_type: self.cache_type, ..LlamaOptions::default() };
        let cache = Plan::new(&text, None, &options)?.cache;
        Ok(text.size() + eyes.map_or(0, |eyes| eyes.size()) + cache + BESIDES)
    }

    /// Opens the model as `pumice chat` does, its threads started first; answers are of one token.
    pub fn open(self, model: &Model, setting: &Setting, session: &Session) -> anyhow::Result<Chat> {
        let options = Options {
            mmproj: model.mmproj.clone(),
            ctx: self.context(model),
            cache_type: self.cache_type,
            // What a device has room for was found when layers were placed.
            memory: free_memory().filter(|_| !self.force && setting.gpu.is_none()),
            holding: self.holding.holding(),
            predict: Some(1),
            cancel: session.flag(),
            ..Options::default()
        };
        let chat = Chat::open(&model.text, setting.devices()?, options)?;
        session.aside(|| holding::note(chat.unlocked()));
        Ok(chat)
    }
}

/// Measures opening, pictures, questions and memory.
pub fn measure(session: &mut Session, model: &Model, talk: Talk) -> anyhow::Result<()> {
    let own_peak = machine::reset_peak();
    if !own_peak {
        session.note("the system cannot forget a peak of memory: it is that of the whole run");
    }
    let allowed = talk.allowed(model)?;
    let mut drawn = 0;
    // The first time round does not count: it brings the file into the page cache and the processor to its clock.
    for round in 0..=session.repeats {
        for setting in session.order(round) {
            let what = match round {
                0 => "load, image: warming up".to_owned(),
                _ => format!("load, image: {round} of {}", session.repeats),
            };
            session.say(&what, setting);
            let pictures: Vec<_> =
                (0..talk.images).map(|i| photograph(drawn + i)).collect::<Result<_, _>>()?;
            drawn += talk.images;
            self::round(session, model, talk, setting, &pictures, (round > 0).then_some(allowed))?;
            if session.is_stopped() {
                return Ok(());
            }
        }
    }
    if talk.images > 0 {
        (0..session.settings.len()).try_for_each(|setting| count(session, model, setting, talk.ops))?;
    }
    Ok(())
}

/// Notes the work of tower and projector and, with `ops`, where their time goes; decoding and resizing are no ops.
fn count(session: &mut Session, model: &Model, setting: usize, ops: bool) -> anyhow::Result<()> {
    let file = File::open(model.mmproj.as_ref().unwrap_or(&model.text))?;
    let mut backend = Timed::new(session.settings[setting].vision(ops)?);
    let vision = Vision::load(&file, &mut backend)?;
    let size = vision.config().clip.image_size;
    let pixels = vec![0.0; 3 * size * size];
    for _ in 0..=usize::from(ops) {
        backend.reset();
        vision.encode(&mut backend, &pixels)?;
    }
    session.work(Test::Image, setting, backend.work());
    if ops {
        session.ops(Test::Image, setting, &backend);
    }
    Ok(())
}

/// One model opened, shown `pictures` and asked twice; where it counts, `allowed` bytes of memory may be taken.
fn round(
    session: &mut Session,
    model: &Model,
    talk: Talk,
    setting: usize,
    pictures: &[Vec<u8>],
    allowed: Option<u64>,
) -> anyhow::Result<()> {
    let counts = allowed.is_some();
    let add = |session: &mut Session, test: Test, sample| {
        if counts {
            session.add(test, setting, sample);
        }
    };
    machine::reset_peak();
    let watch = session.watch();
    let mut chat = talk.open(model, &session.settings[setting], session)?;
    let sample = session.end(&watch);
    add(session, Test::LoadWarm, sample);
    let mut seen = Vec::new();
    let photo = session.watch();
    for jpeg in pictures {
        let watch = session.watch();
        seen.push(chat.see_picture(&Picture::decode("the bench's picture", jpeg)?)?);
        let sample = session.end(&watch);
        add(session, Test::Image, sample);
    }
    let (positions, depth) = ask(&mut chat, FIRST, &seen)?;
    if !pictures.is_empty() {
        let sample = session.end(&photo);
        let test = Test::Photo { n: pictures.len() };
        add(session, test, sample);
        session.prompt(test, setting, positions, depth);
        second(session, &mut chat, setting, Test::Second, counts)?;
    }
    if let Some((bytes, allowed)) = machine::peak().zip(allowed) {
        session.peak(setting, bytes, allowed);
    }
    if !pictures.is_empty() {
        chat.clear();
        ask(&mut chat, FIRST, &[])?;
        second(session, &mut chat, setting, Test::SecondBlind, counts)?;
    }
    Ok(())
}

/// Asks the second question.
fn second(
    session: &mut Session,
    chat: &mut Chat,
    setting: usize,
    test: Test,
    counts: bool,
) -> anyhow::Result<()> {
    let watch = session.watch();
    let (positions, depth) = ask(chat, SECOND, &[])?;
    let sample = session.end(&watch);
    if counts {
        session.add(test, setting, sample);
        session.prompt(test, setting, positions, depth);
    }
    Ok(())
}

/// Asks, and waits for the one token that is drawn. Returns the positions that were computed for it, and how many the cache held.
fn ask(chat: &mut Chat, question: &str, seen: &[Seen]) -> anyhow::Result<(usize, usize)> {
    let before = *chat.stats();
    for piece in &mut chat.ask(question, seen)? {
        piece?;
    }
    let stats = chat.stats().since(&before);
    Ok((stats.prompt_tokens, stats.reused_tokens))
}

/// A JPEG file in memory: bands of colour under noise, so that it is as hard to decode as a photograph. Each number gives
/// another.
fn photograph(number: usize) -> anyhow::Result<Vec<u8>> {
    let (width, height) = SIDES;
    let mut noise = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(number as u64 + 1) | 1;
    let picture = RgbImage::from_fn(width, height, |x, y| {
        // Marsaglia's xorshift, 2003.
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        let grain = (noise >> 59) as u32;
        let band = |v: u32, side: u32| (v * 7 / side + number as u32) % 7 * 32;
        let light = |v: u32| (v + grain).min(255) as u8;
        Rgb([light(band(x, width)), light(band(y, height)), light((x + y) * 200 / (width + height))])
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Jpeg).context("the bench's picture cannot be encoded")?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photographs_are_large_and_differ() {
        let (one, two) = (photograph(0).unwrap(), photograph(1).unwrap());
        assert!(one != two && one == photograph(0).unwrap());
        let picture = Picture::decode("one", &one).unwrap();
        assert_eq!((picture.width(), picture.height()), (1024, 768));
        // Photographs of this size at the encoder's quality have 60 to 250 kB.
        assert!((60_000..400_000).contains(&one.len()), "{} bytes", one.len());
    }
}
