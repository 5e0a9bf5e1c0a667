//! Jobs that wait for the engine: callers take turns, each caller's own jobs are first come first served.

use std::collections::VecDeque;

use super::{Caller, Entry};

/// Jobs by caller, in the order of their turns.
#[derive(Default)]
pub(super) struct Waiting {
    /// No queue is empty.
    turns: VecDeque<(Caller, VecDeque<Entry>)>,
    len: usize,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.len += 1;
        let caller = entry.reply.audience.caller;
        match self.turns.iter_mut().find(|(known, _)| *known == caller) {
            Some((_, queue)) => queue.push_back(entry),
            None => self.turns.push_back((caller, VecDeque::from([entry]))),
        }
    }

    /// Whose turn it is, without taking it.
    pub(super) fn peek(&self) -> Option<&Entry> {
        self.turns.front()?.1.front()
    }

    /// The next job; its caller's next turn comes after everybody else's.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let (caller, mut queue) = self.turns.pop_front()?;
        let entry = queue.pop_front();
        if !queue.is_empty() {
            self.turns.push_back((caller, queue));
        }
        self.len -= usize::from(entry.is_some());
        entry
    }
}
