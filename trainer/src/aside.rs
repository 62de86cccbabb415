//! Names for what is set aside.

use std::path::PathBuf;

/// The first free one of the places for 1, 2, …
pub fn place(numbered: impl Fn(u64) -> PathBuf) -> PathBuf {
    let mut number = 1;
    loop {
        let place = numbered(number);
        if !place.exists() {
            return place;
        }
        number += 1;
    }
}
