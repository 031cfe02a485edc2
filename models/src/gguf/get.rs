//! Typed access to a file's keys and tensors, with errors that name the key, the type found and the type wanted.
//!
//! `x(key)` gives `Ok(None)` where the key is absent and an error where it has another type; `need_x(key)` makes
//! absence an error too. A number of any integer type that fits is taken for the one asked for.

use pumice_kernels::{Bytes, DType};

use super::{Array, File, TensorInfo, Value, types::type_name};
use crate::{Error, Result};

impl File {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.key_index.get(key).map(|&i| &self.keys[i].1)
    }

    /// All keys, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// All tensors, in the file's order, shards one after the other.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor `name`, whatever its type.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensor_index.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor `name`; its `dtype` is certain to be there.
    ///
    /// # Errors
    /// No such tensor, or one of a type that Pumice does not compute with.
    pub fn need_tensor(&self, name: &str) -> Result<&TensorInfo> {
        let t = self.tensor(name).ok_or_else(|| {
            Error::tensor(
                &self.path,
                name,
                "missing; the file is for another kind of model or was made incompletely",
            )
        })?;
        self.dtype(t)?;
        Ok(t)
    }

    /// The element type of `t`, a tensor of this file.
    ///
    /// # Errors
    /// Pumice does not compute with the type.
    pub fn dtype(&self, t: &TensorInfo) -> Result<DType> {
        t.dtype.ok_or_else(|| {
            let names: Vec<&str> = DType::ALL.iter().map(|t| t.name()).collect();
            Error::tensor(
                self.path_of(t),
                &t.name,
                format!(
                    "has element type {}, which Pumice does not read; get or make a file in one of {} \
                        (for instance `pumice quantize CHECKPOINT Q4_K_M`)",
                    type_name(t.ggml_type),
                    names.join(", ")
                ),
            )
        })
    }

    /// The bytes of `t`, a tensor of this file: a range of the map, aligned to at least 8. Empty where the size of its
    /// type is unknown.
    pub fn bytes(&self, t: &TensorInfo) -> Bytes {
        // Checked at opening; an info of another file gives no panic but nothing.
        let part =
            self.parts.get(t.part).and_then(|p| p.data.slice(t.start..t.start.saturating_add(t.bytes)));
        part.unwrap_or_else(|| Bytes::new(Vec::new()))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(v) => Ok(Some(v)),
            None => Err(Error::key(
                &self.path,
                key,
                format!(
                    "is {} where {wanted} is needed; the file was made wrongly, get or make another",
                    describe(value)
                ),
            )),
        }
    }

    fn need<T>(&self, key: &str, wanted: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            Error::key(
                &self.path,
                key,
                format!("missing ({wanted}); the file is for another kind of model or was made incompletely"),
            )
        })
    }
}

/// A value in few words, for messages.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(a) => format!("an {} of {}", value.type_name(), a.len()),
        Value::String(s) => format!("the str {:?}", s.chars().take(40).collect::<String>()),
        other => format!("the {} {}", other.type_name(), other.as_float().unwrap_or_default()),
    }
}

/// `name` and `need_name` for one type.
macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident / $need:ident -> $out:ty, $wanted:literal, $convert:expr;)*) => {
        impl File {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// The key has another type, or its number does not fit.
            pub fn $name(&self, key: &str) -> Result<Option<$out>> {
                self.typed(key, $wanted, $convert)
            }

            $(#[$doc])*
            ///
            /// # Errors
            /// The key is absent, has another type, or its number does not fit.
            pub fn $need(&self, key: &str) -> Result<$out> {
                let value = self.$name(key)?;
                self.need(key, $wanted, value)
            }
        )*}
    };
}

getters! {
    /// A string.
    str / need_str -> &str, "a str", Value::as_str;
    /// A bool.
    bool / need_bool -> bool, "a bool", Value::as_bool;
    /// An integer of any type that fits in u32.
    u32 / need_u32 -> u32, "an integer from 0 to 4294967295 (u32)", |v| v.as_integer()?.try_into().ok();
    /// An integer of any type that fits in i32.
    i32 / need_i32 -> i32, "an integer (i32)", |v| v.as_integer()?.try_into().ok();
    /// An integer of any type that fits in u64.
    u64 / need_u64 -> u64, "a non-negative integer (u64)", |v| v.as_integer()?.try_into().ok();
    /// A count or length: an integer of any type that fits in u32, so that sums of a few never overflow.
    usize / need_usize -> usize, "an integer from 0 to 4294967295 (u32)",
        |v| u32::try_from(v.as_integer()?).ok()?.try_into().ok();
    /// A float (f64 is rounded) or an integer.
    f32 / need_f32 -> f32, "a number (f32)", |v| v.as_float().map(|x| x as f32);
    /// An array of strings.
    strings / need_strings -> &[String], "an arr[str]", |v| v.as_array()?.strings();
    /// An array of floats or integers.
    floats / need_floats -> Vec<f32>, "an arr[f32]", |v| v.as_array()?.floats();
    /// An array of integers.
    integers / need_integers -> Vec<i64>, "an arr of integers", |v| v.as_array()?.integers();
    /// An array of any type.
    array / need_array -> &Array, "an arr", Value::as_array;
}
