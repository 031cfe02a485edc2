//! What a split does when a device fails, where ops run, and what is told of the two.

use super::*;
use crate::{Count, Cpu, CpuOptions, Isa, Timed, count::Work};

fn cpu() -> Cpu {
    Cpu::new(CpuOptions { threads: 1, isa: Some(Isa::Scalar) })
}

/// A CPU whose reads fail from some moment on, and that says of each op that it took a second.
struct Frail {
    cpu: Cpu,
    lost: bool,
    ops: Vec<Op>,
}

impl Frail {
    fn new() -> Self {
        Self { cpu: cpu(), lost: false, ops: Vec::new() }
    }

    fn well(&self) -> Result<()> {
        let lost = || Error::DeviceLost { device: "frail".into(), what: "pulled out".into() };
        if self.lost { Err(lost()) } else { Ok(()) }
    }

    fn relay(&mut self, op: Op, _: Tensor, _: &[Tensor], call: Call<'_>) {
        self.ops.push(op);
        if !self.lost {
            call(&mut self.cpu, &|t| t);
        }
    }
}

impl Backend for Frail {
    fn name(&self) -> String {
        "frail".into()
    }
    fn load(&mut self, bytes: Bytes, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.well()?;
        self.cpu.load(bytes, rows, cols, dtype)
    }
    fn alloc(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        self.well()?;
        self.cpu.alloc(rows, cols, dtype)
    }
    fn write(&mut self, dst: Tensor, src: &[u8]) {
        self.cpu.write(dst, src);
    }
    fn read(&mut self, dst: &mut [f32], src: Tensor) -> Result<()> {
        self.well()?;
        self.cpu.read(dst, src)
    }
    fn device_times(&mut self) -> Option<Vec<(Op, Duration)>> {
        Some(self.ops.drain(..).map(|op| (op, Duration::from_secs(1))).collect())
    }
    relay_ops!();
}

fn share(layers: usize, of: usize) -> Share {
    Share { layers, of, tied: false }
}

/// A square weight of ones in layer `i`.
fn weight(b: &mut dyn Backend, i: Option<usize>) -> Tensor {
    b.layer(i);
    let ones = vec![1f32; 64];
    let w = b.load(Bytes::new(bytemuck::cast_slice::<f32, u8>(&ones).to_vec()), 8, 8, DType::F32).unwrap();
    b.layer(None);
    w
}

/// Four rows of `value`.
fn rows(b: &mut dyn Backend, value: f32) -> Tensor {
    let t = b.alloc(4, 8, DType::F32).unwrap();
    b.write(t, bytemuck::cast_slice(&[value; 32]));
    t
}

#[test]
fn a_move_that_fails_is_told_by_the_next_call_that_can_fail() {
    for call in ["read", "load", "alloc"] {
        let mut b = Split::new(Frail::new(), cpu(), share(1, 2));
        let (w0, w1) = (weight(&mut b, Some(0)), weight(&mut b, Some(1)));
        let (x, y) = (rows(&mut b, 1.0), rows(&mut b, 0.0));
        b.matmul(y, x, w0, None);
        b.a.lost = true;
        b.matmul(x, y, w1, None); // must fetch y
        b.gelu(x, Gelu::Quick);
        let error = match call {
            "read" => b.read(&mut [0.0; 32], x).unwrap_err(),
            "load" => b.load(Bytes::new(vec![0; 32]), 1, 8, DType::F32).unwrap_err(),
            _ => b.alloc(1, 8, DType::F32).unwrap_err(),
        };
        assert!(matches!(error, Error::DeviceLost { .. }), "{call}: {error}");
        // Told once; and nothing was computed of rows that never came.
        b.a.lost = false;
        let mut out = [9.0; 32];
        b.read(&mut out, x).unwrap();
        assert_eq!(out, [1.0; 32], "{call}");
    }
}

#[test]
fn what_belongs_to_no_layer_goes_where_it_saves_most() {
    // (layers on A of 2, tied): where the table, and where the output is.
    for (layers, tied, table, output) in [
        (0, false, Side::B, Side::B),
        (1, false, Side::B, Side::B),
        (2, false, Side::B, Side::A),
        (9, false, Side::B, Side::A),
        (1, true, Side::B, Side::B),
        (2, true, Side::A, Side::A),
    ] {
        let mut b = Split::new(cpu(), cpu(), Share { layers, of: 2, tied });
        let homes = [None, Some(0), Some(1), None].map(|layer| weight(&mut b, layer));
        let sides = homes.map(|t| match b.homes[t.buffer as usize] {
            Home::One(side, _) => side,
            Home::Both(..) => panic!("a weight on both devices"),
        });
        let (first, second) = (b.of_layer(0), b.of_layer(1));
        assert_eq!(sides, [table, first, second, output], "{layers} of 2, tied: {tied}");
        assert_eq!((first == Side::A, second == Side::A), (layers > 0, layers > 1));
    }
}

#[test]
fn nothing_lies_on_a_device_without_layers() {
    let mut b = Split::new(Frail::new(), cpu(), share(0, 2));
    b.a.lost = true; // any use of it fails
    let w = weight(&mut b, Some(0));
    let (x, y) = (rows(&mut b, 1.0), rows(&mut b, 0.0));
    b.matmul(y, x, w, None);
    b.add(y, x);
    let mut out = [0.0; 32];
    b.read(&mut out, y).unwrap();
    assert_eq!(out, [9.0; 32]);
    assert!(b.a.ops.is_empty());
}

#[test]
fn only_rows_that_are_older_are_moved() {
    let mut b = Split::new(Count::new(cpu()), Count::new(cpu()), share(1, 2));
    let (w0, w1) = (weight(&mut b, Some(0)), weight(&mut b, Some(1)));
    let (x, y) = (rows(&mut b, 1.0), rows(&mut b, 0.0));
    let moved = |b: &Split<Count<Cpu>, Count<Cpu>>| {
        let calls = |work: Work| (work.calls, work.bytes / 32);
        (calls(b.a.of(Op::Read)), calls(b.b.of(Op::Read)))
    };
    // x was written to A: a single row of it is fetched, then the rows around it, in two runs.
    b.matmul(y.rows(1, 1), x.rows(1, 1), w1, None);
    assert_eq!(moved(&b), ((1, 1), (0, 0)));
    b.matmul(y, x, w1, None);
    assert_eq!(moved(&b), ((3, 4), (0, 0)));
    b.matmul(y, x, w1, None);
    assert_eq!(moved(&b), ((3, 4), (0, 0)), "both have it now");
    // In place where most of it lies: one row of y on A, three on B.
    b.matmul(y.rows(0, 1), x.rows(0, 1), w0, None);
    b.gelu(y, Gelu::Quick);
    assert_eq!(moved(&b), ((4, 5), (0, 0)));
    let mut out = [0.0; 32];
    b.read(&mut out, y).unwrap();
    assert!(out.iter().all(|v| *v == out[0]) && out[0] > 7.9, "{out:?}");
}

#[test]
fn times_of_both_devices() {
    let mut b = Split::new(cpu(), cpu(), share(1, 2));
    assert_eq!(b.device_times(), None, "calls are timed as well from outside");
    let mut b = Timed::new(Split::new(Frail::new(), cpu(), share(1, 2)));
    assert_eq!(b.name(), "frail, 1 of 2 layers + cpu (scalar, 1 thread)");
    let (w0, w1) = (weight(&mut b, Some(0)), weight(&mut b, Some(1)));
    let (x, y) = (rows(&mut b, 1.0), rows(&mut b, 0.0));
    b.matmul(y, x, w0, None);
    b.rms_norm(x, y, w1.rows(0, 1), 1e-5);
    b.read(&mut [0.0; 32], x).unwrap();
    assert_eq!(b.of(Op::Matmul).0, Duration::from_secs(1));
    let norm = b.of(Op::RmsNorm).0;
    assert!(norm > Duration::ZERO && norm < Duration::from_secs(1), "{norm:?}");
}
