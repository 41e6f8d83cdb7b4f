//! What CloudWatch and its clients say to each other, as JSON: `rpc-v2-cbor`, as far as these tests need it.

use aws_smithy_cbor::data::Type;
use aws_smithy_cbor::{Decoder, Encoder};
use axum::Router;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::endpoints::{Endpoint, serve};

/// The path of an operation.
pub(super) fn path(operation: &str) -> String {
    format!("/service/GraniteServiceVersion20100801/operation/{operation}")
}

pub(super) fn decoded(body: &[u8]) -> Value {
    value(&mut Decoder::new(body))
}

/// A CloudWatch that answers every call in this way. `code`: as the query protocol names it, which is what counts.
pub(super) async fn saying(code: &'static str, message: &'static str) -> Endpoint {
    serve(Router::new().fallback(move || async move {
        let body = json!({"__type": format!("com.amazonaws.cloudwatch#{code}Exception"), "message": message});
        let named = [(HeaderName::from_static("x-amzn-query-error"), format!("{code};Sender"))];
        (StatusCode::BAD_REQUEST, named, answer(&body)).into_response()
    }))
    .await
}

/// A good answer. Its numbers are all doubles.
pub(super) fn answer(value: &Value) -> Response {
    let mut encoder = Encoder::new(Vec::new());
    encode(value, &mut encoder);
    let headers = [("content-type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor")];
    (headers, encoder.into_writer()).into_response()
}

/// A time is its seconds.
fn value(decoder: &mut Decoder<'_>) -> Value {
    match decoder.datatype().unwrap() {
        Type::String => decoder.string().unwrap().into(),
        Type::F64 => decoder.double().unwrap().into(),
        Type::Bool => decoder.boolean().unwrap().into(),
        Type::U8 | Type::U16 | Type::U32 => decoder.long().unwrap().into(),
        Type::Tag => decoder.timestamp().unwrap().secs().into(),
        Type::Array => (0..decoder.list().unwrap().unwrap()).map(|_| value(decoder)).collect(),
        Type::MapIndef => {
            decoder.map().unwrap();
            let mut members = Map::new();
            while decoder.datatype().unwrap() != Type::Break {
                let name = decoder.string().unwrap();
                members.insert(name, value(decoder));
            }
            decoder.skip().unwrap();
            members.into()
        }
        other => panic!("{other:?} is not what the client of CloudWatch sends"),
    }
}

fn encode(value: &Value, encoder: &mut Encoder) {
    match value {
        Value::Null => _ = encoder.null(),
        Value::Bool(value) => _ = encoder.boolean(*value),
        Value::Number(number) => _ = encoder.double(number.as_f64().unwrap()),
        Value::String(text) => _ = encoder.str(text),
        Value::Array(values) => {
            encoder.array(values.len());
            values.iter().for_each(|value| encode(value, encoder));
        }
        Value::Object(members) => {
            encoder.map(members.len());
            for (name, value) in members {
                encoder.str(name);
                encode(value, encoder);
            }
        }
    }
}
