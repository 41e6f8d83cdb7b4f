//! The requests that are made, each in the newest version that both sides know.

use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, FetchRequest, FetchResponse, InitProducerIdRequest, InitProducerIdResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, ProduceRequest, ProduceResponse, SaslAuthenticateRequest,
    SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

/// A request, and what answers it.
pub(super) trait Ask: Encodable + HeaderVersion {
    /// Its number.
    const KEY: i16;
    /// Its name, for people.
    const NAME: &'static str;
    /// The versions that this client knows: with the first one all is there that it needs.
    const VERSIONS: (i16, i16);
    /// What answers it.
    type Answer: Decodable + HeaderVersion;
}

macro_rules! asks {
    ($($request:ident, $answer:ident, $key:literal, $name:literal, $least:literal, $most:literal;)*) => {$(
        impl Ask for $request {
            const KEY: i16 = $key;
            const NAME: &'static str = $name;
            const VERSIONS: (i16, i16) = ($least, $most);
            type Answer = $answer;
        }
    )*};
}

// Topic ids: in Metadata from 12 on, in Fetch and Produce from 13 on (Kafka 3.1 and 4.0).
asks! {
    ProduceRequest, ProduceResponse, 0, "Produce", 9, 12;
    FetchRequest, FetchResponse, 1, "Fetch", 13, 16;
    ListOffsetsRequest, ListOffsetsResponse, 2, "ListOffsets", 5, 8;
    MetadataRequest, MetadataResponse, 3, "Metadata", 12, 13;
    SaslHandshakeRequest, SaslHandshakeResponse, 17, "SaslHandshake", 1, 1;
    ApiVersionsRequest, ApiVersionsResponse, 18, "ApiVersions", 3, 3;
    CreateTopicsRequest, CreateTopicsResponse, 19, "CreateTopics", 5, 7;
    DeleteTopicsRequest, DeleteTopicsResponse, 20, "DeleteTopics", 6, 6;
    InitProducerIdRequest, InitProducerIdResponse, 22, "InitProducerId", 2, 4;
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, 23, "OffsetForLeaderEpoch", 3, 4;
    SaslAuthenticateRequest, SaslAuthenticateResponse, 36, "SaslAuthenticate", 1, 2;
}
