//! mbarriers: what waits answer and what states hold, step by step in one lane.
use super::{Case, bytes};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "mbarrier phases and parity",
            2,
            "0p 1p a 0p a 0p 1p a a 0p 1p",
            // Fresh: phase 0 is open. After two arrivals phase 1, after four phase 2.
            &[0, 1, 0, 1, 0, 0, 1],
        ),
        case("mbarrier counts of arrivals", 5, "3a 0p 2a 0p 5a 0p 1p", &[0, 1, 0, 1]),
        case("mbarrier states", 3, "s c w s c w s c w", &[3, 0, 2, 0, 1, 1]),
        case("mbarrier bytes", 1, "16e 0p a 0p 16x 0p", &[0, 0, 1]),
        case("mbarrier bytes with the arrival", 2, "32b 0p 16x 0p 16x 0p a 0p", &[0, 0, 0, 1]),
        case("mbarrier bytes before they are announced", 1, "16x 16b 0p", &[1]),
        case("mbarrier dropped arrivals", 3, "d 2a 0p 2a 1p 0p", &[1, 1, 0]),
        case("mbarrier begun anew", 1, "a 0p i 0p 1p", &[1, 0, 1]),
    ]
}

/// A barrier of `count` arrivals, and steps: `Pp` writes whether parity P is complete, `Na` arrives N times at once,
/// `s` arrives and keeps the state, `c` writes its pending count, `w` whether it is complete, `Ne` announces N bytes,
/// `Nb` with an arrival, `Nx` delivers N bytes, `d` drops an arrival, `i` invalidates and begins anew.
fn case(name: &str, count: u32, steps: &str, expected: &[u32]) -> Case {
    let mut body = format!(
        "\t.reg .b32 bar, x;\n\t.reg .b64 state;\n\t.reg .pred p;\n\t.shared .align 8 .b64 barrier;\n\
         \tmov.u32 bar, barrier;\n\tmbarrier.init.shared::cta.b64 [bar], {count};\n"
    );
    let mut written = 0;
    let write = |body: &mut String, written: &mut u32| {
        *body += &format!("\tst.global.b32 [OUT+{}], x;\n", 4 * *written);
        *written += 1;
    };
    for step in steps.split(' ') {
        let (number, verb) = step.split_at(step.len() - 1);
        let number = if number.is_empty() { 1 } else { number.parse::<u32>().expect("a number") };
        match verb {
            "p" | "w" => {
                let of = if verb == "p" {
                    format!(".parity.shared::cta.b64 p, [bar], {number}")
                } else {
                    ".shared::cta.b64 p, [bar], state".into()
                };
                body += &format!("\tmbarrier.test_wait{of};\n\tselp.u32 x, 1, 0, p;\n");
                write(&mut body, &mut written);
            }
            "c" => {
                body += "\tmbarrier.pending_count.b64 x, state;\n";
                write(&mut body, &mut written);
            }
            "a" => body += &format!("\tmbarrier.arrive.shared::cta.b64 _, [bar], {number};\n"),
            "s" => body += "\tmbarrier.arrive.shared::cta.b64 state, [bar];\n",
            "d" => body += "\tmbarrier.arrive_drop.shared::cta.b64 _, [bar];\n",
            "e" => body += &format!("\tmbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], {number};\n"),
            "b" => body += &format!("\tmbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {number};\n"),
            "i" => {
                body += &format!(
                    "\tmbarrier.inval.shared::cta.b64 [bar];\n\tmbarrier.init.shared::cta.b64 [bar], {count};\n"
                )
            }
            "x" => body += &format!("\tmbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], {number};\n"),
            _ => unreachable!("step {step}"),
        }
    }
    Case { threads: 1, ..Case::new(name, (9, 0), body, vec![0; 4], bytes(expected)) }
}
