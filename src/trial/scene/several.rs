//! Streams of several kinds for one application.

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Choose, Scene, TrialSource};
use crate::produce::Sink;
use crate::produce::kinesis::Receipt;
use crate::trial::{Table, TrialError};

/// Scenes side by side; their streams are numbered through.
pub(super) struct Several {
    parts: Vec<Box<dyn Scene>>,
    names: Vec<String>,
    /// Of each stream its part, and its number there.
    places: Vec<(usize, usize)>,
}

impl Several {
    /// Of these.
    pub(super) fn new(parts: Vec<Box<dyn Scene>>) -> Self {
        let names = parts.iter().flat_map(|part| part.streams()).cloned().collect();
        let streams = parts.iter().map(|part| part.streams().len()).enumerate();
        let places = streams.flat_map(|(part, count)| (0..count).map(move |stream| (part, stream))).collect();
        Self { parts, names, places }
    }

    fn of(&self, stream: usize) -> (&dyn Scene, usize) {
        let (part, stream) = self.places[stream];
        (&*self.parts[part], stream)
    }
}

#[async_trait]
impl Scene for Several {
    fn streams(&self) -> &[String] {
        &self.names
    }

    fn in_leases(&self) -> Vec<String> {
        self.parts.iter().flat_map(|part| part.in_leases()).collect()
    }

    fn source(&self, stream: usize) -> TrialSource {
        let (part, stream) = self.of(stream);
        part.source(stream)
    }

    async fn prepare(&self, shards: u32) -> Result<(), TrialError> {
        for part in &self.parts {
            part.prepare(shards).await?;
        }
        Ok(())
    }

    /// Flags name streams of one kind.
    fn worker_arguments(&self) -> Vec<String> {
        Vec::new()
    }

    fn worker_settings(&self) -> String {
        let table = |stream: usize| {
            let (name, source) = (&self.names[stream], self.source(stream));
            if source.of_tables() {
                return format!("[[streams]]\nkind = \"dynamodb-streams\"\ntable = \"{name}\"\n");
            }
            let retrieval = source.retrieval().map(|by| format!("retrieval = \"{by}\"\n"));
            format!("[[streams]]\nstream = \"{name}\"\n{}", retrieval.unwrap_or_default())
        };
        (0..self.names.len()).map(table).collect()
    }

    fn puts(&self, stream: usize, seed: u64, receipts: mpsc::Sender<Vec<Receipt>>) -> Sink {
        let (part, stream) = self.of(stream);
        part.puts(stream, seed, receipts)
    }

    async fn tell(
        &self,
        stream: usize,
        receipts: mpsc::Sender<Vec<Receipt>>,
        over: CancellationToken,
    ) -> Result<(), TrialError> {
        let (part, stream) = self.of(stream);
        part.tell(stream, receipts, over).await
    }

    async fn table(&self, stream: usize) -> Result<Option<Table>, TrialError> {
        let (part, stream) = self.of(stream);
        part.table(stream).await
    }

    async fn disturb(&self, stream: usize, choose: &mut Choose<'_>) -> Result<String, String> {
        let (part, at) = self.of(stream);
        let done = part.disturb(at, choose).await?;
        // A part of one stream has no need to name it.
        let name = &self.names[stream];
        Ok(if done.contains(name.as_str()) { done } else { format!("{done} of {name}") })
    }

    fn forget_before(&self, oldest_us: i64) {
        self.parts.iter().for_each(|part| part.forget_before(oldest_us));
    }

    async fn strike(&self) {
        for part in &self.parts {
            part.strike().await;
        }
    }
}
