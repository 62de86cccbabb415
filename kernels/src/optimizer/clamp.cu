// One number is brought within limits, and its bf16 copy (or null) with it; NaN stays.
//
// No constants. One thread: what it saves is a wait of the host for the update.

extern "C" __global__ void clamp(float* value, bf16* copy, float low, float high) {
    const float before = *value, after = before < low ? low : before > high ? high : before;
    *value = after;
    if (copy) *copy = narrow<bf16>(after);
}
