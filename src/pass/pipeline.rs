//! Three stages side by side: one reader, the compute pool, one writer, with bounded queues between them.

use super::progress::Stop;
use super::window::{Permit, Window};
use crate::error::Result;
use crate::limits::QUEUE_JOBS_PER_THREAD;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// A job on its way, with its number and its share of the memory.
struct Load<'w, T> {
    number: u64,
    content: T,
    permit: Permit<'w>,
}

/// The shared parts of a pipeline.
pub struct Pipeline<'a> {
    pub pool: &'a rayon::ThreadPool,
    pub window: &'a Window,
    pub stop: &'a Stop,
}

impl Pipeline<'_> {
    /// Runs every job through `read` (one thread, in order), then the closure that `worker` makes for each compute
    /// thread, then `write` (this thread, in order). What `read` returns is dropped when the job is computed. Ends at the
    /// first job that fails, in job order.
    pub fn run<J, P, R, W>(
        &self,
        jobs: impl Iterator<Item = (usize, J)> + Send,
        read: impl Fn(&J) -> P + Sync,
        worker: impl Fn(usize) -> W + Sync,
        mut write: impl FnMut(J, R) -> Result<()>,
    ) -> Result<()>
    where
        J: Send,
        P: Send,
        R: Send,
        W: FnMut(&J) -> Result<R>,
    {
        let threads = self.pool.current_num_threads();
        let (to_compute, from_reader) = bounded(threads * QUEUE_JOBS_PER_THREAD);
        let (to_writer, from_compute) = bounded(threads * QUEUE_JOBS_PER_THREAD);
        let failed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let to_compute: Sender<Load<'_, (J, P)>> = to_compute;
                for (number, (bytes, content)) in (0..).zip(jobs) {
                    if failed.load(Ordering::Relaxed) {
                        break;
                    }
                    self.stop.check()?;
                    let permit = self.window.take(bytes);
                    let prepared = read(&content);
                    if to_compute.send(Load { number, content: (content, prepared), permit }).is_err() {
                        break;
                    }
                }
                Ok(())
            });
            scope.spawn(|| {
                let (from_reader, to_writer) = (from_reader, to_writer);
                self.pool.scope(|pool| {
                    for index in 0..threads {
                        let (from_reader, to_writer): (Receiver<Load<'_, (J, P)>>, _) =
                            (from_reader.clone(), to_writer.clone());
                        let worker = &worker;
                        pool.spawn(move |_| {
                            let mut compute = worker(index);
                            for load in from_reader {
                                let (job, prepared) = load.content;
                                let result = compute(&job);
                                drop(prepared);
                                let done = Load { number: load.number, content: (job, result), permit: load.permit };
                                if to_writer.send(done).is_err() {
                                    break;
                                }
                            }
                        });
                    }
                });
            });
            let result = in_order(&from_compute, |(job, result)| result.and_then(|r| write(job, r)), &failed);
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(read)
        })
    }
}

/// Hands over finished jobs by number. After the first failure the rest is drained and dropped.
fn in_order<T>(done: &Receiver<Load<'_, T>>, mut take: impl FnMut(T) -> Result<()>, failed: &AtomicBool) -> Result<()> {
    let mut next = 0;
    let mut early = BTreeMap::new();
    let mut result = Ok(());
    for load in done {
        early.insert(load.number, load);
        while let Some(load) = early.remove(&next) {
            next += 1;
            if result.is_ok() {
                result = take(load.content);
                failed.store(result.is_err(), Ordering::Relaxed);
            }
            drop(load.permit);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn run(threads: usize, window: usize, fail_at: Option<u64>) -> (Vec<u64>, Result<()>) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let window = Window::new(window);
        let stop = Stop::default();
        let pipeline = Pipeline { pool: &pool, window: &window, stop: &stop };
        let mut seen = Vec::new();
        let jobs = (0..200u64).map(|i| (1 + (i % 7) as usize, i));
        let compute = |i: &u64| {
            std::thread::sleep(std::time::Duration::from_micros((i * 7919) % 50));
            match fail_at {
                Some(at) if *i >= at => Err(Error::Usage(format!("job {i}"))),
                _ => Ok(i * 2),
            }
        };
        let result = pipeline.run(
            jobs,
            |_| {},
            |_| compute,
            |job, twice| {
                assert_eq!(twice, job * 2);
                seen.push(job);
                Ok(())
            },
        );
        (seen, result)
    }

    #[test]
    fn results_arrive_in_job_order_whatever_threads_and_window() {
        for threads in [1, 2, 5] {
            for window in [1, 10, 1000] {
                let (seen, result) = run(threads, window, None);
                result.unwrap();
                assert_eq!(seen, (0..200).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_first_failure_in_job_order_is_the_one_reported() {
        for _ in 0..20 {
            let (seen, result) = run(4, 30, Some(57));
            assert_eq!(result.unwrap_err().to_string(), "job 57");
            assert_eq!(seen, (0..57).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_stop_ends_the_run_with_its_signal() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let (window, stop) = (Window::new(10), Stop::default());
        let pipeline = Pipeline { pool: &pool, window: &window, stop: &stop };
        let result = pipeline.run(
            (0..).map(|i: u64| (1, i)),
            |_| {},
            |_| |i: &u64| Ok(*i),
            |job, _| {
                if job == 20 {
                    stop.0.store(15, Ordering::Relaxed);
                }
                Ok(())
            },
        );
        assert_eq!(result.unwrap_err().exit_code(), 143);
    }
}
