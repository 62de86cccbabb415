//! Two blocks of a cluster: multicast, shared memory and mbarriers of the other block, copies between blocks.
use super::copies::{move_words, shared};
use super::{Case, bytes, noise};

/// Arrival and wait of all threads of the cluster.
const MEET: &str = "\tbarrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;\n";

pub fn cases() -> Vec<Case> {
    vec![multicast(), remote_store(), remote_arrival(), exchange()]
}

/// One warp with `buffer_bytes` bytes at `base`, its `rank` and that of its `peer`; block r works on words 32 w r and
/// on of `IN` and `OUT` for `words` w. `bar` is an mbarrier of one arrival, initialised before both blocks meet;
/// `before` runs before that.
fn case(
    name: &str,
    buffer_bytes: usize,
    words: usize,
    before: &str,
    body: &str,
    expected: Vec<u8>,
    input: Vec<u8>,
) -> Case {
    let body = format!(
        "{}\t.reg .b32 rank, peer, bar, other, other_bar;\n\t.reg .b64 offset;\n\t.reg .pred first;\n\
         \t.shared .align 8 .b64 barrier;\n\tmov.u32 rank, %cluster_ctarank;\n\txor.b32 peer, rank, 1;\n\
         \tmov.u32 bar, barrier;\n\
         \tsetp.eq.u32 first, rank, 0;\n\tmul.wide.u32 offset, rank, {};\n\tadd.u64 from, from, offset;\n\
         \tadd.u64 to, to, offset;\n\t@leader mbarrier.init.shared::cta.b64 [bar], 1;\n\
         \tfence.mbarrier_init.release.cluster;\n{before}{MEET}{body}{MEET}",
        shared(buffer_bytes),
        128 * words
    );
    Case { cluster: 2, ..Case::new(name, (9, 0), body, input, expected) }
}

const WAIT: &str = "WAIT:\n\tmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [bar], 0;\n\t@!p bra WAIT;\n";

/// Block 0 loads into both blocks.
fn multicast() -> Case {
    let input = bytes(&noise(20, 256));
    let before = "\t@leader mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 1024;\n";
    let body = format!(
        "\t.reg .b16 both;\n\tmov.b16 both, 3;\n\tand.pred first, first, leader;\n\
         \t@first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [base], \
         [IN], 1024, \
         [bar], both;\n{WAIT}{}",
        move_words(256, false)
    );
    case("cp.async.bulk multicast", 1024, 8, before, &body, input.repeat(2), input)
}

/// The words of one half, then of the other.
fn swapped(input: &[u8]) -> Vec<u8> {
    let (first, second) = input.split_at(input.len() / 2);
    [second, first].concat()
}

/// Each block stores its words to the other.
fn remote_store() -> Case {
    let input = bytes(&noise(21, 64));
    let body = format!(
        "\tmapa.shared::cluster.u32 other, w, peer;\n\tld.global.b32 x, [from];\n\
         \tst.shared::cluster.b32 [other], x;\n{MEET}\
         \tld.shared.b32 x, [w];\n\tst.global.b32 [to], x;\n"
    );
    case("mapa and st.shared::cluster", 128, 1, "", &body, swapped(&input), input)
}

/// Block 1 stores to block 0 and arrives at its mbarrier, block 0 waits.
fn remote_arrival() -> Case {
    let input = bytes(&noise(22, 64));
    let body = format!(
        "\tmapa.shared::cluster.u32 other, w, peer;\n\tmapa.shared::cluster.u32 other_bar, bar, peer;\n\
         \tld.global.b32 x, [from];\n\t@first bra HERE;\n\tst.shared::cluster.b32 [other], x;\n\
         \tbar.warp.sync 0xffffffff;\n\
         \t@leader mbarrier.arrive.release.cluster.shared::cluster.b64 _, [other_bar];\n\tbra.uni END;\nHERE:\n{WAIT}\
         \tld.shared.b32 x, [w];\n\tst.global.b32 [to], x;\nEND:\n"
    );
    let mut expected = vec![0; 256];
    expected[..128].copy_from_slice(&input[128..]);
    case("mbarrier.arrive of another block", 128, 1, "", &body, expected, input)
}

/// Each block copies its buffer behind that of the other.
fn exchange() -> Case {
    let input = bytes(&noise(23, 512));
    let before = format!(
        "{}\tfence.proxy.async.shared::cta;\n\t@leader mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 1024;\n",
        move_words(256, true)
    );
    let body = format!(
        "\tmapa.shared::cluster.u32 other, base, peer;\n\tadd.u32 other, other, 1024;\n\
         \tmapa.shared::cluster.u32 other_bar, bar, peer;\n\
         \t@leader cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [other], [base], \
         1024, [other_bar];\n\
         {WAIT}\tadd.u32 w, w, 1024;\n{}",
        move_words(256, false)
    );
    case("cp.async.bulk between blocks", 2048, 8, &before, &body, swapped(&input), input)
}
