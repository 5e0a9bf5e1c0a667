//! Settings of traces: those of this service, and OpenTelemetry's two variables for the collector's address.

use std::{fmt, str::FromStr};

use clap::Args;
use url::Url;

use crate::config::parse::ratio;

/// OTLP's path for traces below a collector's address.
const TRACES_PATH: &str = "/v1/traces";

/// Where traces are sent to, and which requests are traced.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Observability")]
pub struct TraceConfig {
    /// Address of an OpenTelemetry collector for OTLP over HTTP, such as http://collector:4318; defaults to
    /// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT. Without any of them nothing is traced
    #[arg(long, env = "BLIP_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL")]
    otlp_endpoint: Option<Endpoint>,

    /// As OpenTelemetry defines it: the whole URL
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", hide = true)]
    otel_exporter_otlp_traces_endpoint: Option<Endpoint>,

    /// As OpenTelemetry defines it: the URL without the path for traces
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide = true)]
    otel_exporter_otlp_endpoint: Option<Endpoint>,

    /// Share of requests to trace, from 0 to 1; a request with a traceparent header follows its caller's decision
    #[arg(long, env = "BLIP_TRACE_SAMPLE", value_name = "RATIO", default_value_t = 1.0, value_parser = ratio)]
    pub(crate) trace_sample: f64,
}

/// The address of a collector, which may contain a secret; an empty one counts as not set.
#[derive(Clone)]
struct Endpoint(Option<Url>);

impl TraceConfig {
    /// The URL that spans are posted to, if there is one.
    pub(crate) fn url(&self) -> Option<String> {
        let below = |endpoint: &Option<Endpoint>| {
            let url = endpoint.as_ref()?.0.as_ref()?;
            Some(format!("{}{TRACES_PATH}", url.as_str().trim_end_matches('/')))
        };
        let whole = |endpoint: &Option<Endpoint>| Some(endpoint.as_ref()?.0.as_ref()?.to_string());
        below(&self.otlp_endpoint)
            .or_else(|| whole(&self.otel_exporter_otlp_traces_endpoint))
            .or_else(|| below(&self.otel_exporter_otlp_endpoint))
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        url.map(|url| Self(Some(url))).ok_or("must be a URL such as http://collector:4318")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn url(arguments: &[&str]) -> Option<String> {
        let command = TraceConfig::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).unwrap();
        TraceConfig::from_arg_matches(&matches).unwrap().url()
    }

    #[test]
    fn the_flag_of_this_service_has_priority_and_paths_follow_the_convention() {
        let ours = "--otlp-endpoint=http://a:4318/b/";
        let all = "--otel-exporter-otlp-endpoint=http://c:4318";
        let traces = "--otel-exporter-otlp-traces-endpoint=http://d:4318/x";
        assert_eq!(url(&[]), None);
        assert_eq!(url(&[ours, all, traces]).unwrap(), "http://a:4318/b/v1/traces");
        assert_eq!(url(&[all]).unwrap(), "http://c:4318/v1/traces");
        assert_eq!(url(&[all, traces]).unwrap(), "http://d:4318/x");
        assert_eq!(url(&["--otlp-endpoint=", all]).unwrap(), "http://c:4318/v1/traces");
    }

    #[test]
    fn an_invalid_endpoint_is_refused_and_a_valid_one_is_not_shown() {
        for bad in ["collector:4317", "ftp://x", "x"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", "http://x/?key=secret".parse::<Endpoint>()), "Ok(***)");
    }
}
