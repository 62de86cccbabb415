//! candle as a peer.

fn main() -> peers::Result<()> {
    peers::serve(&peers::candle::CANDLE)
}
