//! Weight files from an enemy: whatever the bytes, opening and reading them ends in values or in an error, never in a panic,
//! and never takes memory out of proportion to the file.

mod counting;

use counting::peak;
use model::weights::Weights;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::path::Path;

/// Opens and reads everything, within a bound on memory. A pickle's shortest opcode is one byte and makes a value of at
/// most 64 with 4 on the stack; both vectors may be half empty and be copied while they grow: 3 (64 + 4) bytes. Memo entries
/// and dict pairs take more bytes of input each and less memory per byte.
fn survive(bytes: Vec<u8>) -> engine::Result<Weights> {
    let bound = 3 * (64 + 4) * bytes.len() as isize + (64 << 10);
    let (weights, taken) = peak(|| {
        let weights = Weights::from_bytes(bytes);
        if let Ok(weights) = &weights {
            for name in weights.names() {
                let _ = weights.to_vec(name);
            }
        }
        weights
    });
    assert!(taken <= bound, "{taken} bytes were taken; the bound is {bound}");
    weights
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights").join(name)).unwrap()
}

/// One change to a file; positions are fractions of its length.
#[derive(Clone, Debug)]
enum Mutation {
    Set(f64, u8),
    Number(f64, u64, usize),
    Insert(f64, Vec<u8>),
    Remove(f64, usize),
    Copy(f64, f64, usize),
    Truncate(f64),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let edge = prop_oneof![
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(u32::MAX as u64),
        Just(1 << 31),
        Just(0u64),
        Just(1u64),
        any::<u64>()
    ];
    prop_oneof![
        6 => (0.0..1.0, any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        3 => (0.0..1.0, edge, prop_oneof![Just(2usize), Just(4), Just(8)])
            .prop_map(|(at, value, bytes)| Mutation::Number(at, value, bytes)),
        1 => (0.0..1.0, prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => (0.0..1.0, 1usize..64).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => (0.0..1.0, 0.0..1.0, 1usize..64).prop_map(|(from, to, count)| Mutation::Copy(from, to, count)),
        1 => (0.0..1.0).prop_map(Mutation::Truncate),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        let place = |at: f64| (at * bytes.len() as f64) as usize;
        match mutation {
            Mutation::Set(at, byte) => {
                let at = place(*at);
                bytes[at..].iter_mut().take(1).for_each(|old| *old = *byte);
            }
            Mutation::Number(at, value, count) => {
                let at = place(*at);
                bytes[at..].iter_mut().zip(&value.to_le_bytes()[..*count]).for_each(|(old, new)| *old = *new);
            }
            Mutation::Insert(at, new) => {
                let at = place(*at);
                bytes.splice(at..at, new.iter().copied());
            }
            Mutation::Remove(at, count) => {
                let at = place(*at);
                bytes.drain(at..bytes.len().min(at + count));
            }
            Mutation::Copy(from, to, count) => {
                let (from, to) = (place(*from), place(*to));
                let piece = bytes[from..bytes.len().min(from + count)].to_vec();
                bytes.splice(to..to, piece);
            }
            Mutation::Truncate(at) => bytes.truncate(place(*at)),
        }
    }
}

/// An archive of these members, as PyTorch would store them.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut table) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let (name_length, size, local) = (name.len() as u16, data.len() as u32, file.len() as u32);
        let sizes =
            [&[0; 4][..], &size.to_le_bytes(), &size.to_le_bytes(), &name_length.to_le_bytes(), &[0; 2]].concat();
        file.extend([b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0", &sizes[..], name.as_bytes(), data].concat());
        table.extend([b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0", &sizes[..], &[0; 10], &local.to_le_bytes()].concat());
        table.extend(name.as_bytes());
    }
    let (count, size, start) = (members.len() as u16, table.len() as u32, file.len() as u32);
    file.extend(table);
    file.extend([b"PK\x05\x06\0\0\0\0", &count.to_le_bytes()[..], &count.to_le_bytes(), &size.to_le_bytes()].concat());
    file.extend([&start.to_le_bytes()[..], &[0; 2]].concat());
    file
}

/// An archive with this pickle and one storage of four f32.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])])
}

/// A state dict of one tensor `w` over the storage: protocol 2, as PyTorch writes it.
fn state_dict(elements: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut out = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    out.extend(b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK");
    out.extend([elements, b't', b'Q', b'K', offset]);
    for sizes in [shape, strides] {
        out.push(b'(');
        sizes.iter().for_each(|size| out.extend([b'K', *size]));
        out.push(b't');
    }
    out.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    out
}

/// A safetensors file of this header and this much data.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn message(bytes: Vec<u8>) -> String {
    survive(bytes).unwrap_err().to_string()
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn damaged_files_are_survived(
        file in prop::sample::select(vec!["state.bin", "checkpoint.pt", "zip64.pt", "state.safetensors", "hostile.pt"]),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let mut bytes = fixture(file);
        mutate(&mut bytes, &mutations);
        let _ = survive(bytes);
    }

    /// The pickle inside a sound archive is damaged, so that the interpreter is always reached.
    #[test]
    fn damaged_pickles_are_survived(mutations in prop::collection::vec(mutation(), 1..8)) {
        let mut pickle = state_dict(4, 0, &[2, 2], &[2, 1]);
        mutate(&mut pickle, &mutations);
        let _ = survive(with_pickle(&pickle));
    }

    /// Opcodes at random, with few arguments, so that deep and odd stacks appear.
    #[test]
    fn random_opcodes_are_survived(opcodes in prop::collection::vec(
        prop::sample::select(b"(012q\0h\0N\x88\x89K\x01]}) ltdaesuQRb.\x85\x86\x87\x94\x8a\x01\x07\x8c\x01wX\x01\0\0\0k".to_vec()),
        1..200,
    )) {
        let _ = survive(with_pickle(&opcodes));
    }

    #[test]
    fn random_headers_are_survived(
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let header = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        let mut header = header.as_bytes().to_vec();
        mutate(&mut header, &mutations);
        let _ = survive(with_header(&String::from_utf8_lossy(&header), 16));
    }
}

/// Every prefix of every file is an error; so is a byte too many.
#[test]
fn truncated_files_are_refused() {
    for file in ["state.bin", "zip64.pt", "state.safetensors"] {
        let whole = fixture(file);
        assert!(survive(whole.clone()).is_ok(), "{file}");
        for length in 0..whole.len() {
            assert!(survive(whole[..length].to_vec()).is_err(), "{file} cut at {length}");
        }
        assert!(survive([&whole[..], b"x"].concat()).is_err(), "{file} and a byte");
    }
}

#[test]
fn lies_in_a_safetensors_header_are_named() {
    let tensor = |name: &str, shape: &str, begin: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let (a, b) = (tensor("a", "[2]", 0, 8), tensor("b", "[2]", 8, 16));
    assert!(survive(with_header(&format!("{{{a},{b}}}"), 16)).is_ok());
    for (header, data, wanted) in [
        (format!("{{{a},{a}}}"), 8, "\"a\" stands twice"),
        (format!("{{{a},{}}}", tensor("b", "[2]", 4, 12)), 12, "overlap"),
        (format!("{{{a},{}}}", tensor("b", "[2]", 12, 20)), 20, "hole"),
        (format!("{{{a},{b}}}"), 17, "1 bytes after the last tensor"),
        (format!("{{{a},{b}}}"), 15, "\"b\": bytes 8 to 16 lie outside the 15"),
        (format!("{{{}}}", tensor("a", "[3]", 0, 8)), 8, "\"a\": shape [3] of F32 does not take the 8 bytes"),
        (format!("{{{}}}", tensor("a", "[2]", 8, 0)), 8, "\"a\": bytes 8 to 0"),
        (format!("{{{}}}", tensor("a", "[4294967296,4294967296]", 0, 8)), 8, "does not take"),
        (format!("{{{}}}", tensor("a", "[1,1,1,1,1,1,1,1,2]", 0, 8)), 8, "9 dimensions"),
        (format!("{{{}}}", a.replace("F32", "F31")), 8, "unknown type \"F31\""),
        (format!("{{{}}}", tensor("a", "[-2]", 0, 8)), 8, "header"),
        ("[]".into(), 0, "an object of tensors"),
    ] {
        let found = message(with_header(&header, data));
        assert!(found.contains(wanted), "{header}\n{found}");
    }
    assert!(message([&u64::MAX.to_le_bytes()[..], b"{}"].concat()).contains("claims 18446744073709551615 bytes"));
}

#[test]
fn lies_in_a_pickle_are_named() {
    let sound = state_dict(4, 0, &[2, 2], &[1, 2]);
    assert_eq!(survive(with_pickle(&sound)).unwrap().shape("w"), Some(&[2, 2][..]));
    let mut twice = sound[..sound.len() - 1].to_vec();
    twice.extend(&sound[3..]);
    let mut nested = b"\x80\x02}X\x0a\0\0\0state_dict".to_vec();
    nested.extend(b"(]q\0");
    // Each list holds the one before twice: 2^30 items if anything walked them.
    (0..30).for_each(|_| nested.extend(b"]h\0ah\0aq\0"));
    nested.extend(b"1h\0s.");
    for (pickle, wanted) in [
        (b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.".to_vec(), "it names \"posix.system\""),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.".to_vec(), "it names \"builtins.eval\""),
        (b"\x80\x02ctorch\nload\n.".to_vec(), "it names \"torch.load\""),
        (b"\x80\x02c__builtin__\ngetattr\n.".to_vec(), "getattr"),
        (b"\x80\x02(iposix\nsystem\n.".to_vec(), "opcode 0x69"),
        (b"\x80\x02}\x81.".to_vec(), "opcode 0x81"),
        (b"\x80\x00.".to_vec(), "protocol 0"),
        (b"\x80\x02]].".to_vec(), "no state dict"),
        (b"\x80\x02}X\x0a\0\0\0state_dictNs.".to_vec(), "no state dict"),
        (b"\x80\x02}K\x01Ns.".to_vec(), "a key of the state dict is not text"),
        (b"\x80\x02}X\x01\0\0\0wNs.".to_vec(), "\"w\": pickle: it is not a tensor"),
        (b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "truncated"),
        (b"\x80\x02]r\xff\xff\xff\xffj\xff\xff\xff\x7f".to_vec(), "memo 2147483647 is empty"),
        (b"\x80\x02]q\0h\0ah\0.".to_vec(), "no state dict"),
        (b"\x80\x02}(N".to_vec(), "truncated"),
        (b"\x80\x02}(Nu.".to_vec(), "a key without a value"),
        (b"\x80\x02NN(0.".to_vec(), "the stack is empty"),
        (b"\x80\x02Nu.".to_vec(), "a mark is missing"),
        (b"\x80\x02NNR.".to_vec(), "not a tuple"),
        (nested, "no state dict"),
        (twice, "\"w\": it stands twice in the state dict"),
        (state_dict(5, 0, &[2], &[1]), "its storage has 16 bytes, not 5 elements"),
        (state_dict(4, 3, &[2], &[1]), "does not fit a storage of 4 elements"),
        (state_dict(4, 0, &[255, 255], &[0, 0]), "does not fit a storage of 4 elements"),
        (state_dict(4, 0, &[2, 2], &[1]), "2 dimensions and 1 strides"),
    ] {
        let found = message(with_pickle(&pickle));
        assert!(found.contains(wanted), "{}\n{found}", pickle.escape_ascii());
    }
    assert!(message(with_pickle(&[b'N'; 2 << 20])).contains("more than 1048576 values"));
    assert!(message(with_pickle(&[b'('; (16 << 20) + 1])).contains("at most 16777216 are read"));
}

#[test]
fn lies_in_an_archive_are_named() {
    let pickle = state_dict(4, 0, &[4], &[1]);
    let members: [(&str, &[u8]); 2] = [("a/data.pkl", &pickle), ("a/data/0", &[0; 16])];
    let sound = archive(&members);
    assert!(survive(sound.clone()).is_ok());
    let table = sound.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let changed = |at: usize, value: u32| {
        let mut bytes = sound.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let end = sound.len() - 22;
    for (bytes, wanted) in [
        (archive(&[members[0], members[1], members[1]]), "two members are called \"a/data/0\""),
        (archive(&[members[0], members[1], ("b/data.pkl", &pickle)]), "one member data.pkl"),
        (archive(&[members[0], ("b/data/0", &[0; 16])]), "no member data/0"),
        (archive(&[members[0], members[1], ("a/byteorder", b"big")]), "big-endian"),
        (archive(&[members[0], members[1], ("a/constants.pkl", b"")]), "TorchScript"),
        (changed(table + 24, u32::MAX), "a 64-bit size is missing"),
        (changed(table + 42, 1), "the header of \"a/data.pkl\" is damaged"),
        (changed(table + 42, u32::MAX - 1), "lies outside the file"),
        (changed(end + 8, 0x0003_0003), "damaged"),
        (changed(end + 16, u32::MAX), "64-bit"),
        (changed(end + 12, u32::MAX - 1), "lies outside the file"),
    ] {
        let found = message(bytes);
        assert!(found.contains(wanted), "{wanted}\n{found}");
    }
    // The last member claims more bytes than are left, and a tensor takes them all.
    let pickle = state_dict(255, 0, &[255], &[1]);
    let mut long = archive(&[("a/padding", &[0; 1020]), ("a/data.pkl", &pickle), ("a/data/0", &[0; 16])]);
    let row = long.len() - 22 - 54;
    for size in [row + 20, row + 24] {
        long[size..size + 4].copy_from_slice(&1020u32.to_le_bytes());
    }
    assert!(message(long).contains("the header of \"a/data/0\" is damaged"));
    // Two rows of the table over the same bytes.
    let long =
        [&b"PK\x03\x04"[..], &[0; 14], &16u32.to_le_bytes(), &16u32.to_le_bytes(), &[1, 0, 0, 0], b"b", &[0; 16]];
    let mut twisted = archive(&[members[0], ("a", &long.concat()), ("b", &[0; 16])]);
    let inner = twisted.windows(3).position(|bytes| bytes == b"aPK").unwrap() + 1;
    let row = twisted.len() - 22 - 47 + 42;
    twisted[row..row + 4].copy_from_slice(&(inner as u32).to_le_bytes());
    assert!(message(twisted).contains("overlap"));
}
