//! A chat whose device fails goes on with another one, and nobody can tell from its words.
//!
//! The device that fails is the CPU behind a counter of the calls that may fail. Weights are of 8 bits, whose products are the same for
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

/// The CPU as long as it works.
struct Failing {
    cpu: Cpu,
    when: When,
    /// Loads and allocations, and readings so far.
    calls: Arc<[AtomicUsize; 2]>,
    failed: bool,
}

impl Failing {
    fn new(when: When) -> (Self, Arc<[AtomicUsize; 2]>) {
        let calls = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        (Self { cpu: cpu(), when, calls: Arc::clone(&calls), failed: false }, calls)
    }

    /// Counts a call that may fail, and fails where it is time.
    fn check(&mut self, read: bool) -> Result<()> {
        let now = self.calls[usize::from(read)].fetch_add(1, SeqCst);
        let fails = match self.when {
            When::Memory(n) => self.failed || (!read && now == n),
            When::Read(n) => self.failed || (read && now == n),
            When::ReadOnce(n) => read && now == n,
        };
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

    /// The CPU for an op; none after the failure.
    fn op(&mut self) -> Option<&mut Cpu> {
        (!self.failed || matches!(self.when, When::ReadOnce(_))).then_some(&mut self.cpu)
    }
}

impl Backend for Failing {
    fn name(&self) -> String {
        "a failing device".into()
    }
    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.check(false)?;
        self.cpu.load(bytes, rows, cols, dtype)
    }
    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.check(false)?;
        self.cpu.alloc(rows, cols, dtype)
    }
    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        self.check(true)?;
        self.cpu.read(dst, src)
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
