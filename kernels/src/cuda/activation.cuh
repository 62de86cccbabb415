// GELU, exact (x times the normal distribution function) or as x sigmoid(1.702 x), and their derivatives. The
// approximations are those of the CPU path, so that both devices agree to a few ulp.

enum Activation { GELU = 0, QUICK_GELU = 1 };

// The error function, absolute error below 5e-7: a rational minimax in x^2, saturated at |x| = 4.
DEVICE float error_function(float x) {
    const float bounded = fminf(fmaxf(x, -4.0f), 4.0f);
    const float s = bounded * bounded;
    float p = fmaf(s, -2.7261423e-10f, 2.7706814e-8f);
    p = fmaf(p, s, -2.101024e-6f);
    p = fmaf(p, s, -5.6925064e-5f);
    p = fmaf(p, s, -7.3499063e-4f);
    p = fmaf(p, s, -2.9546e-3f);
    p = fmaf(p, s, -1.6096033e-2f);
    float q = fmaf(s, -1.4566072e-5f, -2.1337406e-4f);
    q = fmaf(q, s, -1.682827e-3f);
    q = fmaf(q, s, -7.373329e-3f);
    q = fmaf(q, s, -1.4264739e-2f);
    return bounded * p * reciprocal(q);
}

DEVICE float sigmoid(float x) {
    // Bounded, so that the exponential stays finite and its reciprocal is not flushed to zero times infinity.
    const float bounded = fminf(fmaxf(x, -80.0f), 80.0f);
    return reciprocal(1.0f + power_of_two(-LOG2_E * bounded));
}

template <int KIND> DEVICE float activation(float x) {
    if constexpr (KIND == GELU) {
        return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
    } else {
        return x * sigmoid(1.702f * x);
    }
}

template <int KIND> DEVICE float activation_derivative(float x) {
    if constexpr (KIND == GELU) {
        // 1/2 and an odd rational minimax in x^2, saturated at |x| = 5.7: absolute error below 4e-7.
        const float bounded = fminf(fmaxf(x, -5.7f), 5.7f);
        const float s = bounded * bounded;
        float p = fmaf(s, 1.7649886e-10f, 1.475088e-7f);
        p = fmaf(p, s, 3.4374545e-5f);
        p = fmaf(p, s, 3.0647168e-6f);
        p = fmaf(p, s, 1.419566e-2f);
        p = fmaf(p, s, -3.226335e-2f);
        p = fmaf(p, s, 7.978851e-1f);
        float q = fmaf(s, 8.069825e-6f, 1.8506372e-4f);
        q = fmaf(q, s, 3.426907e-3f);
        q = fmaf(q, s, 4.0412106e-2f);
        q = fmaf(q, s, 2.9290295e-1f);
        q = fmaf(q, s, 1.0f);
        return fmaf(bounded * p, reciprocal(q), 0.5f);
    } else {
        const float s = sigmoid(1.702f * x);
        return fmaf(1.702f * x * s, 1.0f - s, s);
    }
}
