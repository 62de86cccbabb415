//! `COCA_ISA` and `COCA_THREADS`. One test in a process of its own, because the environment belongs to all threads.

use engine::Queue;
use engine::cpu::{Isa, threads_from_env};

fn set(name: &str, value: Option<&str>) {
    // SAFETY: the only test of this process; nothing else reads or writes the environment meanwhile.
    unsafe {
        match value {
            Some(value) => std::env::set_var(name, value),
            None => std::env::remove_var(name),
        }
    }
}

#[test]
fn variables_choose_path_and_threads_and_mistakes_are_explained() {
    set("COCA_THREADS", None);
    set("COCA_ISA", None);
    let cores = std::thread::available_parallelism().expect("cores").get();
    assert_eq!((threads_from_env().expect("cores"), Isa::from_env().expect("a path")), (cores, Isa::best()));

    set("COCA_THREADS", Some("3"));
    set("COCA_ISA", Some("scalar"));
    let queue = Queue::cpu_from_env().expect("a queue");
    let cpu = queue.cpu("this test").expect("a CPU");
    assert_eq!((cpu.threads(), cpu.isa()), (3, Isa::Scalar));

    for wrong in ["0", "-1", "two", "1.5", "1025"] {
        set("COCA_THREADS", Some(wrong));
        let error = Queue::cpu_from_env().expect_err(wrong).to_string();
        assert!(error.contains(&format!("COCA_THREADS: '{wrong}' is not a number from 1 to 1024")), "{error}");
    }
    set("COCA_THREADS", None);
    for wrong in ["AVX2", "neon", "avx1024"] {
        set("COCA_ISA", Some(wrong));
        let error = Queue::cpu_from_env().expect_err(wrong).to_string();
        assert!(error.contains(&format!("COCA_ISA: unknown path '{wrong}'")), "{error}");
        assert!(error.contains("scalar, avx2, avx512, avx512bf16"), "{error}");
    }
    for isa in Isa::ALL {
        set("COCA_ISA", Some(isa.name()));
        match Isa::from_env() {
            Ok(found) => assert!(found == isa && isa.is_available()),
            Err(error) => {
                let text = error.to_string();
                assert!(!isa.is_available() && text.contains(&format!("cannot run '{isa}'")), "{text}");
                assert!(text.contains(Isa::best().name()), "{text}");
            }
        }
    }
}
