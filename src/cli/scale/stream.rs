//! The stream as the plan sees it and as its shards are changed: all calls to Kinesis of these commands.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{ScalingType, Shard, ShardFilter, ShardFilterType, StreamMode, StreamStatus};

use crate::aws::{OfStream, StreamAddress, explain};
use crate::clock::wall_clock_s;
use crate::scale::{Line, Mode};

/// Uses of `UpdateShardCount` count for so long.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// When the first use of a day was is found to this.
const PRECISION: Duration = Duration::from_secs(60);
/// Shards per call, the most that `ListShards` allows.
const PAGE_SHARDS_MAX: i32 = 1000;

/// A stream, and who asks it.
pub(super) struct Stream {
    client: Client,
    address: StreamAddress,
}

/// A stream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) mode: Mode,
    pub(super) status: StreamStatus,
    pub(super) open_shards: u32,
    pub(super) retention_hours: Option<u32>,
    pub(super) arn: String,
    /// Seconds since the epoch.
    created: u64,
}

impl Seen {
    /// Its shards can be changed.
    pub(super) fn active(&self) -> bool {
        self.status == StreamStatus::Active
    }
}

/// Why `UpdateShardCount` was not accepted.
#[derive(Debug)]
pub(super) enum NotAsked {
    /// The stream shows how it stands: what was asked before may still be carried out, or already be.
    LookAgain(String),
    /// A limit: that of the day, or of the account.
    Limit(String),
    /// It will not be accepted.
    Refused(String),
}

impl Stream {
    pub(super) fn new(client: Client, address: StreamAddress) -> Self {
        Self { client, address }
    }

    pub(super) fn address(&self) -> &StreamAddress {
        &self.address
    }

    /// How it stands now.
    pub(super) async fn look(&self) -> anyhow::Result<Seen> {
        let call = self.client.describe_stream_summary().of(&self.address);
        let answer = call.send().await.map_err(|error| match error.code() {
            Some("ResourceNotFoundException") => {
                anyhow!("stream {}: does not exist; {}", self.address, self.address.check())
            }
            _ => anyhow!("stream {}: {}", self.address, explain(&error)),
        })?;
        let summary = answer.stream_description_summary;
        let summary =
            summary.with_context(|| format!("stream {}: its description is empty", self.address))?;
        let known =
            [StreamStatus::Active, StreamStatus::Updating, StreamStatus::Creating, StreamStatus::Deleting];
        if !known.contains(&summary.stream_status) {
            let status = &summary.stream_status;
            return Err(anyhow!("stream {}: its status {status:?} is not understood", self.address));
        }
        let mode = summary.stream_mode_details.as_ref().map(|details| &details.stream_mode);
        Ok(Seen {
            mode: if mode == Some(&StreamMode::OnDemand) { Mode::OnDemand } else { Mode::Provisioned },
            status: summary.stream_status,
            open_shards: u32::try_from(summary.open_shard_count).unwrap_or(0),
            retention_hours: u32::try_from(summary.retention_period_hours).ok(),
            arn: summary.stream_arn,
            created: u64::try_from(summary.stream_creation_timestamp.secs()).unwrap_or(0),
        })
    }

    /// Asks for so many shards.
    pub(super) async fn ask(&self, shards: u32) -> Result<(), NotAsked> {
        let call = self.client.update_shard_count().of(&self.address);
        let target = i32::try_from(shards).unwrap_or(i32::MAX);
        let call = call.target_shard_count(target).scaling_type(ScalingType::UniformScaling);
        let Err(error) = call.send().await else { return Ok(()) };
        let said = explain(&error);
        Err(match error.code() {
            Some("LimitExceededException") => {
                let text = error.message().unwrap_or("LimitExceededException");
                NotAsked::Limit(crate::cause::one_line(text))
            }
            Some("AccessDeniedException" | "ResourceNotFoundException" | "ValidationException") => {
                NotAsked::Refused(said)
            }
            _ => NotAsked::LookAgain(said),
        })
    }

    /// The shards that are open, or were when the last 24 hours began or later.
    pub(super) async fn lines(&self, seen: &Seen) -> anyhow::Result<Vec<Line>> {
        let since = day_began(seen);
        let before = self.open_at(since).await?;
        let shards = self.list(ShardFilterType::FromTimestamp, since).await?;
        Ok(shards.iter().map(|shard| line(shard, &before)).collect())
    }

    /// When the first change of the last 24 hours counts no more, as a time for people.
    pub(super) async fn possible_again(&self, seen: &Seen) -> anyhow::Result<String> {
        let (mut before, mut after) = (day_began(seen), wall_clock_s());
        let then = self.open_at(before).await?;
        while after.saturating_sub(before) > PRECISION.as_secs() {
            let middle = before.midpoint(after);
            if self.open_at(middle).await? == then { before = middle } else { after = middle }
        }
        let at: SystemTime = UNIX_EPOCH + Duration::from_secs(after) + DAY;
        Ok(humantime::format_rfc3339_seconds(at).to_string())
    }

    async fn open_at(&self, at: u64) -> anyhow::Result<BTreeSet<String>> {
        let shards = self.list(ShardFilterType::AtTimestamp, at).await?;
        Ok(shards.into_iter().map(|shard| shard.shard_id).collect())
    }

    async fn list(&self, filter: ShardFilterType, at: u64) -> anyhow::Result<Vec<Shard>> {
        let time = DateTime::from(UNIX_EPOCH + Duration::from_secs(at));
        let filter = ShardFilter::builder().r#type(filter).timestamp(time).build()?;
        let (mut shards, mut next) = (Vec::new(), None::<String>);
        loop {
            let call = self.client.list_shards().max_results(PAGE_SHARDS_MAX);
            // The service takes the stream and the filter, or the token.
            let call = match next.take() {
                Some(token) => call.next_token(token),
                None => call.of(&self.address).shard_filter(filter.clone()),
            };
            let page = call.send().await.map_err(|error| anyhow!("its shards: {}", explain(&error)))?;
            shards.extend(page.shards.unwrap_or_default());
            next = page.next_token;
            if next.is_none() {
                return Ok(shards);
            }
        }
    }
}

/// When the last 24 hours of a stream began, or the stream itself.
fn day_began(seen: &Seen) -> u64 {
    wall_clock_s().saturating_sub(DAY.as_secs()).max(seen.created)
}

fn line(shard: &Shard, before: &BTreeSet<String>) -> Line {
    let parents = [&shard.parent_shard_id, &shard.adjacent_parent_shard_id];
    let range = shard.sequence_number_range.as_ref();
    Line {
        id: shard.shard_id.clone(),
        parents: parents.into_iter().flatten().cloned().collect(),
        open: range.is_none_or(|range| range.ending_sequence_number.is_none()),
        new: !before.contains(&shard.shard_id),
    }
}
