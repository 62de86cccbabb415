//! Storage types of tensors, and the Rust types that hold them.

use half::bf16;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// Signed 32-bit integers: token ids, row offsets.
    I32,
    /// Bytes: raw images, scratch.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::BF16 => 2,
            DType::U8 => 1,
        }
    }

    /// True for the types that carry gradients.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::BF16)
    }

    /// Distance between 1 and the next value; 0 for integers. The base of every test tolerance.
    pub const fn epsilon(self) -> f64 {
        match self {
            DType::F32 => f32::EPSILON as f64,
            DType::BF16 => 1.0 / 128.0,
            DType::I32 | DType::U8 => 0.0,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::U8 => "u8",
        })
    }
}

/// A Rust type that is the storage of one [`DType`].
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + fmt::Debug {
    /// The matching storage type.
    const DTYPE: DType;
    /// Nearest value of this type (round to nearest even for bf16, truncation for integers).
    fn from_f64(value: f64) -> Self;
    /// Exact value.
    fn to_f64(self) -> f64;
}

macro_rules! element {
    ($ty:ty, $dtype:ident, $from:expr, $to:expr) => {
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            fn from_f64(value: f64) -> Self {
                ($from)(value)
            }
            fn to_f64(self) -> f64 {
                ($to)(self)
            }
        }
    };
}

element!(f32, F32, |v| v as f32, |v: f32| v as f64);
element!(bf16, BF16, |v| bf16::from_f32(v as f32), |v: bf16| v.to_f32() as f64);
element!(i32, I32, |v| v as i32, |v: i32| v as f64);
element!(u8, U8, |v| v as u8, |v: u8| v as f64);
