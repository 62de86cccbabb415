//! The gauges of a device: each shows by its results that it does its work, and gives a rate.

use crate::machines::{AMPERE, HOPPER, Shared, machine};
use engine::cuda::compiler_or_skip;
use engine::{DType, Queue};
use kernels::gauge::{self, DeviceGauge, Unit};
use std::sync::Arc;

#[test]
fn gauges_do_their_work() {
    let Some(compiler) = compiler_or_skip("gauges_do_their_work") else { return };
    let compiler = Shared(Arc::new(compiler));
    for (capability, units) in [(AMPERE, 2), (HOPPER, 3)] {
        let machine = machine(&compiler, capability, 7);
        let Queue::Cuda(queue) = &machine.queue else { unreachable!("a device") };
        let gauge = DeviceGauge::new(queue).unwrap();
        assert_eq!(gauge.units().len(), units);
        for unit in gauge.units() {
            machine.emulator.take_counters();
            assert!(gauge.flops_per_second(unit).unwrap() > 0.0, "{unit:?}");
            let counters = machine.emulator.take_counters();
            assert_eq!(counters.matrix_flops > 0, unit != Unit::Fma, "{unit:?}: {counters:?}");
        }
        let set = gauge.working_set(0).unwrap();
        machine.emulator.take_counters();
        assert!(gauge.read_bytes_per_second(&set).unwrap() > 0.0);
        let counters = machine.emulator.take_counters();
        // Whole passes, each sector once.
        assert!(counters.global_load_sectors.is_multiple_of(set.bytes() as u64 / 32), "{counters:?}");
        assert!(gauge.copy_bytes_per_second(&set).unwrap() > 0.0);
        assert!(gauge::flops_per_second(&machine.queue, DType::BF16).unwrap() > 0.0);
        gauge.keep_busy(DType::F32, 1e-4).unwrap();
    }
}
