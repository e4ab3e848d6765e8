//! The threads on which fills run, each with a runtime of its own.
//!
//! The owner of a fill, its sessions and the connections that they open run on one thread, and wake each other without a
//! call to the kernel. Threads that share their tasks wake a second one for each that finds something to do, lest there
//! be more (`docs/decisions/0020-threads-of-fills.md`).

use crate::sync::lock;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// How long what still writes may take when the threads end. A judgement.
const ENDING: Duration = Duration::from_secs(5);

/// The time for the threads themselves to end, beyond that. A judgement.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Where the tasks of fills run.
#[derive(Debug, Clone)]
pub struct FillRuntimes {
    slots: Arc<[RuntimeSlot]>,
}

/// The slot of a fill on one of the runtimes, for as long as it is held.
#[derive(Debug, Clone)]
pub(super) struct RuntimeSlot {
    thread: Handle,
    /// `Arc::strong_count - 1` is the number of fills on this runtime. A count without a lock: where two fills come at
    /// once both may choose one runtime, which costs some balance.
    taken: Arc<()>,
}

impl RuntimeSlot {
    pub(super) fn thread(&self) -> &Handle {
        &self.thread
    }
}

/// The threads behind [`FillRuntimes`]; they run on when this is dropped.
#[derive(Debug)]
pub struct RunningRuntimes {
    ending: watch::Sender<bool>,
    /// Yields nothing, and ends when all of them have. A lock, since a receiver alone cannot be shared between threads;
    /// held for the whole wait by the one caller that ends the threads.
    ended: Mutex<Receiver<()>>,
}

impl FillRuntimes {
    /// Starts `count` threads, one at least, each with up to `blocking` more for what waits for the disk.
    ///
    /// # Errors
    /// Where the operating system gives no more of them.
    pub fn start(count: usize, blocking: usize) -> io::Result<(Self, RunningRuntimes)> {
        let (ending, order) = watch::channel(false);
        let (alive, ended) = channel();
        let running = RunningRuntimes {
            ending,
            ended: Mutex::new(ended),
        };
        match Self::start_all(count, blocking, &order, &alive) {
            Ok(threads) => Ok((threads, running)),
            Err(error) => {
                drop(alive);
                running.stop();
                Err(error)
            }
        }
    }

    fn start_all(count: usize, blocking: usize, order: &watch::Receiver<bool>, alive: &Sender<()>) -> io::Result<Self> {
        let mut slots = Vec::new();
        for _ in 0..count.max(1) {
            let runtime = Builder::new_current_thread()
                .max_blocking_threads(blocking)
                .thread_name("millpond-write")
                .enable_all()
                .build()?;
            slots.push(RuntimeSlot {
                thread: runtime.handle().clone(),
                taken: Arc::default(),
            });
            let (mut order, alive) = (order.clone(), alive.clone());
            let run = move || {
                let _alive = alive;
                let ordered = async {
                    if order.wait_for(|ends| *ends).await.is_err() {
                        // Every sender of the order to end is gone.
                        std::future::pending::<()>().await;
                    }
                };
                runtime.block_on(ordered);
                runtime.shutdown_timeout(ENDING);
            };
            std::thread::Builder::new()
                .name("millpond-fill".to_owned())
                .spawn(run)?;
        }
        Ok(Self { slots: slots.into() })
    }

    /// A seat on the thread that has the fewest taken; on the first of those, where an idle connection to the upstream
    /// most likely is.
    pub(super) fn slot(&self) -> RuntimeSlot {
        let least = self.slots.iter().min_by_key(|slot| Arc::strong_count(&slot.taken));
        least.unwrap_or(&self.slots[0]).clone()
    }

    /// The thread for what belongs to no fill.
    pub fn handle(&self) -> &Handle {
        &self.slots[0].thread
    }
}

impl RunningRuntimes {
    /// Ends them, and returns when they have; tasks that still run are dropped. One that hangs on its disk is left behind.
    pub fn stop(self) {
        self.ending.send_replace(true);
        let ended = lock(&self.ended);
        let _ = ended.recv_timeout(ENDING + AFTERWARDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    fn is_on(slot: &RuntimeSlot, threads: &FillRuntimes, number: usize) -> bool {
        Arc::ptr_eq(&slot.taken, &threads.slots[number].taken)
    }

    #[test]
    fn a_new_fill_runs_on_the_least_loaded_runtime() {
        let (threads, running) = FillRuntimes::start(2, 1).expect("threads");
        let first = threads.slot();
        assert!(is_on(&first, &threads, 0));
        let second = threads.slot();
        assert!(is_on(&second, &threads, 1));
        let third = threads.slot();
        assert!(is_on(&third, &threads, 0));
        drop((first, third));
        let (fourth, fifth) = (threads.slot(), threads.slot());
        assert!(is_on(&fourth, &threads, 0), "two have left");
        assert!(is_on(&fifth, &threads, 0), "on equal terms the first");
        drop(second);
        assert!(is_on(&threads.slot(), &threads, 1));
        running.stop();
    }

    #[test]
    fn zero_requested_threads_still_start_one() {
        let (threads, running) = FillRuntimes::start(0, 1).expect("a thread");
        let (told, answer) = sync_channel(1);
        threads.slot().thread().spawn(async move { told.send(1) });
        assert_eq!(answer.recv(), Ok(1));
        running.stop();
    }

    #[test]
    fn running_tasks_are_dropped_when_the_runtimes_stop() {
        let (threads, running) = FillRuntimes::start(1, 1).expect("a thread");
        let (held, dropped) = sync_channel::<()>(1);
        let (told, begun) = sync_channel(1);
        threads.handle().spawn(async move {
            let _held = held;
            let _ = told.send(());
            std::future::pending::<()>().await;
        });
        begun.recv().expect("it runs");
        running.stop();
        dropped.recv().expect_err("it is gone");
    }
}
