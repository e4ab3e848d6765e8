//! The threads on which fills run, each with a runtime of its own.
//!
//! The owner of a fill, its sessions and the connections that they open run on one thread, and wake each other without a
//! call to the kernel. Threads that share their tasks wake a second one for each that finds something to do, lest there
//! be more (`docs/decisions/0020-threads-of-fills.md`).

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// How long what still writes may take when the threads end.
const ENDING: Duration = Duration::from_secs(5);

/// What they may take beyond that.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Where the tasks of fills run.
#[derive(Debug, Clone)]
pub struct Threads {
    seats: Arc<[Seat]>,
}

/// The place of a fill on one of the threads, for as long as it is held.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    thread: Handle,
    /// Its count is that of those who sit there, and one.
    taken: Arc<()>,
}

impl Seat {
    pub(super) fn thread(&self) -> &Handle {
        &self.thread
    }
}

/// The threads behind [`Threads`]; they run on when this is dropped.
#[derive(Debug)]
pub struct RunningThreads {
    ending: watch::Sender<bool>,
    /// Yields nothing, and ends when all of them have.
    ended: Mutex<Receiver<()>>,
}

impl Threads {
    /// Starts `count` threads, one at least, each with up to `blocking` more for what waits for the disk.
    ///
    /// # Errors
    /// Where the operating system gives no more of them.
    pub fn start(count: usize, blocking: usize) -> io::Result<(Self, RunningThreads)> {
        let (ending, order) = watch::channel(false);
        let (alive, ended) = channel();
        let running = RunningThreads {
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
        let mut seats = Vec::new();
        for _ in 0..count.max(1) {
            let runtime = Builder::new_current_thread()
                .max_blocking_threads(blocking)
                .thread_name("millpond-write")
                .enable_all()
                .build()?;
            seats.push(Seat {
                thread: runtime.handle().clone(),
                taken: Arc::default(),
            });
            let (mut order, alive) = (order.clone(), alive.clone());
            let run = move || {
                let _alive = alive;
                let ordered = async {
                    if order.wait_for(|ends| *ends).await.is_err() {
                        // Nobody is left who could give the order.
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
        Ok(Self { seats: seats.into() })
    }

    /// A seat on the thread that has the fewest taken; on the first of those, where an idle connection to the upstream
    /// most likely is.
    pub(super) fn seat(&self) -> Seat {
        let least = self.seats.iter().min_by_key(|seat| Arc::strong_count(&seat.taken));
        least.unwrap_or(&self.seats[0]).clone()
    }

    /// The thread for what belongs to no fill.
    pub fn handle(&self) -> &Handle {
        &self.seats[0].thread
    }
}

impl RunningThreads {
    /// Ends them, and returns when they have; tasks that still run are dropped. One that hangs on its disk is left behind.
    pub fn stop(self) {
        self.ending.send_replace(true);
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(ENDING + AFTERWARDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    fn is_on(seat: &Seat, threads: &Threads, number: usize) -> bool {
        Arc::ptr_eq(&seat.taken, &threads.seats[number].taken)
    }

    #[test]
    fn who_comes_sits_where_the_fewest_do() {
        let (threads, running) = Threads::start(2, 1).expect("threads");
        let first = threads.seat();
        assert!(is_on(&first, &threads, 0));
        let second = threads.seat();
        assert!(is_on(&second, &threads, 1));
        let third = threads.seat();
        assert!(is_on(&third, &threads, 0));
        drop((first, third));
        let (fourth, fifth) = (threads.seat(), threads.seat());
        assert!(is_on(&fourth, &threads, 0), "two have left");
        assert!(is_on(&fifth, &threads, 0), "on equal terms the first");
        drop(second);
        assert!(is_on(&threads.seat(), &threads, 1));
        running.stop();
    }

    #[test]
    fn no_thread_is_asked_for_and_one_is_there() {
        let (threads, running) = Threads::start(0, 1).expect("a thread");
        let (told, answer) = sync_channel(1);
        threads.seat().thread().spawn(async move { told.send(1) });
        assert_eq!(answer.recv(), Ok(1));
        running.stop();
    }

    #[test]
    fn what_still_runs_when_the_threads_end_is_dropped() {
        let (threads, running) = Threads::start(1, 1).expect("a thread");
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
