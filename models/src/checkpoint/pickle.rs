//! The little of Python's pickle that names, shapes and places of tensors need, and nothing that could run code.
//!
//! A pickle is a program for a stack machine whose GLOBAL and REDUCE import and call any Python function. This machine
//! knows three functions and ten types of storage by name and calls none: it notes what they would build. Any other
//! name or instruction ends the reading with an error that says so.
//!
//! Items are `Copy`: texts are ranges of the input, containers indices into one list of objects. So sharing, cycles
//! and deep nesting cost nothing to drop, and memory stays within a small multiple of the input, which is bounded too.

use std::{collections::HashMap, ops::Range, path::Path};

use byteorder::{ByteOrder, LittleEndian};

use super::tensor::Element;
use crate::{Error, Result};

/// Longest pickle read, in bytes. A 13B model takes some 70 KB: only names and shapes stand in it.
pub const MAX_BYTES: usize = 8 << 20;
/// Longest name of a tensor or storage in bytes; real ones have under 100.
const MAX_NAME: usize = 1024;
/// Most dimensions of a tensor; a convolution has 4.
const MAX_DIMS: usize = 8;
/// What to do about damage.
const FETCH: &str = "the file is damaged or no checkpoint of weights, fetch or save it again";

/// A tensor as a pickle describes it: a view into a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The key of the storage: the file `data/KEY` of the zip.
    pub storage: &'a str,
    /// The type of the storage's elements.
    pub element: Element,
    /// Elements of the storage.
    pub storage_len: usize,
    /// First element of the tensor in the storage.
    pub offset: usize,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Elements from one index to the next, per dimension.
    pub stride: Vec<usize>,
}

/// A value on the machine's stack.
#[derive(Debug, Clone, Copy)]
enum Item {
    None,
    Bool,
    Float,
    Int(i64),
    /// Range of the input, known to be UTF-8.
    Text(usize, usize),
    Global(Global),
    /// Index into `Machine::objects`.
    Object(usize),
    Mark,
}

/// The functions and types that tensors need.
#[derive(Debug, Clone, Copy)]
enum Global {
    OrderedDict,
    Tensor,
    Parameter,
    Storage(Element),
}

/// What items refer to.
#[derive(Debug)]
enum Object<'a> {
    Tuple(Vec<Item>),
    List,
    Dict(Vec<(Item, Item)>),
    Storage { key: &'a str, element: Element, len: usize },
    Tensor(Box<Stored<'a>>),
}

/// The tensors of the dictionary that `data`, the `data.pkl` of the file at `path`, builds; in its order. Entries that
/// are no tensors are left out. `base` is where `data` begins in the file, for messages.
///
/// # Errors
/// The pickle asks for more than tensors need, is damaged, or is no dictionary.
pub fn tensors<'a>(path: &Path, base: usize, data: &'a [u8]) -> Result<Vec<(&'a str, Stored<'a>)>> {
    if data.len() > MAX_BYTES {
        return Err(Error::malformed(
            path,
            base as u64,
            format!(
                "pickle of {} bytes, weights need less than {MAX_BYTES}; this is no checkpoint of weights",
                data.len()
            ),
        ));
    }
    let mut m = Machine { path, base, data, at: 0, stack: vec![], objects: vec![], memo: HashMap::new() };
    while m.step()? {}
    let top = m.pop()?;
    m.named_tensors(top)
}

struct Machine<'p, 'a> {
    path: &'p Path,
    base: usize,
    data: &'a [u8],
    /// The next instruction.
    at: usize,
    stack: Vec<Item>,
    objects: Vec<Object<'a>>,
    memo: HashMap<u32, Item>,
}

impl<'a> Machine<'_, 'a> {
    fn bad(&self, what: impl AsRef<str>) -> Error {
        Error::malformed(
            self.path,
            (self.base + self.at) as u64,
            format!("pickle: {}; {FETCH}", what.as_ref()),
        )
    }

    fn refuse(&self, what: &str) -> Error {
        Error::unsupported(
            self.path,
            format!(
                "pickle asks for {what}; refused: nothing in a checkpoint may run code. If you trust the \
                    file, load it with Python and save only its tensors with `safetensors.torch.save_file`"
            ),
        )
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.data.len());
        let Some(end) = end else { return Err(self.bad("ends in the middle of an instruction")) };
        let bytes = &self.data[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(LittleEndian::read_u32(self.take(4)?))
    }

    /// Runs one instruction; false at the end.
    fn step(&mut self) -> Result<bool> {
        let op = self.byte()?;
        match op {
            // PROTO and FRAME carry nothing that is needed.
            0x80 => _ = self.byte()?,
            0x95 => _ = self.take(8)?,
            b'.' => return Ok(false),
            b'(' => self.stack.push(Item::Mark),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.pop_mark()?,
            b'N' | 0x88 | 0x89 | b'J' | b'K' | b'M' | 0x8a | b'G' | b'X' | b'T' | 0x8c | b'U' => {
                self.constant(op)?
            }
            b')' | b't' | 0x85..=0x87 | b']' | b'l' | b'a' | b'e' | b'}' | b'd' | b's' | b'u' => {
                self.container(op)?
            }
            b'q' => {
                let key = self.byte()?.into();
                self.put(key)?;
            }
            b'r' => {
                let key = self.u32()?;
                self.put(key)?;
            }
            // A pickle of at most MAX_BYTES memoizes fewer items than u32 counts.
            0x94 => self.put(self.memo.len() as u32)?,
            b'h' => {
                let key = self.byte()?.into();
                self.get(key)?;
            }
            b'j' => {
                let key = self.u32()?;
                self.get(key)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let names = self.pop_n(2)?;
                let (module, name) = (self.str(names[0])?, self.str(names[1])?);
                self.global(module, name)?;
            }
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            op => return Err(self.refuse(&instruction(op))),
        }
        Ok(true)
    }

    /// Pushes a number, a text or the like.
    fn constant(&mut self, op: u8) -> Result<()> {
        let item = match op {
            b'N' => Item::None,
            0x88 | 0x89 => Item::Bool,
            b'J' => Item::Int((self.u32()? as i32).into()),
            b'K' => Item::Int(self.byte()?.into()),
            b'M' => Item::Int(LittleEndian::read_u16(self.take(2)?).into()),
            0x8a => self.long1()?,
            b'G' => {
                self.take(8)?;
                Item::Float
            }
            b'X' | b'T' => {
                let n = self.u32()? as usize;
                self.text(n)?
            }
            _ => {
                let n = self.byte()?.into();
                self.text(n)?
            }
        };
        self.stack.push(item);
        Ok(())
    }

    /// Makes or fills a tuple, list or dictionary.
    fn container(&mut self, op: u8) -> Result<()> {
        match op {
            b')' => self.push(Object::Tuple(vec![])),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Object::Tuple(items));
            }
            0x85..=0x87 => {
                let items = self.pop_n((op - 0x84).into())?;
                self.push(Object::Tuple(items));
            }
            b']' => self.push(Object::List),
            b'l' => {
                self.pop_mark()?;
                self.push(Object::List);
            }
            b'a' => {
                self.pop_n(1)?;
                self.append()?;
            }
            b'e' => {
                self.pop_mark()?;
                self.append()?;
            }
            b'}' => self.push(Object::Dict(vec![])),
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Object::Dict(vec![]));
                self.set_items(items)?;
            }
            b's' => {
                let items = self.pop_n(2)?;
                self.set_items(items)?;
            }
            _ => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, object: Object<'a>) {
        self.stack.push(Item::Object(self.objects.len()));
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<Item> {
        match self.stack.pop() {
            None | Some(Item::Mark) => Err(self.bad("takes a value from an empty stack")),
            Some(item) => Ok(item),
        }
    }

    /// The top `n` items, lowest first.
    fn pop_n(&mut self, n: usize) -> Result<Vec<Item>> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    /// All items above the topmost mark, which goes too.
    fn pop_mark(&mut self) -> Result<Vec<Item>> {
        match self.stack.iter().rposition(|i| matches!(i, Item::Mark)) {
            None => Err(self.bad("has no mark where one is needed")),
            Some(mark) => {
                let items = self.stack.split_off(mark + 1);
                self.stack.pop();
                Ok(items)
            }
        }
    }

    /// LONG1: a little-endian two's complement number of any length, of which 8 bytes are enough.
    fn long1(&mut self) -> Result<Item> {
        let n = self.byte()?.into();
        let bytes = self.take(n)?;
        if n > 8 {
            return Err(self.bad(format!("has an integer of {n} bytes")));
        }
        Ok(Item::Int(if n == 0 { 0 } else { LittleEndian::read_int(bytes, n) }))
    }

    fn text(&mut self, n: usize) -> Result<Item> {
        let bytes = self.take(n)?;
        if std::str::from_utf8(bytes).is_err() {
            return Err(self.bad("has a text that is not UTF-8"));
        }
        Ok(Item::Text(self.at - n, self.at))
    }

    /// A line of text, as GLOBAL has them.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.data[self.at..];
        let Some(n) = rest.iter().take(MAX_NAME).position(|&b| b == b'\n') else {
            return Err(self.bad("has a name without an end"));
        };
        let line = std::str::from_utf8(&rest[..n]).map_err(|_| self.bad("has a name that is not UTF-8"))?;
        self.at += n + 1;
        Ok(line)
    }

    /// The text of `item`, at most [`MAX_NAME`] bytes.
    fn str(&self, item: Item) -> Result<&'a str> {
        match item {
            Item::Text(from, to) if to - from <= MAX_NAME => std::str::from_utf8(&self.data[from..to])
                .map_err(|_| self.bad("has a text that is not UTF-8")),
            Item::Text(..) => Err(self.bad(format!("has a name longer than {MAX_NAME} bytes"))),
            _ => Err(self.bad("has no text where a name is needed")),
        }
    }

    fn index(&self, item: Item) -> Result<usize> {
        match item {
            Item::Int(n) => {
                usize::try_from(n).map_err(|_| self.bad(format!("has the number {n} where a size is needed")))
            }
            _ => Err(self.bad("has no number where a size is needed")),
        }
    }

    fn tuple(&self, item: Item) -> Result<&[Item]> {
        match item {
            Item::Object(i) => match &self.objects[i] {
                Object::Tuple(items) => Ok(items),
                _ => Err(self.bad("has no tuple where one is needed")),
            },
            _ => Err(self.bad("has no tuple where one is needed")),
        }
    }

    /// A tuple of sizes.
    fn sizes(&self, item: Item) -> Result<Vec<usize>> {
        let items = self.tuple(item)?;
        if items.len() > MAX_DIMS {
            return Err(self.bad(format!("has a tensor of {} dimensions", items.len())));
        }
        items.iter().map(|&i| self.index(i)).collect()
    }

    /// APPEND and APPENDS: the list is at the top; what it holds is not needed.
    fn append(&mut self) -> Result<()> {
        match self.stack.last() {
            Some(&Item::Object(i)) if matches!(self.objects[i], Object::List) => Ok(()),
            _ => Err(self.bad("appends to what is no list")),
        }
    }

    /// SETITEM, SETITEMS and DICT: the dictionary is at the top.
    fn set_items(&mut self, items: Vec<Item>) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.stack.last() {
            Some(&Item::Object(i)) if rest.is_empty() => match &mut self.objects[i] {
                Object::Dict(dict) => {
                    dict.extend(pairs.iter().map(|&[k, v]| (k, v)));
                    Ok(())
                }
                _ => Err(self.bad("sets items of what is no dictionary")),
            },
            _ => Err(self.bad("sets items of what is no dictionary")),
        }
    }

    fn put(&mut self, key: u32) -> Result<()> {
        let item = self.pop()?;
        self.stack.push(item);
        self.memo.insert(key, item);
        Ok(())
    }

    fn get(&mut self, key: u32) -> Result<()> {
        let item = self.memo.get(&key).copied();
        let item = item.ok_or_else(|| self.bad(format!("recalls item {key}, which was never stored")))?;
        self.stack.push(item);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let storage = |name: &str| {
            Some(match name {
                "DoubleStorage" => Element::F64,
                "FloatStorage" => Element::F32,
                "HalfStorage" => Element::F16,
                "BFloat16Storage" => Element::BF16,
                "LongStorage" => Element::I64,
                "IntStorage" => Element::I32,
                "ShortStorage" => Element::I16,
                "CharStorage" => Element::I8,
                "ByteStorage" => Element::U8,
                "BoolStorage" => Element::Bool,
                _ => return None,
            })
        };
        let global = match (module, name) {
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Global::Tensor),
            ("torch._utils", "_rebuild_parameter") => Some(Global::Parameter),
            ("torch", name) => storage(name).map(Global::Storage),
            _ => None,
        };
        let global = global
            .ok_or_else(|| self.refuse(&format!("{}.{}", module.escape_debug(), name.escape_debug())))?;
        self.stack.push(Item::Global(global));
        Ok(())
    }

    /// BINPERSID: `("storage", type, key, device, elements)`.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let &[kind, Item::Global(Global::Storage(element)), key, _device, len] = self.tuple(id)? else {
            return Err(self.bad("names a storage in an unknown way"));
        };
        if self.str(kind)? != "storage" {
            return Err(self.bad("names a storage in an unknown way"));
        }
        let (key, len) = (self.str(key)?, self.index(len)?);
        self.push(Object::Storage { key, element, len });
        Ok(())
    }

    /// REDUCE: notes what one of the known functions would build.
    fn reduce(&mut self) -> Result<()> {
        let args = self.pop()?;
        let function = self.pop()?;
        let args = self.tuple(args)?;
        match function {
            Item::Global(Global::OrderedDict) if args.is_empty() => self.push(Object::Dict(vec![])),
            Item::Global(Global::Tensor) => {
                // The rest: requires_grad, backward hooks, and since PyTorch 2.1 metadata; of no use here.
                let &[storage, offset, shape, stride, ..] = args else {
                    return Err(self.bad("builds a tensor of too few parts"));
                };
                let stored = self.stored(storage, offset, shape, stride)?;
                self.push(Object::Tensor(Box::new(stored)));
            }
            Item::Global(Global::Parameter) => match args.first() {
                Some(&tensor @ Item::Object(_)) => self.stack.push(tensor),
                _ => return Err(self.bad("builds a parameter of no tensor")),
            },
            _ => return Err(self.bad("calls what cannot be called")),
        }
        Ok(())
    }

    fn stored(&self, storage: Item, offset: Item, shape: Item, stride: Item) -> Result<Stored<'a>> {
        let Item::Object(i) = storage else { return Err(self.bad("builds a tensor of no storage")) };
        let Object::Storage { key, element, len } = self.objects[i] else {
            return Err(self.bad("builds a tensor of no storage"));
        };
        let (shape, stride) = (self.sizes(shape)?, self.sizes(stride)?);
        if shape.len() != stride.len() {
            return Err(self.bad(format!("builds a tensor of shape {shape:?} with strides {stride:?}")));
        }
        Ok(Stored { storage: key, element, storage_len: len, offset: self.index(offset)?, shape, stride })
    }

    /// BUILD: sets attributes. A state dict carries one, `_metadata`, which is of no use here.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.stack.last() {
            Some(&Item::Object(i)) if matches!(self.objects[i], Object::Dict(_)) => Ok(()),
            _ => Err(self.bad("sets attributes of what is no dictionary")),
        }
    }

    /// The tensors of the dictionary `top`; of a key that stands twice the last, in the place of the first.
    fn named_tensors(&self, top: Item) -> Result<Vec<(&'a str, Stored<'a>)>> {
        let dict = match top {
            Item::Object(i) => match &self.objects[i] {
                Object::Dict(dict) => dict,
                _ => return Err(self.bad("holds no dictionary of tensors")),
            },
            _ => return Err(self.bad("holds no dictionary of tensors")),
        };
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut tensors: Vec<(&str, Stored<'_>)> = Vec::new();
        for &(key, value) in dict {
            let Item::Object(i) = value else { continue };
            let Object::Tensor(stored) = &self.objects[i] else { continue };
            let name = self.str(key)?;
            match places.get(name) {
                Some(&at) => tensors[at].1 = (**stored).clone(),
                None => {
                    places.insert(name, tensors.len());
                    tensors.push((name, (**stored).clone()));
                }
            }
        }
        Ok(tensors)
    }
}

/// An instruction that is refused, in words.
fn instruction(op: u8) -> String {
    let name = match op {
        b'i' => "INST (makes an object of any class)",
        b'o' => "OBJ (makes an object of any class)",
        0x81 => "NEWOBJ (makes an object of any class)",
        0x92 => "NEWOBJ_EX (makes an object of any class)",
        0x82..=0x84 => "EXT (calls a registered function)",
        b'P' => "PERSID",
        b'B' | b'C' | 0x8e | 0x96 => "raw bytes",
        b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' => "a text-mode (protocol 0) instruction",
        0x8f..=0x91 => "a set",
        _ => "an unknown instruction",
    };
    format!("instruction 0x{op:02x}, {name}")
}

impl Stored<'_> {
    /// The tensor's bytes within its storage if its elements lie in row-major order without gaps.
    pub fn contiguous(&self) -> Option<Range<usize>> {
        let mut expected = 1usize;
        for (&n, &stride) in self.shape.iter().zip(&self.stride).rev() {
            // The stride of a dimension of one element is never used; PyTorch leaves anything there.
            if n != 1 && stride != expected {
                return None;
            }
            expected = expected.checked_mul(n)?;
        }
        let size = self.element.bytes()?;
        let end = self.offset.checked_add(expected)?;
        Some(self.offset.checked_mul(size)?..end.checked_mul(size)?)
    }
}
