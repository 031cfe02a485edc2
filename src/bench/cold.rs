//! Loading with a cold page cache: the file is dropped from it, which Linux does without root where nobody else holds it.
//!
//! Opening maps the file and reads its header, so it is quick even then; the weights come when they are first used. So two rows:
//! to ready, and to the end of one token's pass, which uses every weight. The system is free not to drop a file (another program
//! has it mapped; it lies in memory anyway), so the bytes fetched from storage are counted, and no row pretends.

use std::{fs::File, path::Path};

use anyhow::Context;
use pumice_models::{
    gguf,
    llama::{Input, Llama, LlamaOptions, Logits},
};

use super::{machine, model::Model, picture::Talk, session::Session, test::Test};

/// Measures cold loads with the first setting; a disk knows no threads.
pub fn measure(session: &mut Session, model: &Model, talk: Talk) -> anyhow::Result<()> {
    const SETTING: usize = 0;
    for repeat in 0..session.repeats {
        session.say(&format!("load cold: {} of {}", repeat + 1, session.repeats), SETTING);
        let fetched = machine::bytes_fetched();
        if let Err(why) = model.files().try_for_each(forget) {
            session.note(&format!("no cold load: {why:#}"));
            return Ok(());
        }
        let watch = session.watch();
        drop(talk.open(model, &session.settings[SETTING], session)?);
        let sample = session.end(&watch);
        session.add(Test::LoadCold, SETTING, sample);
        // The first opening fetched the header; from here on all is fetched again.
        model.files().try_for_each(forget)?;
        let watch = session.watch();
        one_token(session, model, talk)?;
        let sample = session.end(&watch);
        session.add(Test::LoadColdToken, SETTING, sample);
        let fetched = machine::bytes_fetched().zip(fetched).map(|(now, before)| now - before);
        if session.is_stopped() {
            return Ok(());
        }
        // Half, since a system may fetch less than a page of a tensor's end, but not nothing.
        if fetched.is_some_and(|bytes| bytes < model.row.model_size / 2) {
            session.forget(Test::LoadCold);
            session.forget(Test::LoadColdToken);
            session.note(
                "no cold load: the system keeps the file in memory (a disk in memory, or another program has it open)",
            );
            return Ok(());
        }
    }
    Ok(())
}

/// Opens the text model and computes one token, which reads all of its weights.
fn one_token(session: &Session, model: &Model, talk: Talk) -> anyhow::Result<()> {
    let file = gguf::File::open_as(&model.text, talk.holding.holding())?;
    let mut backend = session.settings[0].text(false)?;
    let options = LlamaOptions { ctx: 1, ..LlamaOptions::default() };
    let mut llama = Llama::load(&file, &mut backend, &options)?;
    let mut go_on = |_, _| !session.is_stopped();
    if llama.forward(&mut backend, &[Input::Tokens(&[1])], 0, Logits::Last, &mut go_on)? > 0 {
        llama.logits(&mut backend, &mut vec![0.0; llama.config().vocab])?;
    }
    Ok(())
}

/// Asks the system to drop the file at `path` from its page cache.
#[cfg(target_os = "linux")]
fn forget(path: &Path) -> anyhow::Result<()> {
    use rustix::fs::{Advice, fadvise};
    let what = || path.display().to_string();
    let file = File::open(path).with_context(what)?;
    // Pages that are still to be written are kept: a file that was just made has some.
    file.sync_all().with_context(what)?;
    fadvise(&file, 0, None, Advice::DontNeed).with_context(what)
}

#[cfg(not(target_os = "linux"))]
fn forget(_path: &Path) -> anyhow::Result<()> {
    anyhow::bail!("this system does not let a program drop a file from its page cache")
}
