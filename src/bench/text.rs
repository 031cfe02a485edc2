//! Prompt and generation, as llama-bench defines them: random tokens through the text model alone, nothing drawn or decoded.
//!
//! At a depth the cache is filled before the clock starts; it is filled once, since what stands at a position does not change
//! how long it takes to look at it. Every test is gone through once before it counts, a generation for one token.

use anyhow::Context;
use pumice_kernels::{Backend, DType, Timed, count::Work};
use pumice_models::{
    gguf::File,
    llama::{Input, Llama, LlamaOptions, Logits},
    plan::{Plan, free_memory},
};

use super::{model::Model, session::Session, test::Test};
use crate::holding::HoldingArgs;

/// What to measure, and how.
pub struct Plans {
    /// The tests.
    pub tests: Vec<Test>,
    /// Type of the cache.
    pub cache_type: DType,
    /// How the weights are held in memory.
    pub holding: HoldingArgs,
    /// Whether to time every op in one more pass.
    pub ops: bool,
    /// Whether to go on where the estimate of memory says no.
    pub force: bool,
}

impl Plans {
    /// The context that the longest test takes; none where there are no tests.
    pub fn options(&self) -> Option<LlamaOptions> {
        let length = |test: &Test| {
            let sizes = test.sizes();
            sizes.depth + sizes.prompt + sizes.generated
        };
        let ctx = self.tests.iter().map(length).max()?;
        Some(LlamaOptions { ctx, cache_type: self.cache_type, ..LlamaOptions::default() })
    }

    /// Refuses tests that do not fit in memory, before anything is measured.
    pub fn check(&self, model: &Model) -> anyhow::Result<()> {
        let (Some(options), Some(free)) = (self.options(), free_memory().filter(|_| !self.force)) else {
            return Ok(());
        };
        let plan = Plan::new(&File::open(&model.text)?, None, &options)?;
        plan.check(free).with_context(|| {
            format!(
                "-p, -n and -d want a context of {}, here what -c is elsewhere; make them smaller",
                options.ctx
            )
        })
    }
}

/// A text model with one setting.
struct Engine {
    setting: usize,
    backend: Timed<Box<dyn Backend>>,
    llama: Llama,
    tokens: Vec<u32>,
    /// Where logits are read to, which waits for them as whoever draws a token does.
    logits: Vec<f32>,
}

/// Measures all of `plans`.
pub fn measure(session: &mut Session, model: &Model, plans: &Plans) -> anyhow::Result<()> {
    let Some(options) = plans.options() else { return Ok(()) };
    let groups = groups(session, &File::open(&model.text)?, &options, plans.force)?;
    let file = plans.holding.open(&model.text)?;
    for settings in groups {
        let mut engines = Vec::new();
        for setting in settings {
            session.say("filling the cache", setting);
            let depth = plans.tests.iter().map(|test| test.sizes().depth).max().unwrap_or(0);
            let on_gpu = session.settings[setting].gpu.is_some();
            if plans.ops && on_gpu {
                // A device that times each op takes longer for all: it is not the one that is measured.
                let how = session.settings[setting].text(true)?;
                let mut engine = Engine::open(setting, how, &file, &options)?;
                engine.prompt(session, depth, 0, false)?;
                plans.tests.iter().try_for_each(|test| engine.ops(session, *test))?;
            }
            let how = session.settings[setting].text(false)?;
            let mut engine = Engine::open(setting, how, &file, &options)?;
            engine.prompt(session, depth, 0, false)?;
            for test in &plans.tests {
                session.say(&format!("{test}: warming up"), setting);
                engine.warm_up(session, *test)?;
                if plans.ops && !on_gpu {
                    engine.ops(session, *test)?;
                }
            }
            engines.push(engine);
        }
        for repeat in 0..session.repeats {
            for test in &plans.tests {
                for at in session.order(repeat) {
                    let Some(engine) = engines.get_mut(at) else { continue };
                    session.say(&format!("{test}: {} of {}", repeat + 1, session.repeats), engine.setting);
                    let watch = session.watch();
                    engine.run(session, *test, false)?;
                    let sample = session.end(&watch);
                    session.add(*test, engine.setting, sample);
                    if session.is_stopped() {
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

/// The settings that are measured in turns: all of them where they fit in memory together (the weights they share), else one
/// after the other.
fn groups(
    session: &Session,
    file: &File,
    options: &LlamaOptions,
    force: bool,
) -> anyhow::Result<Vec<Vec<usize>>> {
    let all: Vec<usize> = (0..session.settings.len()).collect();
    if session.settings.iter().filter(|setting| setting.gpu.is_some()).count() > 1 {
        // One has the memory of a graphics processor to itself.
        return Ok(all.into_iter().map(|setting| vec![setting]).collect());
    }
    let Some(free) = free_memory().filter(|_| !force) else { return Ok(vec![all]) };
    let plan = Plan::new(file, None, options)?;
    let more = (plan.cache + plan.scratch).saturating_mul(all.len() as u64 - 1);
    if plan.total().saturating_add(more) <= free {
        return Ok(vec![all]);
    }
    session.note(
        "memory does not suffice to measure the settings in turns; they are measured one after the other",
    );
    Ok(all.into_iter().map(|setting| vec![setting]).collect())
}

impl Engine {
    fn open(
        setting: usize,
        backend: Box<dyn Backend>,
        file: &File,
        options: &LlamaOptions,
    ) -> anyhow::Result<Self> {
        let mut backend = Timed::new(backend);
        let llama = Llama::load(file, &mut backend, options)?;
        let tokens = random_tokens(options.ctx, llama.config().vocab);
        let logits = vec![0.0; llama.config().vocab];
        Ok(Self { setting, backend, llama, tokens, logits })
    }

    /// Goes through `test` before it counts, and notes its work.
    fn warm_up(&mut self, session: &mut Session, test: Test) -> anyhow::Result<()> {
        self.backend.reset();
        let work = match test {
            Test::Generation { n, depth } => {
                // The work of a token grows evenly with its position: that of the middle one is the mean.
                self.generate(session, 1, depth + n / 2, true)?;
                times(self.backend.work(), n as u64)
            }
            _ => {
                self.run(session, test, true)?;
                self.backend.work()
            }
        };
        session.work(test, self.setting, work);
        Ok(())
    }

    /// Notes where the time of `test` goes, op by op.
    fn ops(&mut self, session: &mut Session, test: Test) -> anyhow::Result<()> {
        self.backend.reset();
        self.run(session, test, true)?;
        session.ops(test, self.setting, &self.backend);
        Ok(())
    }

    fn run(&mut self, session: &Session, test: Test, timed: bool) -> anyhow::Result<()> {
        match test {
            Test::Prompt { n, depth } => self.prompt(session, n, depth, timed),
            Test::Generation { n, depth } => self.generate(session, n, depth, timed),
            _ => Ok(()),
        }
    }

    /// `n` positions in one go, from `depth` on.
    fn prompt(&mut self, session: &Session, n: usize, depth: usize, timed: bool) -> anyhow::Result<()> {
        if n == 0 {
            return Ok(());
        }
        let mut go_on = |_, _| !session.is_stopped();
        let input = [Input::Tokens(&self.tokens[depth..depth + n])];
        let backend: &mut dyn Backend = if timed { &mut self.backend } else { self.backend.inner_mut() };
        if self.llama.forward(backend, &input, depth, Logits::Last, &mut go_on)? == n {
            self.llama.logits(backend, &mut self.logits)?;
        }
        Ok(())
    }

    /// `n` positions one by one, from `depth` on.
    fn generate(&mut self, session: &Session, n: usize, depth: usize, timed: bool) -> anyhow::Result<()> {
        for position in depth..depth + n {
            if session.is_stopped() {
                break;
            }
            self.prompt(session, 1, position, timed)?;
        }
        Ok(())
    }
}

/// `work`, `n` times.
fn times(work: Work, n: u64) -> Work {
    Work { calls: work.calls * n, flops: work.flops * n, bytes: work.bytes * n }
}

/// `count` ids of `vocab`, the same in every run (Knuth's multiplier, TAOCP 3.3.4).
fn random_tokens(count: usize, vocab: usize) -> Vec<u32> {
    let mut state = 1u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab.max(1) as u64) as u32
    };
    (0..count).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_of_the_vocabulary_and_spread_over_it() {
        let tokens = random_tokens(4096, 32000);
        assert!(tokens.iter().all(|t| *t < 32000));
        let mut different = tokens.clone();
        different.sort_unstable();
        different.dedup();
        // Of 4096 draws from 32 000 some 3850 differ.
        assert!(different.len() > 3600, "{}", different.len());
        assert_eq!(tokens, random_tokens(4096, 32000));
    }
}
