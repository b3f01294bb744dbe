//! Metrics endpoint of a process, apart from the API.

use super::Failure;
use axum::{Router, routing::get};
use exodrive_runtime::tasks::Tasks;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpListener;

/// Name of the task that serves the metrics.
const TASK: &str = "metrics";

/// Collects metrics and serves them while the process runs.
pub(super) async fn serve_metrics(address: SocketAddr, tasks: &Tasks) -> Result<(), Failure> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)?
        .install_recorder()?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} (EXODRIVE_METRICS_ADDR): {error}"))?;
    tracing::info!(address = %listener.local_addr()?, "Metrics at /metrics");
    let upkeep = recorder.clone();
    let page = Router::new().route("/metrics", get(move || async move { recorder.render() }));
    // Also while the process stops, which is when its last figures are read.
    tasks.spawn_to_the_last(TASK, async move {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        let served = async { axum::serve(listener, page).await };
        tokio::pin!(served);
        loop {
            tokio::select! {
                _ = &mut served => return,
                _ = tick.tick() => upkeep.run_upkeep(),
            }
        }
    });
    Ok(())
}

const BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
