// Entries: what the rows of a packed text add to the gradients of the tables. Entry e < rows is the token of row e,
// entry rows + e its position. The key of an entry is the row that it adds to of the tables laid one after the other:
// the class embedding, the tokens, the positions; what no table has comes behind them all.

struct Entries {
    const u32 *ids, *at;  // [rows]
    u32 rows, vocabulary, positions;
};

DEVICE u32 count_of(const Entries& e) { return 2 * e.rows; }
DEVICE u32 keys_of(const Entries& e) { return 1 + e.vocabulary + e.positions; }

DEVICE u32 key_of(const Entries& e, u32 entry) {
    if (entry < e.rows) {
        // The class id is -1.
        const u32 key = e.ids[entry] + 1;
        return key <= e.vocabulary ? key : keys_of(e);
    }
    const u32 at = e.at[entry - e.rows];
    return at < e.positions ? 1 + e.vocabulary + at : keys_of(e);
}
