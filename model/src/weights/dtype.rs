//! Element types as files name them, and their way into f32. Wider than the engine's: a file may hold types that no
//! kernel computes with, and they must be sized correctly even if only to be refused by name.

use half::slice::HalfFloatSliceExt;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Anything else: it can be listed, not read as weights.
    Other {
        /// The name in the style of safetensors (`I64`, `F64`, `BOOL`, …).
        name: &'static str,
        /// Bytes of an element.
        bytes: usize,
    },
}

impl FileDtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            FileDtype::F32 => 4,
            FileDtype::F16 | FileDtype::Bf16 => 2,
            FileDtype::Other { bytes, .. } => bytes,
        }
    }

    /// The name that safetensors gives it.
    pub fn name(self) -> &'static str {
        match self {
            FileDtype::F32 => "F32",
            FileDtype::F16 => "F16",
            FileDtype::Bf16 => "BF16",
            FileDtype::Other { name, .. } => name,
        }
    }

    /// The type that safetensors calls `name`.
    pub(super) fn from_safetensors(name: &str) -> Option<FileDtype> {
        let other = |name, bytes| Some(FileDtype::Other { name, bytes });
        match name {
            "F32" => Some(FileDtype::F32),
            "F16" => Some(FileDtype::F16),
            "BF16" => Some(FileDtype::Bf16),
            "F64" => other("F64", 8),
            "I64" => other("I64", 8),
            "U64" => other("U64", 8),
            "I32" => other("I32", 4),
            "U32" => other("U32", 4),
            "I16" => other("I16", 2),
            "U16" => other("U16", 2),
            "I8" => other("I8", 1),
            "U8" => other("U8", 1),
            "BOOL" => other("BOOL", 1),
            "F8_E4M3" => other("F8_E4M3", 1),
            "F8_E5M2" => other("F8_E5M2", 1),
            _ => None,
        }
    }

    /// The type of the storage class `torch.{name}`.
    pub(super) fn from_torch_storage(name: &str) -> Option<FileDtype> {
        FileDtype::from_safetensors(match name {
            "FloatStorage" => "F32",
            "HalfStorage" => "F16",
            "BFloat16Storage" => "BF16",
            "DoubleStorage" => "F64",
            "LongStorage" => "I64",
            "IntStorage" => "I32",
            "ShortStorage" => "I16",
            "CharStorage" => "I8",
            "ByteStorage" => "U8",
            "BoolStorage" => "BOOL",
            _ => return None,
        })
    }

    /// Widens little-endian elements to f32, exactly. `None` if this type is no weight type.
    /// `bytes` holds as many elements as `out`.
    pub(super) fn widen(self, bytes: &[u8], out: &mut [f32]) -> Option<()> {
        debug_assert_eq!(bytes.len(), out.len() * self.bytes());
        match self {
            FileDtype::F32 => {
                for (value, element) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*element);
                }
            }
            FileDtype::F16 => widen_chunks(bytes, out, half::f16::from_le_bytes, |chunk, out| {
                chunk.convert_to_f32_slice(out);
            }),
            FileDtype::Bf16 => widen_chunks(bytes, out, half::bf16::from_le_bytes, |chunk, out| {
                chunk.convert_to_f32_slice(out);
            }),
            FileDtype::Other { .. } => return None,
        }
        Some(())
    }

    /// Rounds f32 values to this type (to nearest even) as little-endian bytes in `out`, whose old content goes.
    /// `None` unless F32 or BF16.
    pub(super) fn narrow(self, values: &[f32], out: &mut Vec<u8>) -> Option<()> {
        out.resize(values.len() * self.bytes(), 0);
        match self {
            FileDtype::F32 => {
                for (element, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *element = value.to_le_bytes();
                }
            }
            FileDtype::Bf16 => {
                for (element, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    *element = half::bf16::from_f32(*value).to_le_bytes();
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// Goes through a small buffer, since the file's bytes need not be aligned.
fn widen_chunks<T: Copy + Default>(
    bytes: &[u8],
    out: &mut [f32],
    from_le_bytes: fn([u8; 2]) -> T,
    convert: impl Fn(&[T], &mut [f32]),
) {
    const CHUNK: usize = 256;
    let mut buffer = [T::default(); CHUNK];
    for (bytes, out) in bytes.chunks(2 * CHUNK).zip(out.chunks_mut(CHUNK)) {
        for (element, pair) in buffer.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *element = from_le_bytes(*pair);
        }
        convert(&buffer[..out.len()], out);
    }
}
