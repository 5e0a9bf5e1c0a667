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

    /// Removes the jobs whose client disconnected or whose deadline passed.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        engine::scripted::{self, Client, ScriptedImage},
        error::CaptionError,
    };

    /// Queues a job of this caller; it has `number` rows.
    fn push(queue: &mut FairQueue<ScriptedImage>, caller: Caller, number: u32) -> Client {
        let mut job = scripted::job_with_rows(number, number);
        job.request.caller = caller;
        let (entry, client) = scripted::entry(job);
        queue.push(entry);
        client
    }

    /// Takes all jobs out: their rows, which are their numbers.
    fn drain(queue: &mut FairQueue<ScriptedImage>) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop()).map(|entry| entry.search.rows()).collect()
    }

    #[test]
    fn callers_take_turns_however_many_jobs_each_has() {
        let mut queue = FairQueue::new();
        let _clients = [(1, 1), (1, 2), (1, 3), (2, 4), (3, 5), (3, 6)].map(|(caller, n)| push(&mut queue, caller, n));
        assert_eq!(drain(&mut queue), [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn a_caller_that_was_served_waits_for_those_that_came_meanwhile() {
        let mut queue = FairQueue::new();
        let _first = [push(&mut queue, 1, 1), push(&mut queue, 1, 2)];
        assert_eq!(queue.pop().map(|entry| entry.search.rows()), Some(1));
        let _later = push(&mut queue, 2, 3);
        // The turn of caller 1 came back before caller 2 was there; then they alternate.
        let _more = push(&mut queue, 1, 4);
        assert_eq!(drain(&mut queue), [2, 3, 4]);
    }

    #[test]
    fn the_jobs_of_one_caller_keep_their_order() {
        let mut queue = FairQueue::new();
        let _clients = [3, 1, 2].map(|number| push(&mut queue, 7, number));
        assert_eq!(drain(&mut queue), [3, 1, 2]);
    }

    #[test]
    fn the_next_rows_are_those_of_the_jobs_that_come_next() {
        let mut queue = FairQueue::new();
        let _clients = [(1, 1), (1, 2), (2, 3), (1, 4)].map(|(caller, number)| push(&mut queue, caller, number));
        assert_eq!(queue.next_rows(3), [1, 3, 2]);
        assert_eq!((queue.next_rows(9), queue.len()), (vec![1, 3, 2, 4], 4));
        assert_eq!(drain(&mut queue), [1, 3, 2, 4]);
        assert_eq!((queue.next_rows(9), queue.len()), (vec![], 0));
    }

    #[test]
    fn jobs_whose_clients_disconnected_are_dropped_and_the_others_keep_their_turns() {
        let mut queue = FairQueue::new();
        let gone = push(&mut queue, 1, 1);
        let _stays = [push(&mut queue, 1, 2), push(&mut queue, 2, 3)];
        let only_job = push(&mut queue, 3, 4);
        drop((gone, only_job));
        queue.drop_abandoned(Instant::now());
        assert_eq!(queue.len(), 2);
        assert_eq!(drain(&mut queue), [2, 3]);
    }

    #[test]
    fn a_dropped_job_fails_with_the_reason() {
        let (mut queue, now) = (FairQueue::new(), Instant::now());
        let (mut late, cancelled) = (scripted::job(1), scripted::job(2));
        late.request.deadline = Some(now + Duration::from_secs(5));
        cancelled.request.cancelled.cancel();
        let ((late, mut late_client), (cancelled, mut cancelled_client)) =
            (scripted::entry(late), scripted::entry(cancelled));
        queue.push(late);
        queue.push(cancelled);
        queue.drop_abandoned(now);
        assert!(matches!(cancelled_client.result(), Some(Err(CaptionError::Cancelled))));
        assert!(late_client.result().is_none());
        queue.drop_abandoned(now + Duration::from_secs(5));
        assert!(matches!(late_client.result(), Some(Err(CaptionError::DeadlineExceeded))));
        assert_eq!(queue.len(), 0);
    }
}
