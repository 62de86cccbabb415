//! Races found with vector clocks, and the proxies of asynchronous copies.
