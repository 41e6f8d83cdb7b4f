//! Clients of Kinesis: in whose role and region a stream is asked, and how a call says which stream it is about.

use aws_config::SdkConfig;
use aws_sdk_kinesis::operation::describe_stream_summary::builders::DescribeStreamSummaryFluentBuilder;
use aws_sdk_kinesis::operation::get_records::builders::GetRecordsFluentBuilder;
use aws_sdk_kinesis::operation::get_shard_iterator::builders::GetShardIteratorFluentBuilder;
use aws_sdk_kinesis::operation::list_shards::builders::ListShardsFluentBuilder;
use aws_sdk_kinesis::operation::put_records::builders::PutRecordsFluentBuilder;
use aws_sdk_kinesis::operation::update_shard_count::builders::UpdateShardCountFluentBuilder;

use super::arn::StreamAddress;
use super::role::AssumeRole;
use super::sdk_config;
use super::sts::in_role;

/// What a client needs for the calls about this stream: the region of its ARN, else the one that is given, and the
/// credentials of this role, if there is one.
pub async fn stream_config(
    stream: &StreamAddress,
    role: Option<&AssumeRole>,
    endpoint: Option<&str>,
    region: Option<&str>,
) -> SdkConfig {
    let sdk = sdk_config(endpoint, stream.region_or(region)).await;
    // The SDK's futures are large, and this one is part of those of whole commands.
    Box::pin(in_role(sdk, role, region)).await
}

/// A call that is about one stream.
pub trait OfStream {
    /// The call, with the stream that it is about: `StreamName` or `StreamARN`, never both. An ARN is what reaches a stream
    /// of another account, and takes the call to that account's own host.
    #[must_use]
    fn of(self, stream: &StreamAddress) -> Self;
}

macro_rules! of_stream {
    ($($call:ty),+ $(,)?) => {$(
        impl OfStream for $call {
            fn of(self, stream: &StreamAddress) -> Self {
                match stream {
                    StreamAddress::Name(name) => self.stream_name(name),
                    other @ (StreamAddress::Table(_) | StreamAddress::Topic(_)) => {
                        unreachable!("{other} is not a stream of Kinesis")
                    }
                    StreamAddress::Arn(arn) => self.stream_arn(arn.to_string()),
                }
            }
        }
    )+};
}

of_stream!(
    DescribeStreamSummaryFluentBuilder,
    GetShardIteratorFluentBuilder,
    ListShardsFluentBuilder,
    PutRecordsFluentBuilder,
    UpdateShardCountFluentBuilder,
);

impl OfStream for GetRecordsFluentBuilder {
    /// The iterator knows the stream's name, and there is no member for it.
    fn of(self, stream: &StreamAddress) -> Self {
        self.set_stream_arn(stream.arn().map(ToString::to_string))
    }
}
