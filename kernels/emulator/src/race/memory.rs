//! Where the cells of shadow memory are: one array for each block's shared memory, pages for the global memory of a launch.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Space;
use super::clock::{Knowledge, Known};
use super::report::Found;
use super::shadow::{Cell, Lists, Record};

/// Words of a page of the global shadow.
const PAGE_WORDS: u64 = 1024;

/// What the blocks of a grid share: the shadow of global memory.
#[derive(Debug, Default)]
pub struct GlobalShadow {
    table: Mutex<GlobalTable>,
}

impl GlobalShadow {
    /// A shadow of memory that nothing has touched.
    pub fn new() -> GlobalShadow {
        GlobalShadow::default()
    }
}

#[derive(Debug, Default)]
pub(super) struct GlobalTable {
    pages: HashMap<u64, Box<[Cell]>>,
    lists: Lists,
    /// What atomic operations left at an address.
    pub words: HashMap<u64, Knowledge>,
}

/// One of the shadows, ready for accesses.
pub(super) enum Memory<'a> {
    Shared { cells: &'a mut [Cell], lists: &'a mut Lists },
    Global(MutexGuard<'a, GlobalTable>),
}

impl<'a> Memory<'a> {
    pub fn new(
        space: Space,
        shared: &'a mut [Vec<Cell>],
        lists: &'a mut Lists,
        global: &'a GlobalShadow,
    ) -> Memory<'a> {
        match space {
            Space::Shared(block) => Memory::Shared { cells: &mut shared[block as usize], lists },
            Space::Global => Memory::Global(lock(global)),
        }
    }

    /// Checks and notes an access to bytes at an address, word by word. `base` is the address of the first word.
    pub fn access(
        &mut self,
        mut record: Record,
        address: u64,
        base: u64,
        bytes: u32,
        knowledge: &Knowledge,
    ) -> Result<(), Found> {
        let Some(offset) = address.checked_sub(base) else { return Ok(()) };
        let end = offset + u64::from(bytes);
        for word in offset / 4..end.div_ceil(4) {
            let covered = (word * 4).max(offset) - word * 4..(word * 4 + 4).min(end) - word * 4;
            record.mask = ((1 << covered.end) - (1 << covered.start)) as u8;
            let (cell, lists, proxy) = match self {
                Memory::Shared { cells, lists } => match cells.get_mut(word as usize) {
                    Some(cell) => (cell, &mut **lists, Known::AsyncShared),
                    None => continue,
                },
                Memory::Global(table) => {
                    let table = &mut **table;
                    let page = table
                        .pages
                        .entry(word / PAGE_WORDS)
                        .or_insert_with(|| vec![Cell::default(); PAGE_WORDS as usize].into());
                    (&mut page[(word % PAGE_WORDS) as usize], &mut table.lists, Known::AsyncGlobal)
                }
            };
            let global = proxy == Known::AsyncGlobal;
            if let Err((conflict, earlier)) = cell.access(record, knowledge, proxy, lists, global) {
                return Err(Found { conflict, earlier, offset: word * 4 });
            }
        }
        Ok(())
    }
}

/// The table of the global shadow.
pub(super) fn lock(global: &GlobalShadow) -> MutexGuard<'_, GlobalTable> {
    // A panic elsewhere ends the launch anyway; the shadow itself is whole after each access.
    global.table.lock().unwrap_or_else(PoisonError::into_inner)
}
