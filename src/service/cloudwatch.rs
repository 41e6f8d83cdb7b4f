//! Metrics for CloudWatch: settings and a client of AWS → the task that sends them.

use std::sync::Arc;
use std::time::Duration;

use super::seed;
use crate::aws::{CloudWatch, sdk_config};
use crate::clock::wall_clock_us;
use crate::config::{CloudWatchConfig, Config};
use crate::telemetry::cloudwatch::{Exporter, ExporterSettings, PutFailed};
use crate::telemetry::status::Status;

/// Alarms of standard metrics look at whole minutes.
const EVERY: Duration = Duration::from_secs(60);

/// Periods of alarms on metrics of high resolution are 10, 20 or 30 s (CloudWatch, `PutMetricAlarm`).
const AGES_EVERY: Duration = Duration::from_secs(10);

/// What sends the metrics of `status`. CloudWatch itself is not asked: it may be out of reach for as long as it likes.
pub(super) async fn exporter(
    cloudwatch: &CloudWatchConfig,
    config: &Config,
    status: &Arc<Status>,
) -> Exporter {
    let sdk = sdk_config(config.endpoints.cloudwatch.as_deref(), config.region.as_deref()).await;
    let client = CloudWatch::new(&sdk);
    let namespace = cloudwatch.namespace.clone().unwrap_or_else(|| config.application.clone());
    let settings = ExporterSettings {
        level: cloudwatch.level,
        namespace: namespace.clone(),
        several: config.streams.several,
        every: EVERY,
        ages_every: cloudwatch.high_resolution.then_some(AGES_EVERY),
        seed: seed(),
        wall_clock: Box::new(wall_clock_us),
        put: Box::new(move |metrics| {
            let (client, namespace) = (client.clone(), namespace.clone());
            Box::pin(async move {
                let put = client.put(&namespace, metrics).await;
                put.map_err(|refused| PutFailed { cause: refused.to_string(), for_ever: refused.for_ever })
            })
        }),
    };
    Exporter::new(settings, Arc::clone(status))
}
