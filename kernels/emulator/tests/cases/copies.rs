//! `cp.async`, bulk copies and tensor copies: loads, stores and reductions.
use super::{Case, Map, PROLOGUE, bytes, noise, small};
use ptxemu::tensor_map::{Descriptor, ElementType, Fill, Swizzle};

pub fn cases() -> Vec<Case> {
    let mut cases = vec![bulk_load(), bulk_store(), bulk_reduce()];
    for size in [4, 8, 16] {
        cases.push(cp_async(size, size));
        cases.push(cp_async(size, size / 2));
        cases.push(cp_async(size, 0));
    }
    for swizzle in Swizzle::ALL {
        for origin in [[0, 0], [8, 3], [-8, -2], [32, 9], [104, 0]] {
            let map = Descriptor { swizzle, ..tensor(ElementType::Bf16, 2) };
            cases.push(tensor_load(Descriptor { box_sizes: [swizzle.span() / 2, 8, 0, 0, 0], ..map }, &origin));
        }
        let map = Descriptor { swizzle, ..tensor(ElementType::F32, 2) };
        let map = Descriptor { box_sizes: [swizzle.span() / 4, 8, 0, 0, 0], ..map };
        cases.push(tensor_load(Descriptor { fill: Fill::Nan, ..map }, &[16, 6]));
        cases.push(tensor_store(map, &[0, 0], None));
        cases.push(tensor_store(map, &[16, -3], None));
        cases.push(tensor_store(map, &[-4, 5], Some("add")));
    }
    for operation in ["add", "min", "max"] {
        let map = Descriptor { box_sizes: [8, 4, 0, 0, 0], ..tensor(ElementType::I32, 2) };
        cases.push(tensor_store(map, &[4, 1], Some(operation)));
    }
    for rank in 1..=5 {
        // Boxes that begin at a multiple of 16 bytes and reach beyond the end of their rows.
        cases.push(tensor_load(tensor(ElementType::U8, rank), &[32, 1, -1, 1, 0][..rank]));
        cases.push(tensor_store(tensor(ElementType::I32, rank), &[28, 1, -1, 1, 0][..rank], None));
    }
    cases
}

/// A tensor that fits into a small buffer, its fastest dimension not a multiple of the box.
fn tensor(element: ElementType, rank: usize) -> Descriptor {
    let sizes: [u64; 5] = [38, 11, 2, 3, 2];
    let row = (sizes[0] * u64::from(element.bytes())).next_multiple_of(16) + 16;
    let mut map = Descriptor {
        address: 16,
        element,
        rank,
        sizes: [0; 5],
        strides: [0; 4],
        box_sizes: [0; 5],
        swizzle: Swizzle::None,
        fill: Fill::Zero,
    };
    let mut stride = row;
    for dimension in 0..rank {
        map.sizes[dimension] = sizes[dimension];
        map.box_sizes[dimension] = [16, 4, 2, 2, 2][dimension];
        if dimension > 0 {
            map.strides[dimension - 1] = stride;
            stride *= sizes[dimension];
        }
    }
    map
}

/// Bytes from the first to behind the last element.
fn tensor_bytes(map: &Descriptor) -> usize {
    let last: u64 = (1..map.rank).map(|dimension| (map.sizes[dimension] - 1) * map.strides[dimension - 1]).sum();
    (last + map.sizes[0] * u64::from(map.element.bytes())).next_multiple_of(128) as usize
}

/// Copies `words` words between shared memory at `w` on and global memory at an address register, 32 lanes wide.
pub(super) fn move_words(words: usize, load: bool) -> String {
    (0..words.div_ceil(32))
        .map(|i| {
            let at = 128 * i;
            if load {
                format!("\tld.global.b32 x, [from+{at}];\n\tst.shared.b32 [w+{at}], x;\n")
            } else {
                format!("\tld.shared.b32 x, [w+{at}];\n\tst.global.b32 [to+{at}], x;\n")
            }
        })
        .collect()
}

/// One warp, `bytes` bytes of shared memory at `base`, of which `w` is the lane's first word; `leader` is true in lane
/// 0.
pub(super) fn shared(bytes: usize) -> String {
    format!(
        "{PROLOGUE}\t.reg .b32 x, w, base;\n\t.reg .pred leader, p;\n\t.shared .align 1024 .b8 buffer[{bytes}];\n\
         \tmov.u32 base, buffer;\n\tshl.b32 w, t, 2;\n\tadd.u32 w, base, w;\n\tsetp.eq.u32 leader, t, 0;\n"
    )
}

/// An mbarrier that expects `bytes` bytes, then the copy, then the wait.
fn load(bytes: u32, copy: &str) -> String {
    format!(
        "\t.reg .b32 bar;\n\t.shared .align 8 .b64 barrier;\n\tmov.u32 bar, barrier;\n\
         \t@leader mbarrier.init.shared::cta.b64 [bar], 1;\n\tfence.mbarrier_init.release.cluster;\n\tbar.sync 0;\n\
         \t@leader mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {bytes};\n\t@leader {copy};\nWAIT:\n\
         \tmbarrier.try_wait.parity.shared::cta.b64 p, [bar], 0;\n\t@!p bra WAIT;\n"
    )
}

/// Makes threads' writes to shared memory visible to a copy of lane 0, and waits for it.
fn store(copy: &str) -> String {
    format!(
        "\tfence.proxy.async.shared::cta;\n\tbar.sync 0;\n\t@leader {copy};\n\t@leader cp.async.bulk.commit_group;\n\
         \t@leader cp.async.bulk.wait_group 0;\n"
    )
}

/// Each lane copies `size` bytes of which `valid` are read and the rest is zero.
fn cp_async(size: usize, valid: usize) -> Case {
    let cache = if size == 16 { "cg" } else { "ca" };
    let body = format!(
        "{}\t.reg .b32 at;\n\t.reg .b64 source;\n\tmul.lo.u32 at, t, {size};\n\tadd.u32 at, base, at;\n\
         \tmul.wide.u32 source, t, {size};\n\tadd.u64 source, IN, source;\n\
         \tcp.async.{cache}.shared.global [at], [source], {size}, {valid};\n\tcp.async.commit_group;\n\
         \tcp.async.wait_group 0;\n\tbar.sync 0;\n{}",
        shared(32 * size),
        move_words(8 * size, false)
    );
    let input = bytes(&noise(size as u32, 8 * size));
    let expected = input.iter().enumerate().map(|(i, &byte)| if i % size < valid { byte } else { 0 }).collect();
    Case::new(format!("cp.async.{cache} of {valid} of {size} bytes"), (8, 0), body, input, expected)
}

fn bulk_load() -> Case {
    let input = bytes(&noise(3, 256));
    let copy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [base], [IN], 1024, [bar]";
    let body = format!("{}{}{}", shared(1024), load(1024, copy), move_words(256, false));
    Case::new("cp.async.bulk load", (9, 0), body, input.clone(), input)
}

fn bulk_store() -> Case {
    let input = bytes(&noise(4, 256));
    let copy = "cp.async.bulk.global.shared::cta.bulk_group [OUT], [base], 1024";
    let body = format!("{}{}{}", shared(1024), move_words(256, true), store(copy));
    Case::new("cp.async.bulk store", (9, 0), body, input.clone(), input)
}

fn bulk_reduce() -> Case {
    let (input, before) = (small(5, 256), small(6, 256));
    let copy = "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [OUT], [base], 1024";
    let body = format!("{}{}{}", shared(1024), move_words(256, true), store(copy));
    let words = |values: Vec<f32>| bytes(&values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
    let sums = input.iter().zip(&before).map(|(x, y)| x + y).collect();
    let case = Case::new("cp.reduce.async.bulk add f32", (9, 0), body, words(input), words(sums));
    Case { before: words(before), ..case }
}

/// The coordinates of a tensor copy in PTX.
fn coordinates(origin: &[i32]) -> String {
    let list: Vec<String> = origin.iter().map(i32::to_string).collect();
    format!("{{{}}}", list.join(", "))
}

/// The box as it lies in shared memory.
fn tensor_load(map: Descriptor, origin: &[i32]) -> Case {
    let total = map.box_bytes() as usize;
    let padded = total.next_multiple_of(128);
    let copy = format!(
        "cp.async.bulk.tensor.{}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [base], [MAP, {}], [bar]",
        map.rank,
        coordinates(origin)
    );
    // What the copy leaves alone is 0.
    let body = format!(
        "{}{}{}{}",
        shared(padded).replace("\tsetp", &format!("\tmov.b32 x, 0;\n{}\tsetp", clear(padded / 4))),
        "\tfence.proxy.async.shared::cta;\n",
        load(map.box_bytes(), &copy),
        move_words(padded / 4, false)
    );
    let input = bytes(&noise(map.rank as u32, tensor_bytes(&map) / 4));
    let mut expected = vec![0; padded];
    for piece in map.pieces(origin, 1024).expect("a box") {
        let to = &mut expected[piece.shared as usize - 1024..][..piece.bytes as usize];
        match piece.global {
            Some(address) => to.copy_from_slice(&input[(address - map.address) as usize..][..piece.bytes as usize]),
            None => to.fill(map.fill.byte()),
        }
    }
    let name =
        format!("tensor load {:?} rank {} {:?} {:?} at {origin:?}", map.element, map.rank, map.swizzle, map.fill);
    Case { map: Some(Map::Input(map)), ..Case::new(name, (9, 0), body, input, expected) }
}

fn clear(words: usize) -> String {
    (0..words / 32).map(|i| format!("\tst.shared.b32 [w+{}], x;\n", 128 * i)).collect()
}

/// Stores shared memory as a box, or adds it to the tensor, or takes minima or maxima.
fn tensor_store(map: Descriptor, origin: &[i32], reduction: Option<&str>) -> Case {
    let total = map.box_bytes() as usize;
    let padded = total.next_multiple_of(128);
    let (verb, operation) = match reduction {
        Some(operation) => ("cp.reduce", format!(".{operation}")),
        None => ("cp", String::new()),
    };
    let copy = format!(
        "{verb}.async.bulk.tensor.{}d.global.shared::cta{operation}.tile.bulk_group [MAP, {}], [base]",
        map.rank,
        coordinates(origin)
    );
    let body = format!("{}{}{}", shared(padded), move_words(padded / 4, true), store(&copy));
    let float = map.element == ElementType::F32;
    let values = |seed, count| -> Vec<u32> {
        if float { small(seed, count).iter().map(|value| value.to_bits()).collect() } else { noise(seed, count) }
    };
    let input = bytes(&values(7, padded / 4));
    let before = bytes(&values(8, tensor_bytes(&map) / 4));
    let mut expected = before.clone();
    for piece in map.pieces(origin, 1024).expect("a box") {
        let Some(address) = piece.global else { continue };
        let from = &input[piece.shared as usize - 1024..][..piece.bytes as usize];
        let to = &mut expected[(address - map.address) as usize..][..piece.bytes as usize];
        for (to, from) in to.as_chunks_mut::<4>().0.iter_mut().zip(from.as_chunks::<4>().0) {
            let (old, new) = (u32::from_le_bytes(*to), u32::from_le_bytes(*from));
            *to = match reduction {
                None => new,
                Some("add") if float => (f32::from_bits(old) + f32::from_bits(new)).to_bits(),
                Some("add") => old.wrapping_add(new),
                Some("min") => (old as i32).min(new as i32) as u32,
                Some(_) => (old as i32).max(new as i32) as u32,
            }
            .to_le_bytes();
        }
    }
    let name = format!(
        "tensor {} {:?} rank {} {:?} at {origin:?}",
        reduction.unwrap_or("store"),
        map.element,
        map.rank,
        map.swizzle
    );
    Case { map: Some(Map::Output(map)), before, ..Case::new(name, (9, 0), body, input, expected) }
}
