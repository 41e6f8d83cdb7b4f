//! Lands a row for each word of each record, exactly once: `custom_transform APPLICATION STREAM LAKE`, where the lake is
//! `s3://bucket/prefix` or a folder. Kill it, start it again or several times: no word is lost or doubled.

use std::time::Duration;

use kinetide::{BadRecord, ErrorCode, RecordContext, RowInfo, Rows, Transform, TransformId, Worker};

struct Words {
    id: TransformId,
}

impl Transform for Words {
    fn id(&self) -> &TransformId {
        &self.id
    }

    fn start(&self) -> Box<dyn Rows> {
        Box::new(WordsAtWork)
    }
}

struct WordsAtWork;

impl Rows for WordsAtWork {
    fn apply(
        &mut self,
        context: &RecordContext<'_>,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RowInfo, BadRecord> {
        // A record that cannot become rows becomes a dead letter, and holds up nothing.
        let text = std::str::from_utf8(data).map_err(|_| ErrorCode::NotUtf8)?;
        let mut rows = 0;
        for word in text.split_whitespace() {
            out.push(b'{');
            context.push_place(out); // which record the row is of
            let word = serde_json::to_string(word).expect("any text is a JSON string");
            out.extend_from_slice(format!(",\"index\":{rows},\"word\":{word}}}\n").as_bytes());
            rows += 1;
        }
        Ok(RowInfo { time_us: context.arrival_us, rows })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [application, stream, lake] = &arguments[..] else {
        return Err("usage: custom_transform APPLICATION STREAM LAKE".into());
    };
    // A new version with every change of the rows: workers of two versions do not finish each other's batches.
    let words = Words { id: TransformId::new("words", 1, "")? };
    let worker = Worker::builder(application, stream).failover_time(Duration::from_secs(5));
    worker.transform(words, lake).batch_age(Duration::from_secs(2)).build()?.run().await?;
    Ok(())
}
