//! What an operator watches: a log line a request with its id, and figures for Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Bounds of the latency histogram, seconds.
const BUCKETS_SECS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: String,
    /// The route's pattern, so that ids do not make a series each.
    route: String,
    status: u16,
}

/// The figures.
pub struct Telemetry {
    registry: Registry,
    requests: Family<Labels, Counter>,
    latency: Histogram,
    listeners: Gauge,
    queued: Gauge,
    records: Gauge,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("beckon");
        let (requests, latency) = (Family::<Labels, Counter>::default(), Histogram::new(BUCKETS_SECS));
        let (listeners, queued, records) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("http_requests", "Requests answered", requests.clone());
        registry.register_with_unit("http_latency", "Time to the head of the answer", Unit::Seconds, latency.clone());
        registry.register("event_listeners", "Open event streams", listeners.clone());
        registry.register("runs_queued", "Runs that wait for the device", queued.clone());
        registry.register("log_records", "Records in the click log", records.clone());
        Self { registry, requests, latency, listeners, queued, records }
    }
}

impl Telemetry {
    /// Counts an answer.
    pub fn answered(&self, method: &str, route: &str, status: u16, secs: f64) {
        let labels = Labels { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        self.latency.observe(secs);
    }

    /// Figures that are read when they are asked for.
    pub fn set_gauges(&self, n_listeners: usize, n_queued: usize, n_records: u64) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.listeners.set(signed(n_listeners as u64));
        self.queued.set(signed(n_queued as u64));
        self.records.set(signed(n_records));
    }

    /// All figures in OpenMetrics text.
    ///
    /// # Errors
    /// None in practice: it writes into a string.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Starts logging to standard error: as lines for people, or as JSON. `BECKON_LOG` sets levels (`info` unless told), as
/// `warn,beckon_server=debug`. A second call changes nothing.
pub fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_env("BECKON_LOG").unwrap_or_else(|_| EnvFilter::new("warn,beckon_server=info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // an error means that a logger is there already
    let _ = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_counted_by_route_and_status() {
        let telemetry = Telemetry::default();
        telemetry.answered("GET", "/api/runs/{id}", 200, 0.002);
        telemetry.answered("GET", "/api/runs/{id}", 200, 0.2);
        telemetry.set_gauges(3, 1, 42);
        let text = telemetry.text().expect("text");
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        has("beckon_http_requests_total{method=\"GET\",route=\"/api/runs/{id}\",status=\"200\"} 2");
        has("beckon_event_listeners 3");
        has("beckon_log_records 42");
        has("beckon_http_latency_seconds_count 2");
        assert!(text.ends_with("# EOF\n"));
    }
}
