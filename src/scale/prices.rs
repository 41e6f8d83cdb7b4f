//! What shards and tasks cost. List prices of us-east-1 in US dollars, November 2026: other regions differ by some percent.
//! This is the one place for them.
//!
//! Sources: <https://aws.amazon.com/kinesis/data-streams/pricing/>, <https://aws.amazon.com/fargate/pricing/>.

/// Where and when.
pub const OF: &str = "list prices of us-east-1, November 2026";

/// Hours in a month, as AWS counts them.
const HOURS: f64 = 730.0;

/// A provisioned shard, an hour.
const SHARD: f64 = 0.015;
/// A shard that keeps records for longer than 24 hours, an hour on top. (Above seven days AWS bills by volume instead.)
const SHARD_EXTENDED: f64 = 0.020;
/// An on-demand stream, an hour; what is written and read costs on top of it.
const ON_DEMAND_STREAM: f64 = 0.040;
/// A processor of a Fargate task on ARM64, an hour.
const VCPU: f64 = 0.032_38;
/// A GB of memory of such a task, an hour.
const MEMORY_GB: f64 = 0.003_56;

/// The task of the service template in `ecs/`.
pub const TASK: &str = "Fargate ARM64, 0.5 vCPU, 1 GB";

/// Provisioned shards a month. What is written costs the same with any number of them.
pub fn shards(count: u32, retention_hours: u32) -> f64 {
    let extended = if retention_hours > 24 { SHARD_EXTENDED } else { 0.0 };
    f64::from(count) * (SHARD + extended) * HOURS
}

/// An on-demand stream a month, before what is written and read.
pub fn on_demand() -> f64 {
    ON_DEMAND_STREAM * HOURS
}

/// Tasks a month.
pub fn tasks(count: u32) -> f64 {
    f64::from(count) * 0.5f64.mul_add(VCPU, MEMORY_GB) * HOURS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in `docs/DEPLOY.md`.
    #[test]
    fn a_month_is_what_the_documents_say() {
        assert_eq!((tasks(2).round(), on_demand().round()), (29.0, 29.0));
        assert_eq!((shards(4, 24), shards(4, 168).round()), (43.8, 102.0));
    }
}
