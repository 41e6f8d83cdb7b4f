//! How the shards of a stream are read, as people say it.

use serde::Deserialize;

use super::{BadSetting, Config, name};

/// Letters of a consumer's name at most (`RegisterStreamConsumer`).
const CONSUMER_MAX: usize = 128;

/// By polling or by enhanced fan-out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum RetrievalSetting {
    /// By polling: it costs nothing, and shares the limits of each shard with all who poll it.
    #[default]
    Polling,
    /// By enhanced fan-out, as a registered consumer: sooner, with limits of its own, and AWS bills it.
    FanOut,
    /// By enhanced fan-out where the consumer exists or can be registered, else by polling.
    Auto,
}

/// How one stream is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetrievalConfig {
    /// In which way.
    pub by: RetrievalSetting,
    /// As which consumer; none: that of the application's name.
    pub consumer: Option<String>,
}

impl RetrievalConfig {
    /// Checked.
    ///
    /// # Errors
    /// When the name cannot be that of a consumer.
    pub fn new(by: RetrievalSetting, consumer: Option<String>) -> Result<Self, BadSetting> {
        if let Some(consumer) = &consumer {
            name("consumer-name", consumer, CONSUMER_MAX)?;
        }
        Ok(Self { by, consumer })
    }

    /// The name of the consumer of this application.
    pub fn consumer_of<'a>(&'a self, application: &'a str) -> &'a str {
        self.consumer.as_deref().unwrap_or(application)
    }
}

/// Whether the consumers can have these names, and the streams be read in this way.
pub(super) fn fits(config: &Config) -> Result<(), BadSetting> {
    for stream in &config.streams.streams {
        let retrieval = &stream.retrieval;
        if retrieval.by == RetrievalSetting::Polling {
            continue;
        }
        if stream.source.is_some() {
            let allowed = "must be left out: the program reads this stream with a source of its own";
            return Err(BadSetting::new("retrieval", "fan-out", allowed));
        }
        let consumer = retrieval.consumer_of(&config.application);
        if consumer.len() > CONSUMER_MAX {
            let allowed = format!(
                "must be set: the application's name is the default, and a consumer's name has at most {CONSUMER_MAX} \
                 letters"
            );
            return Err(BadSetting::new("consumer-name", "", allowed));
        }
    }
    Ok(())
}
