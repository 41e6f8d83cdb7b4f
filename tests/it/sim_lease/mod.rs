//! Fleets of coordinators on one table behind a bad network, in virtual time: crashes, stalls longer than the
//! failover time, reshards, deploys, wrong clocks, worker ids used twice. Everything is drawn from one seed, which is
//! printed.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod cases;
mod deploy;
mod hand_off;
mod mistakes;
mod slow;
mod world;
