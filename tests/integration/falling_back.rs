//! A chat whose device fails goes on with another one, and nobody can tell from its words.
//!
//! The device that fails is the CPU, or a real GPU, behind a counter of the calls that may fail. Weights are of 8 bits, whose products are the same for
//! a position computed alone or with others (NUMERICS.md), so that texts must be equal to the letter.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use pumice_kernels::{
    Backend, Bytes, DType, Error, Gelu, Result, Tensor,
    cpu::{Cpu, CpuOptions},
};
use pumice_models::gguf::File;
use pumice_quantize::{FileType, synthetic::synthetic};
use pumice_runtime::{
    chat::{Chat, Devices, Fallback, Options},
    sample::SamplerOptions,
};

use crate::program::picture;

/// When a device fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// In its n-th load or allocation, and in every call after it.
    Memory(usize),
    /// In its n-th reading, and in every call after it.
    Read(usize),
    /// In its n-th reading only.
    ReadOnce(usize),
}

/// A device as long as it works.
struct Failing<B> {
    device: B,
    when: When,
    /// Makes the device itself fail, where it can; else its failure is pretended.
    pull: Option<fn(&B)>,
    /// Loads and allocations, and readings so far.
    calls: Arc<[AtomicUsize; 2]>,
    failed: bool,
}

impl Failing<Cpu> {
    fn new(when: When) -> (Self, Arc<[AtomicUsize; 2]>) {
        Failing::of(cpu(), when, None)
    }
}

impl<B> Failing<B> {
    fn of(device: B, when: When, pull: Option<fn(&B)>) -> (Self, Arc<[AtomicUsize; 2]>) {
        let calls = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        (Self { device, when, pull, calls: Arc::clone(&calls), failed: false }, calls)
    }

    /// Counts a call that may fail, and fails where it is time.
    fn check(&mut self, read: bool) -> Result<()> {
        let now = self.calls[usize::from(read)].fetch_add(1, SeqCst);
        let fails = match self.when {
            When::Memory(n) => self.failed || (!read && now == n),
            When::Read(n) => self.failed || (read && now == n),
            When::ReadOnce(n) => read && now == n,
        };
        if let Some(pull) = self.pull.filter(|_| fails) {
            pull(&self.device);
            return Ok(());
        }
        self.failed |= fails;
        let device = "a failing device".to_owned();
        match (fails, self.when) {
            (false, _) => Ok(()),
            (true, When::Memory(_)) => {
                Err(Error::OutOfMemory { device, bytes: 64, rows: 4, cols: 4, dtype: DType::F32 })
            }
            (true, _) => Err(Error::DeviceLost { device, what: "it is a test".into() }),
        }
    }

    /// The device for an op; none after the failure.
    fn op(&mut self) -> Option<&mut B> {
        (!self.failed || matches!(self.when, When::ReadOnce(_))).then_some(&mut self.device)
    }
}

impl<B: Backend> Backend for Failing<B> {
    fn name(&self) -> String {
        "a failing device".into()
    }
    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.check(false)?;
        self.device.load(bytes, rows, cols, dtype)
    }
    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.check(false)?;
        self.device.alloc(rows, cols, dtype)
    }
    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        self.check(true)?;
        self.device.read(dst, src)
    }
    fn write(&mut self, dst: Tensor, src: &[u8]) {
        self.op().into_iter().for_each(|b| b.write(dst, src));
    }
    fn matmul(&mut self, dst: Tensor, x: Tensor, w: Tensor, bias: Option<Tensor>) {
        self.op().into_iter().for_each(|b| b.matmul(dst, x, w, bias));
    }
    fn get_rows(&mut self, dst: Tensor, table: Tensor, ids: Tensor) {
        self.op().into_iter().for_each(|b| b.get_rows(dst, table, ids));
    }
    fn rms_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, eps: f32) {
        self.op().into_iter().for_each(|b| b.rms_norm(dst, x, weight, eps));
    }
    fn layer_norm(&mut self, dst: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: f32) {
        self.op().into_iter().for_each(|b| b.layer_norm(dst, x, weight, bias, eps));
    }
    fn rope(&mut self, x: Tensor, positions: Tensor, inv_freq: Tensor, head_dim: usize) {
        self.op().into_iter().for_each(|b| b.rope(x, positions, inv_freq, head_dim));
    }
    fn attention(&mut self, dst: Tensor, q: Tensor, k: Tensor, v: Tensor, at: Option<Tensor>, d: usize) {
        self.op().into_iter().for_each(|b| b.attention(dst, q, k, v, at, d));
    }
    fn swiglu(&mut self, gate: Tensor, up: Tensor) {
        self.op().into_iter().for_each(|b| b.swiglu(gate, up));
    }
    fn gelu(&mut self, x: Tensor, kind: Gelu) {
        self.op().into_iter().for_each(|b| b.gelu(x, kind));
    }
    fn add(&mut self, dst: Tensor, x: Tensor) {
        self.op().into_iter().for_each(|b| b.add(dst, x));
    }
    fn copy(&mut self, dst: Tensor, x: Tensor) {
        self.op().into_iter().for_each(|b| b.copy(dst, x));
    }
    fn top_k(&mut self, dst: Tensor, x: Tensor, among: usize) {
        self.op().into_iter().for_each(|b| b.top_k(dst, x, among));
    }
}

fn cpu() -> Cpu {
    Cpu::new(CpuOptions { threads: 1, isa: None })
}

fn file() -> File {
    let bytes = synthetic("tiny", FileType::Q8_0).expect("the tiny model");
    File::from_bytes("tiny", Bytes::new(bytes)).expect("the tiny model")
}

/// The likeliest token always, and a cache that rounds nothing: what is computed anew in one go sums in another order than token by
/// token.
fn options() -> Options {
    let sampling = SamplerOptions::greedy();
    Options { sampling, predict: Some(6), ctx: 512, cache_type: DType::F32, ..Options::default() }
}

/// What was told of failures.
type Told = Rc<RefCell<Vec<String>>>;

/// The CPU to go on with, and what it hears.
fn fallback() -> (Fallback, Told) {
    let told = Told::default();
    let heard = Rc::clone(&told);
    let fallback = Fallback {
        make: Box::new(|| Ok(Box::new(cpu()))),
        told: Box::new(move |f| heard.borrow_mut().push(format!("{}: {}; {}", f.from, f.why, f.to))),
    };
    (fallback, told)
}

/// A picture, two questions, another answer to the second, a question in a new conversation.
fn talk(chat: &mut Chat) -> Vec<String> {
    let seen = chat.see(picture()).expect("a picture");
    let mut texts = Vec::new();
    let all = |answer: pumice_runtime::chat::Answer<'_>| -> String {
        answer.map(|p| p.expect("a piece")).collect()
    };
    texts.push(all(chat.ask("What is this?", &[seen]).expect("an answer")));
    texts.push(all(chat.ask("Why?", &[]).expect("an answer")));
    texts.push(all(chat.regenerate().expect("an answer")));
    chat.clear();
    texts.push(all(chat.ask("And now?", &[]).expect("an answer")));
    texts
}

#[test]
fn wherever_a_device_fails_the_words_are_the_same() {
    let (device, calls) = Failing::new(When::Read(usize::MAX));
    let mut chat = Chat::from_files(&file(), None, Box::new(device), options()).expect("a chat");
    let undisturbed = talk(&mut chat);
    let [memory, reads] = [0, 1].map(|i: usize| calls[i].load(SeqCst));
    assert!(memory > 40 && reads > 20, "{memory} loads and allocations, {reads} readings");
    let memory = (0..memory).step_by(7).chain([memory - 1]).map(When::Memory);
    for when in memory.chain((0..reads).map(When::Read)) {
        let (fallback, told) = fallback();
        let devices =
            Devices { text: Box::new(Failing::new(when).0), vision: None, fallback: Some(fallback) };
        let mut chat = Chat::from_files(&file(), None, devices, options()).expect("a chat");
        assert_eq!(talk(&mut chat), undisturbed, "{when:?}");
        let told = told.borrow();
        assert_eq!(told.len(), 1, "{when:?}: {told:?}");
        assert!(told[0].contains("a failing device") && told[0].contains("cpu ("), "{told:?}");
        assert!(chat.device().is_some_and(|name| name.starts_with("cpu (")), "{:?}", chat.device());
    }
}

#[test]
fn a_vision_part_with_a_device_of_its_own_moves_alone() {
    let mut plain = Chat::from_files(&file(), None, Box::new(cpu()), options()).expect("a chat");
    let undisturbed = talk(&mut plain);
    for when in [When::Memory(0), When::Memory(30), When::Read(0)] {
        let (fallback, told) = fallback();
        let text = Box::new(Failing::new(When::Read(usize::MAX)).0);
        let devices =
            Devices { text, vision: Some(Box::new(Failing::new(when).0)), fallback: Some(fallback) };
        let mut chat = Chat::from_files(&file(), None, devices, options()).expect("a chat");
        assert_eq!(talk(&mut chat), undisturbed, "{when:?}");
        assert_eq!(told.borrow().len(), 1, "{when:?}");
        assert_eq!(chat.device().as_deref(), Some("a failing device"), "the text model stays where it is");
    }
}

#[test]
fn without_another_device_the_conversation_stands_as_it_stood() {
    let mut plain = Chat::from_files(&file(), None, Box::new(cpu()), options()).expect("a chat");
    let one: String = plain.ask("What?", &[]).expect("an answer").map(|p| p.expect("a piece")).collect();
    let two: String = plain.ask("Why?", &[]).expect("an answer").map(|p| p.expect("a piece")).collect();
    let reads = one_answer_reads();
    let device = Box::new(Failing::new(When::ReadOnce(reads)).0);
    let mut chat = Chat::from_files(&file(), None, device, options()).expect("a chat");
    let told: String = chat.ask("What?", &[]).expect("an answer").map(|p| p.expect("a piece")).collect();
    assert_eq!(told, one);
    let error = chat.ask("Why?", &[]).err().expect("the device was lost").to_string();
    assert!(error.contains("a failing device") && error.contains("--device cpu"), "{error}");
    let before = *chat.stats();
    let again: String = chat.ask("Why?", &[]).expect("an answer").map(|p| p.expect("a piece")).collect();
    assert_eq!(again, two, "asked again it is the second question");
    assert_eq!(chat.stats().since(&before).reused_tokens, 0, "nothing that the device held is trusted");
}

/// Readings of a first answer.
fn one_answer_reads() -> usize {
    let (device, calls) = Failing::new(When::Read(usize::MAX));
    let mut chat = Chat::from_files(&file(), None, Box::new(device), options()).expect("a chat");
    chat.ask("What?", &[]).expect("an answer").for_each(drop);
    calls[1].load(SeqCst)
}

#[test]
fn a_second_failure_is_an_error() {
    let fallback =
        Fallback { make: Box::new(|| Ok(Box::new(Failing::new(When::Memory(9)).0))), told: Box::new(|_| {}) };
    let devices =
        Devices { text: Box::new(Failing::new(When::Read(0)).0), vision: None, fallback: Some(fallback) };
    let mut chat = Chat::from_files(&file(), None, devices, options()).expect("a chat");
    let error = chat.ask("What?", &[]).err().expect("no device is left").to_string();
    assert!(error.contains("64 bytes"), "{error}");
    let error = chat.ask("What?", &[]).err().expect("no device is left").to_string();
    assert!(error.contains("no device any more") && chat.device().is_none(), "{error}");
}

/// A conversation with a real device, which is lost or has too little memory.
#[cfg(feature = "gpu")]
mod gpu {
    use super::*;
    use pumice_kernels::{
        Split,
        gpu::{Gpu, GpuOptions, adapters},
    };
    use pumice_runtime::chat;

    fn open(memory: Option<u64>) -> Option<Gpu> {
        if adapters().is_empty() {
            eprintln!("skipped, no adapter: a GPU that fails");
            return None;
        }
        Some(Gpu::new(&GpuOptions { memory, ..GpuOptions::default() }).expect("a device"))
    }

    /// The tiny model in f32: what devices round differently, random weights would turn into other words.
    fn exact() -> File {
        let bytes = synthetic("tiny", FileType::F32).expect("the tiny model");
        File::from_bytes("tiny", Bytes::new(bytes)).expect("the tiny model")
    }

    fn talk_on(devices: impl Into<Devices>) -> Vec<String> {
        talk(&mut Chat::from_files(&exact(), None, devices, options()).expect("a chat"))
    }

    #[test]
    fn a_lost_gpu_is_gone_on_from() {
        let Some(gpu) = open(None) else { return };
        let (gpu, calls) = Failing::of(gpu, When::Read(usize::MAX), None);
        let undisturbed = talk_on(Box::new(gpu));
        assert_eq!(undisturbed, talk_on(Box::new(cpu())), "before anything fails");
        let reads = calls[1].load(SeqCst);
        // While it looks at the picture, in the first prompt, in the midst of an answer, in the last.
        for when in [When::Read(0), When::Read(1), When::Read(reads / 2), When::Read(reads - 1)] {
            let Some(gpu) = open(None) else { return };
            let (fallback, told) = fallback();
            let text = Box::new(Failing::of(gpu, when, Some(Gpu::lose)).0);
            assert_eq!(
                talk_on(Devices { text, vision: None, fallback: Some(fallback) }),
                undisturbed,
                "{when:?}"
            );
            assert!(told.borrow().len() == 1 && told.borrow()[0].contains("lost"), "{:?}", told.borrow());
        }
    }

    #[test]
    fn a_lost_gpu_with_some_of_the_layers_is_gone_on_from() {
        let file = exact();
        let share = chat::plan(&file, None, &options()).expect("a plan").share(2);
        let undisturbed = talk_on(Box::new(cpu()));
        // A Split reads the device where rows cross its border.
        for when in [When::Read(usize::MAX), When::Read(3), When::Read(11)] {
            let Some(gpu) = open(None) else { return };
            let (device, calls) = Failing::of(gpu, when, Some(Gpu::lose));
            let (fallback, told) = fallback();
            let text = Box::new(Split::new(device, cpu(), share));
            assert_eq!(
                talk_on(Devices { text, vision: None, fallback: Some(fallback) }),
                undisturbed,
                "{when:?}"
            );
            assert!(calls[1].load(SeqCst) > 3, "{when:?}");
            assert_eq!(told.borrow().len(), usize::from(when != When::Read(usize::MAX)), "{when:?}");
        }
    }

    #[test]
    fn a_gpu_without_memory_is_gone_on_from() {
        for memory in [4 << 20, 6 << 20, 9 << 20] {
            let Some(gpu) = open(Some(memory)) else { return };
            let (fallback, told) = fallback();
            let devices = Devices { text: Box::new(gpu), vision: None, fallback: Some(fallback) };
            assert_eq!(talk_on(devices), talk_on(Box::new(cpu())), "{memory} bytes");
            assert!(told.borrow().len() == 1 && told.borrow()[0].contains("bytes"), "{:?}", told.borrow());
        }
        let Some(gpu) = open(Some(4 << 20)) else { return };
        let error = Chat::from_files(&exact(), None, Box::new(gpu), options()).err().expect("no memory");
        assert!(error.to_string().contains("could not be allocated"), "{error}");
    }
}
