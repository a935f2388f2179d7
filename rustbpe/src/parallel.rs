//! Threads for independent jobs, and a way to stop them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};

/// Asked now and then, on the thread that called the library, whether to stop.
pub type Interrupt<'a> = &'a dyn Fn() -> bool;

/// How long the calling thread sleeps between questions while it has no work of its own.
const NAP: Duration = Duration::from_millis(20);

/// Tells a long computation whether it should stop.
pub(crate) struct Watch<'a> {
    stopped: &'a AtomicBool,
    interrupt: Option<Interrupt<'a>>,
}

impl<'a> Watch<'a> {
    /// A watch for work on the calling thread alone.
    pub(crate) fn alone(stopped: &'a AtomicBool, interrupt: Interrupt<'a>) -> Self {
        Self { stopped, interrupt: Some(interrupt) }
    }

    /// # Errors
    /// [`Error::Interrupted`] if the work should stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.interrupt.is_some_and(|interrupt| interrupt()) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}

/// The number of threads to use: as many as wished for, or else as the machine runs at once; and
/// never more than there are jobs.
///
/// # Errors
/// [`Error::Invalid`] if no thread is wished for.
pub(crate) fn thread_count(wish: Option<usize>, jobs: usize) -> Result<usize> {
    let threads = match wish {
        Some(0) => return Err(Error::invalid("threads must be at least 1")),
        Some(threads) => threads,
        None => thread::available_parallelism().map_or(1, |threads| threads.get()),
    };
    Ok(threads.min(jobs).max(1))
}

/// Does the jobs numbered below `jobs` on one thread for each state, the calling one among them.
/// The first error stops the rest; which one that is depends on timing only if several jobs fail.
pub(crate) fn for_each<S: Send>(
    states: &mut [S],
    jobs: usize,
    interrupt: Interrupt<'_>,
    work: impl Fn(&mut S, usize, &Watch<'_>) -> Result<()> + Sync,
) -> Result<()> {
    let stopped = AtomicBool::new(false);
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let run = |state: &mut S, watch: &Watch<'_>| loop {
        let job = next.fetch_add(1, Ordering::Relaxed);
        if job >= jobs {
            break;
        }
        if let Err(error) = watch.check().and_then(|()| work(state, job, watch)) {
            stopped.store(true, Ordering::Relaxed);
            let mut first = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let interrupted = matches!(error, Error::Interrupted);
            // An error of its own says more than that of the jobs which it stopped.
            if first.as_ref().map_or(true, |(known, _)| !interrupted && job < *known) {
                *first = Some((if interrupted { usize::MAX } else { job }, error));
            }
            break;
        }
    };
    let Some((mine, others)) = states.split_first_mut() else { return Ok(()) };
    let working = AtomicUsize::new(others.len());
    thread::scope(|scope| {
        let (run, stopped, working) = (&run, &stopped, &working);
        for state in others {
            let end = EndOfWork { working, caller: thread::current() };
            scope.spawn(move || {
                let _end = end;
                run(state, &Watch { stopped, interrupt: None });
            });
        }
        let watch = Watch::alone(stopped, interrupt);
        run(mine, &watch);
        while working.load(Ordering::Acquire) > 0 {
            // A helper may be in the middle of a long job, which then stops by itself.
            let _ = watch.check();
            thread::park_timeout(NAP);
        }
    });
    let failure = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    failure.map_or(Ok(()), |(_, error)| Err(error))
}

/// Tells the calling thread, when dropped, that a helper has no more work: also if it panics.
struct EndOfWork<'a> {
    working: &'a AtomicUsize,
    caller: thread::Thread,
}

impl Drop for EndOfWork<'_> {
    fn drop(&mut self) {
        self.working.fetch_sub(1, Ordering::Release);
        self.caller.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once() {
        for threads in 1..5 {
            let mut states = vec![Vec::new(); threads];
            for_each(&mut states, 100, &|| false, |done, job, _| {
                done.push(job);
                Ok(())
            })
            .unwrap();
            let mut done = states.concat();
            done.sort_unstable();
            assert_eq!(done, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_stops_the_rest_and_an_interrupt_stops_all() {
        let fail = |_: &mut (), job, _: &Watch<'_>| match job {
            3 => Err(Error::invalid("job 3")),
            _ => Ok(()),
        };
        let error = for_each(&mut [(), ()], 1000, &|| false, fail).unwrap_err();
        assert_eq!(error.to_string(), "job 3");

        let wait = |_: &mut (), _, watch: &Watch<'_>| loop {
            watch.check()?;
            thread::yield_now();
        };
        let error = for_each(&mut [(), ()], 2, &|| true, wait).unwrap_err();
        assert!(matches!(error, Error::Interrupted));
    }
}
