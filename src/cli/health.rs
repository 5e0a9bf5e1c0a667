//! `blip-serve health`: asks a running service for its health, for containers without another HTTP client.

use std::{
    error::Error,
    io::{self, Write},
    iter::successors,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use reqwest::{Client, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::cli::command::{CommandError, single_threaded_runtime};

/// Check whether a running service is ready; exit code 0 if it is.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Address of the service, without TLS; defaults to --admin-listen or --listen on this machine
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,

    /// Check whether it is live, rather than ready
    #[arg(long)]
    live: bool,

    /// Seconds to wait for the response
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// Plaintext address of the service for health
    #[arg(long, env = "BLIP_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,

    /// Address of the service
    #[arg(long, env = "BLIP_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
}

impl Health {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        single_threaded_runtime()?.block_on(self.ask())
    }

    async fn ask(self) -> Result<ExitCode, CommandError> {
        let state = if self.live { "live" } else { "ready" };
        let address = self.address.unwrap_or_else(|| reachable(self.admin_listen.unwrap_or(self.listen)).to_string());
        let url = format!("http://{address}/v2/health/{state}");
        let client = Client::builder()
            .tls_backend_preconfigured(no_tls()?)
            .redirect(Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(self.timeout))
            .build()?;
        let reply = client.get(&url).send().await.map_err(|error| {
            let hint = if error.is_connect() || error.is_timeout() {
                ""
            } else {
                "; for a service with TLS use its --admin-listen"
            };
            format!("{address}: {}{hint}", innermost(&error))
        })?;
        if !reply.status().is_success() {
            return Err(format!("{address}: not {state}: {}", reply.status()).into());
        }
        writeln!(io::stdout(), "{state}")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The address at which a service that listens on `address` is reached from the same machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// TLS without root certificates: the client requires a configuration, but uses plain HTTP only.
fn no_tls() -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The innermost cause: `Connection refused` rather than `error sending request`.
fn innermost(error: &(dyn Error + 'static)) -> String {
    successors(Some(error), |error| (*error).source()).last().map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_on_every_address_is_reached_on_loopback() {
        let reached = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(reached("[::]:1"), "[::1]:1");
        assert_eq!(reached("192.0.2.1:80"), "192.0.2.1:80");
    }
}
