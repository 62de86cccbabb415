//! The `.approx` functions. The hardware's tables are not public; these are the correctly rounded values or within one
//! unit in the last place of them, which lies inside the error that the PTX manual allows. Tests that compare with a
//! kernel's output must allow the manual's error.

/// `ex2.approx`: 2 to the power of x.
pub fn exp2(x: f32) -> f32 {
    x.exp2()
}

/// `lg2.approx`.
pub fn log2(x: f32) -> f32 {
    x.log2()
}

/// `rsqrt.approx`.
pub fn inverse_sqrt(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

/// `sin.approx`.
pub fn sin(x: f32) -> f32 {
    x.sin()
}

/// `cos.approx`.
pub fn cos(x: f32) -> f32 {
    x.cos()
}

/// `tanh.approx`; the hardware promises a relative error of 2^-11 only.
pub fn tanh(x: f32) -> f32 {
    x.tanh()
}
