//! burn as a peer.

fn main() -> peers::Result<()> {
    peers::serve(&peers::burn::BURN)
}
