//! Versions of the frameworks, from the lock file, for the names of the peers.

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = std::fs::read_to_string("Cargo.lock").expect("cargo has written the lock file");
    for (variable, package) in [("CANDLE", "candle-core"), ("BURN", "burn")] {
        let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{package}\"\n")));
        let version =
            entry.and_then(|entry| entry.split("version = \"").nth(1)).and_then(|rest| rest.split('"').next());
        println!("cargo::rustc-env={variable}={}", version.unwrap_or_else(|| panic!("no {package} in Cargo.lock")));
    }
}
