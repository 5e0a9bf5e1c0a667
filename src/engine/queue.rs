//! Jobs that wait for the engine: callers take turns, each caller's own jobs are first come first served.

use std::collections::VecDeque;

use crate::engine::{Caller, Entry};

/// Jobs by caller, in the order of their turns.
#[derive(Default)]
pub(crate) struct Waiting {
    /// No queue is empty.
    turns: VecDeque<(Caller, VecDeque<Entry>)>,
    len: usize,
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.len += 1;
        let caller = entry.reply.audience.caller;
        match self.turns.iter_mut().find(|(known, _)| *known == caller) {
            Some((_, queue)) => queue.push_back(entry),
            None => self.turns.push_back((caller, VecDeque::from([entry]))),
        }
    }

    /// Lets go of the jobs that nobody waits for: whoever left has given back what bounds them.
    pub(crate) fn drop_unwanted(&mut self) {
        for (_, queue) in &mut self.turns {
            for _ in 0..queue.len() {
                let Some(entry) = queue.pop_front() else { break };
                match entry.reply.unwanted() {
                    Some(error) => {
                        self.len -= 1;
                        entry.reply.fail(error);
                    }
                    None => queue.push_back(entry),
                }
            }
        }
        self.turns.retain(|(_, queue)| !queue.is_empty());
    }

    /// Whose turn it is, without taking it.
    pub(crate) fn peek(&self) -> Option<&Entry> {
        self.turns.front()?.1.front()
    }

    /// The next job; its caller's next turn comes after everybody else's.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let (caller, mut queue) = self.turns.pop_front()?;
        let entry = queue.pop_front();
        if !queue.is_empty() {
            self.turns.push_back((caller, queue));
        }
        self.len -= usize::from(entry.is_some());
        entry
    }
}
