//! Jobs that wait for admission: callers take turns, and each caller's own jobs are first come, first served.

use std::{collections::VecDeque, time::Instant};

use crate::engine::{Caller, entry::Entry};

/// The waiting jobs of each caller, in the order of the callers' turns.
pub(super) struct FairQueue<I> {
    turns: VecDeque<Turn<I>>,
    len: usize,
}

/// The waiting jobs of one caller, at least one.
struct Turn<I> {
    caller: Caller,
    entries: VecDeque<Entry<I>>,
}

impl<I> FairQueue<I> {
    pub(super) fn new() -> Self {
        Self { turns: VecDeque::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, entry: Entry<I>) {
        self.len += 1;
        let caller = entry.responder.request.caller;
        match self.turns.iter_mut().find(|turn| turn.caller == caller) {
            Some(turn) => turn.entries.push_back(entry),
            None => self.turns.push_back(Turn { caller, entries: VecDeque::from([entry]) }),
        }
    }

    /// Removes the next job. The next turn of its caller comes after those of all others.
    pub(super) fn pop(&mut self) -> Option<Entry<I>> {
        let mut turn = self.turns.pop_front()?;
        let entry = turn.entries.pop_front();
        if !turn.entries.is_empty() {
            self.turns.push_back(turn);
        }
        self.len -= usize::from(entry.is_some());
        entry
    }

    /// Returns the rows of the first `limit` jobs, in the order in which [`Self::pop`] will return them.
    pub(super) fn next_rows(&self, limit: usize) -> Vec<usize> {
        let rounds = self.turns.iter().map(|turn| turn.entries.len()).max().unwrap_or(0);
        let of_round = |round| self.turns.iter().filter_map(move |turn| turn.entries.get(round));
        (0..rounds).flat_map(of_round).take(limit).map(|entry| entry.search.rows()).collect()
    }

    /// Removes the jobs that no client waits for any longer: what a client that left was admitted for is free again.
    pub(super) fn drop_abandoned(&mut self, now: Instant) {
        for turn in &mut self.turns {
            for _ in 0..turn.entries.len() {
                let Some(entry) = turn.entries.pop_front() else { break };
                match entry.responder.abandoned(now) {
                    Some(error) => {
                        self.len -= 1;
                        entry.responder.fail(error, now);
                    }
                    None => turn.entries.push_back(entry),
                }
            }
        }
        self.turns.retain(|turn| !turn.entries.is_empty());
    }
}
