//! The pool's promises: every call once, no lost wake-up, panics passed on, threads ended.

use super::*;

#[test]
fn every_thread_once() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads);
        for _ in 0..200 {
            let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            pool.run(&|t| {
                calls[t].fetch_add(1, Relaxed);
            });
            assert!(calls.iter().all(|c| c.load(Relaxed) == 1));
        }
    }
}

#[test]
fn parked_workers_wake() {
    let pool = Pool::new(3);
    for pause in [0, 20, 100, 400] {
        std::thread::sleep(Duration::from_micros(pause));
        let sum = AtomicUsize::new(0);
        pool.run(&|t| {
            // The caller ends first, so that it parks too.
            std::thread::sleep(Duration::from_micros(pause * t as u64));
            sum.fetch_add(t, Relaxed);
        });
        assert_eq!(sum.load(Relaxed), 3);
    }
}

#[test]
fn pieces_once_each() {
    let pool = Pool::new(3);
    for pieces in [0, 1, 2, 3, 100] {
        let calls: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
        pool.each(pieces, &|thread, piece| {
            assert!(thread < 3);
            calls[piece].fetch_add(1, Relaxed);
        });
        assert!(calls.iter().all(|c| c.load(Relaxed) == 1));
    }
}

#[test]
fn others_take_what_a_slow_thread_has_left() {
    let pool = Pool::new(3);
    let done = AtomicUsize::new(0);
    let start = Instant::now();
    pool.each(100, &|_, piece| {
        // The first piece of a run waits for all the others, of its own run too.
        while piece == 0 && done.load(Relaxed) < 99 && start.elapsed() < Duration::from_secs(60) {
            std::thread::yield_now();
        }
        done.fetch_add(1, Relaxed);
    });
    assert!(start.elapsed() < Duration::from_secs(60) && done.load(Relaxed) == 100);
}

#[test]
fn tiles_cover_the_matrix_once() {
    let pool = Pool::new(3);
    for (rows, cols, tile) in [(1, 1, (1, 1)), (5, 7, (2, 3)), (4, 6, (4, 6)), (4, 6, (9, 9)), (0, 3, (1, 1))]
    {
        let mut matrix = vec![0usize; rows * cols];
        pool.tiles(&mut matrix, cols, tile, &|_, mut tile| {
            for r in 0..tile.rows() {
                let (row, col) = (tile.first_row() + r, tile.first_col());
                tile.row(r).iter_mut().enumerate().for_each(|(c, x)| *x += 1 + row * cols + col + c);
            }
        });
        assert!(matrix.iter().enumerate().all(|(i, x)| *x == i + 1), "{matrix:?}");
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3);
    for guilty in 0..3 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|t| assert!(t != guilty, "task {t}"));
        }));
        let payload = caught.expect_err("the task panicked");
        assert!(payload.downcast_ref::<String>().is_some_and(|m| m.contains(&format!("task {guilty}"))));
    }
    let sum = AtomicUsize::new(0);
    pool.run(&|t| {
        sum.fetch_add(t, Relaxed);
    });
    assert_eq!(sum.load(Relaxed), 3);
}

#[test]
fn two_callers_take_turns() {
    let pool = Pool::new(2);
    let sum = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                (0..100).for_each(|_| {
                    pool.run(&|_| {
                        sum.fetch_add(1, Relaxed);
                    })
                })
            });
        }
    });
    assert_eq!(sum.load(Relaxed), 600);
}

#[test]
#[should_panic(expected = "3..9 of 5")]
fn a_range_that_leaves_the_slice() {
    let mut data = [0; 5];
    let view = Disjoint::new(&mut data);
    // SAFETY: it is the only range taken.
    unsafe { view.slice(3..9) };
}
