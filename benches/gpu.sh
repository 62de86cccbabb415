#!/usr/bin/env bash
# Proves and measures everything on a machine with a GPU, from binaries that were built elsewhere: the machine needs NVIDIA's
# driver, NVRTC (of the CUDA toolkit or of a Python with torch), and for the comparisons that Python with torch and open_clip.
#
#   benches/gpu.sh pack DIR                 builds here, and copies binaries and this script to DIR (at most 64 MiB)
#   DIR/gpu.sh [--out DIR] [--python PYTHON] [--golden DIR] [--only NAME,...] [--anyway]
#   benches/gpu.sh --dry-run                lists the stages
#
# --bin DIR     where the binaries are; without it, beside this script
# --out DIR     results.jsonl, a line a stage with device, driver, clocks, commit and date; a log a stage; all other files
# --python      an interpreter with torch and open_clip_torch; without it python3
# --golden DIR  what GPUs answered before, a file a compute capability; written the first time, then compared bit by bit
# --only        these stages alone
# --anyway      without a GPU too: every stage then says that there is none
#
# A stage that fails or takes too long does not keep the next from running. Exit code: 0 if all passed, 1 if one did not, 2
# without a GPU.
set -euo pipefail

self=$(readlink -f "${BASH_SOURCE[0]}")
here=$(dirname "$self")

# Name, limit in seconds, what it does.
STAGES=(
    "doctor 60 what the machine offers"
    "conformance 300 every instruction that kernels use against its definition and the golden file"
    "ops 1200 every op's cases, fixed and random, on fresh values, against the f64 reference"
    "memcheck 1200 the same fixed cases under compute-sanitizer's memcheck"
    "racecheck 1200 the same fixed cases under compute-sanitizer's racecheck"
    "compare 600 steps of a small model on CPU and GPU side by side"
    "train 1200 200 steps on the bundled data on CPU and GPU, losses compared"
    "ceilings 120 copy rate, multiply-add rates, one large product"
    "bench 2400 every op beside the ceilings and torch"
    "optimizer 300 passes over parameter arenas beside torch's fused AdamW"
    "step_b32 300 training step of coca_ViT-B-32 in bf16 beside open_clip"
    "step_l14 300 training step of coca_ViT-L-14 in bf16 beside open_clip"
    "compile_b32 1200 the same beside open_clip with torch.compile, whose first step takes minutes"
    "compile_l14 1200 the same for coca_ViT-L-14"
    "batch_b32 600 largest batch of coca_ViT-B-32: by plan, then by doubling"
    "batch_l14 600 largest batch of coca_ViT-L-14: by plan, then by doubling"
)
BINARIES=(coca step optimizer kernels-gpu instructions)

# ---- stages ------------------------------------------------------------------------------------------------------------

# Of the GPU what the pattern takes out of the line that `coca doctor` has for it: `NAME, compute capability 9.0, 80.0 GiB`.
of_gpu() {
    sed -n 's/^GPU   *//p' "$OUT/machine.txt" | head -n 1 | sed -nE "s/$1/\\1/p"
}

stage_doctor() {
    "$BIN/coca" doctor
}

stage_conformance() {
    mkdir -p "$GOLDEN"
    local capability
    capability=$(of_gpu '.*compute capability ([0-9.]+).*')
    CI=true COCA_REQUIRE_GPU=1 COCA_GOLDEN="$GOLDEN/sm_${capability/./}.tsv" \
        "$BIN/instructions" --exact a_gpu_says_the_same --nocapture
}

# Runs a test of the cases in several processes, each with its share of them; fails if one of them does.
in_shards() {
    local of part process processes=() failed=0
    of=$(($(nproc) < 12 ? $(nproc) : 12))
    for ((part = 0; part < of; part++)); do
        COCA_SHARD=$part/$of COCA_REQUIRE_GPU=1 "$@" &
        processes+=($!)
    done
    for process in "${processes[@]}"; do
        wait "$process" || failed=1
    done
    return $failed
}

stage_ops() {
    COCA_SEED=$(date +%s) in_shards "$BIN/kernels-gpu" --nocapture
}

sanitize() {
    if ! command -v compute-sanitizer >/dev/null; then
        echo "compute-sanitizer is not found: it comes with the CUDA toolkit."
        return 77
    fi
    # A kernel's parameters are asked for until the driver knows no further one: that answer is no error of ours.
    in_shards compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9 "$BIN/kernels-gpu" --exact every_case --nocapture
}

stage_memcheck() {
    sanitize memcheck
}

stage_racecheck() {
    sanitize racecheck
}

small_config() {
    "$BIN/coca" config --plain --set batch.size=16 --set logging.report=false --set schedule.steps=200 >"$OUT/small.toml"
}

stage_compare() {
    small_config
    "$BIN/coca" compare-devices "$OUT/small.toml" --steps 5
}

stage_train() {
    small_config
    for device in cuda cpu; do
        rm -rf "$OUT/train-$device"
        "$BIN/coca" train "$OUT/small.toml" --set "compute.device=$device" --out "$OUT/train-$device"
    done
    "$PYTHON" - "$OUT/train-cuda/metrics.jsonl" "$OUT/train-cpu/metrics.jsonl" <<'END'
import json
import sys

gpu, cpu = ([json.loads(line)["loss"] for line in open(path)] for path in sys.argv[1:])
mean = lambda losses: sum(losses) / len(losses)
first, last = abs(gpu[0] / cpu[0] - 1), abs(mean(gpu[-50:]) / mean(cpu[-50:]) - 1)
print(f"{len(gpu)} and {len(cpu)} steps; the first losses differ by {first:.1e}, the means of the last 50 by {last:.1e}")
# The same numbers in another order of summation first; then two runs of one recipe, which part as rounding makes them.
sys.exit(len(gpu) != len(cpu) or first > 1e-4 or last > 0.02)
END
}

stage_ceilings() {
    "$BIN/coca" bench matmul_nt --device cuda --dtype bf16 --shapes M=8192,N=8192,K=8192 --json "$OUT/ceilings.json"
}

stage_bench() {
    "$BIN/coca" bench --device cuda --peers --python "$PYTHON" --json "$OUT/bench.json" --html "$OUT/bench.html"
}

stage_optimizer() {
    "$BIN/optimizer" --device cuda --python "$PYTHON"
}

step() {
    "$BIN/step" --device cuda --dtype bf16 --json "$OUT/steps.jsonl" "$@"
}

step_b32() {
    step --preset coca_ViT-B-32 --batch 256 --rounds 12 --python "$PYTHON" "$@"
}

step_l14() {
    step --preset coca_ViT-L-14 --batch 64 --rounds 12 --python "$PYTHON" "$@"
}

stage_step_b32() {
    step_b32 --peers eager --profile "$OUT/step_b32.jsonl"
}

stage_step_l14() {
    step_l14 --peers eager --profile "$OUT/step_l14.jsonl"
}

stage_compile_b32() {
    step_b32 --peers compile
}

stage_compile_l14() {
    step_l14 --peers compile
}

# Ours alone, for both do not fit beside each other.
largest_batch() {
    local memory batch
    memory=$(of_gpu '.*, ([0-9.]+ GiB)$')
    [[ -n $memory ]] || fail "$(of_gpu 'none: (.*)')"
    "$BIN/coca" plan --set "model.preset=$1" --set model.tokenizer=clip --set data.train=none --set compute.dtype=bf16 \
        --memory "$memory" | grep -E 'on a GPU|largest batch'
    for ((batch = $2; ; batch *= 2)); do
        step --preset "$1" --batch "$batch" --rounds 6 || break
    done
    # The first of them must have passed.
    ((batch > $2))
}

stage_batch_b32() {
    largest_batch coca_ViT-B-32 128
}

stage_batch_l14() {
    largest_batch coca_ViT-L-14 16
}

# ---- around them -------------------------------------------------------------------------------------------------------

fail() {
    echo "gpu.sh: $1" >&2
    exit "${2:-1}"
}

# Text as a string of JSON.
json_string() {
    printf '"%s"' "$(printf '%s' "$1" | tr '\n\t\r' '   ' | sed 's/[\\"]/\\&/g')"
}

# The last line of a stage's log that says something.
said() {
    grep . "$OUT/$1.log" | tail -n 1 || true
}

smi() {
    nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1 || true
}

# A line of results.jsonl: stage, outcome, exit code, seconds, last line of the log.
record() {
    local commit nvrtc
    commit=$(cat "$BIN/commit" 2>/dev/null || true)
    nvrtc=$(sed -n 's/^NVRTC  *//p' "$OUT/machine.txt")
    {
        printf '{"stage": %s, "outcome": %s, "exit": %s, "seconds": %s' \
            "$(json_string "$1")" "$(json_string "$2")" "$3" "$4"
        printf ', "said": %s' "$(json_string "$(said "$1")")"
        printf ', "device": %s, "driver": %s' "$(json_string "$(of_gpu '(.*)')")" "$(json_string "$(smi driver_version)")"
        printf ', "clocks": %s' "$(json_string "$(smi clocks.sm,clocks.mem,power.draw,temperature.gpu)")"
        printf ', "nvrtc": %s, "commit": %s' "$(json_string "$nvrtc")" "$(json_string "$commit")"
        printf ', "date": "%s"}\n' "$(date -u +%FT%TZ)"
    } >>"$OUT/results.jsonl"
}

# NVRTC of the interpreter's packages, where nothing else is said.
find_nvrtc() {
    "$PYTHON" -c '
import os, sys
for folder in (os.path.join(path, inner) for path in sys.path for inner in ("nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib")):
    if os.path.isdir(folder):
        print(folder)
        break
' 2>/dev/null || true
}

run_all() {
    local entry name limit about started status outcome failed=0
    for entry in "${STAGES[@]}"; do
        read -r name limit about <<<"$entry"
        if [[ -n $only && ",$only," != *",$name,"* ]]; then
            continue
        fi
        if $dry_run; then
            printf '%-12s %5s s  %s\n' "$name" "$limit" "$about"
            continue
        fi
        started=$SECONDS
        status=0
        timeout -k 20 "$limit" bash "$self" stage "$name" >"$OUT/$name.log" 2>&1 || status=$?
        case $status in
            0) outcome=passed ;;
            77) outcome=skipped ;;
            124 | 137) outcome="too slow" ;;
            *) outcome=failed ;;
        esac
        [[ $outcome == passed || $outcome == skipped ]] || failed=1
        record "$name" "$outcome" "$status" "$((SECONDS - started))"
        printf '%-12s %-8s %5s s  %s\n' "$name" "$outcome" "$((SECONDS - started))" "$(said "$name")"
    done
    return $failed
}

# The executable of a build whose messages come on stdin: of the last target of this name.
executable() {
    grep "\"name\":\"$1\"" | grep -o '"executable":"[^"]*"' | tail -n 1 | cut -d '"' -f 4
}

pack() {
    local out=$1 root messages dirty="" size
    root=$(git -C "$here" rev-parse --show-toplevel)
    mkdir -p "$out"
    cd "$root"
    messages=$(mktemp)
    cargo build --release --message-format=json -p trainer -p benches --bin coca --bin step --bin optimizer >"$messages"
    cp "$(executable coca <"$messages")" "$out/coca"
    cp "$(executable step <"$messages")" "$out/step"
    cp "$(executable optimizer <"$messages")" "$out/optimizer"
    cargo test --release --no-run --message-format=json -p kernels --test gpu >"$messages"
    cp "$(executable gpu <"$messages")" "$out/kernels-gpu"
    cargo test --release --no-run --message-format=json -p ptxemu --test instructions >"$messages"
    cp "$(executable instructions <"$messages")" "$out/instructions"
    rm "$messages"
    strip "${BINARIES[@]/#/$out/}"
    cp "$self" "$out/gpu.sh"
    [[ -z $(git status --porcelain --untracked-files=no) ]] || dirty=" with changes"
    echo "$(git rev-parse HEAD)$dirty" >"$out/commit"
    size=$(du -sm "$out" | cut -f 1)
    ((size <= 64)) || fail "$out has $size MiB, more than 64"
    echo "$out: $size MiB, commit $(cat "$out/commit")"
}

case ${1:-} in
    pack)
        [[ $# -eq 2 ]] || fail "pack takes the folder to make"
        mkdir -p "$2"
        pack "$(readlink -f "$2")"
        exit
        ;;
    stage)
        "stage_$2"
        exit
        ;;
esac

BIN=$here OUT=gpu-results PYTHON=python3 GOLDEN="" only="" dry_run=false anyway=false
while (($# > 0)); do
    case $1 in
        --dry-run) dry_run=true ;;
        --anyway) anyway=true ;;
        --bin | --out | --python | --golden | --only)
            (($# > 1)) || fail "$1 takes a value"
            case $1 in
                --bin) BIN=$2 ;;
                --out) OUT=$2 ;;
                --python) PYTHON=$2 ;;
                --golden) GOLDEN=$2 ;;
                --only) only=$2 ;;
            esac
            shift
            ;;
        *) fail "$1 is not known; see the top of $self" ;;
    esac
    shift
done
for name in ${only//,/ }; do
    [[ " ${STAGES[*]%% *} " == *" $name "* ]] || fail "--only $name: there are ${STAGES[*]%% *}"
done
if $dry_run; then
    run_all
    exit
fi

for binary in "${BINARIES[@]}"; do
    [[ -x $BIN/$binary ]] || fail "$BIN/$binary is not there: make a folder with '$self pack DIR', or name one with --bin"
done
mkdir -p "$OUT"
BIN=$(readlink -f "$BIN") OUT=$(readlink -f "$OUT")
GOLDEN=${GOLDEN:-$OUT/golden}
if [[ -z ${COCA_NVRTC:-} ]]; then
    COCA_NVRTC=$(find_nvrtc)
    [[ -n $COCA_NVRTC ]] || unset COCA_NVRTC
fi
export BIN OUT PYTHON GOLDEN
[[ -z ${COCA_NVRTC:-} ]] || export COCA_NVRTC
"$BIN/coca" doctor >"$OUT/machine.txt"
no_gpu=$(of_gpu 'none: (.*)')
if [[ -n $no_gpu ]] && ! $anyway; then
    fail "$no_gpu" 2
fi
run_all
