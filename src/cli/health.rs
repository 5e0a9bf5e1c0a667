//! `blip-serve health`: is the service well? For a container's health check, which has no other client.

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

use crate::cli::{CommandError, single_threaded_runtime};

/// Ask a running service whether it is ready; exit status 0 if it is.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Whom to ask, in plain HTTP; else the service with these settings on this machine, its --admin-listen first
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,

    /// Ask whether it is alive, not whether it is ready
    #[arg(long)]
    live: bool,

    /// Seconds that the answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// The service's plaintext address for health
    #[arg(long, env = "BLIP_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,

    /// The service's address
    #[arg(long, env = "BLIP_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
}

impl Health {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        single_threaded_runtime()?.block_on(self.ask())
    }

    async fn ask(self) -> Result<ExitCode, CommandError> {
        let question = if self.live { "live" } else { "ready" };
        let address = self.address.unwrap_or_else(|| reachable(self.admin_listen.unwrap_or(self.listen)).to_string());
        let url = format!("http://{address}/v2/health/{question}");
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
                "; a port that speaks TLS is not asked, but its --admin-listen"
            };
            format!("{address}: {}{hint}", innermost(&error))
        })?;
        if !reply.status().is_success() {
            return Err(format!("{address}: not {question}: {}", reply.status()).into());
        }
        writeln!(io::stdout(), "{question}")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Where a service that listens on `address` is found from the same machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The client wants some TLS even if it will not use it; without roots it needs no certificates on the machine.
fn no_tls() -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The cause that says most: `Connection refused` rather than `error sending request`.
fn innermost(error: &(dyn Error + 'static)) -> String {
    successors(Some(error), |error| (*error).source()).last().map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_on_every_address_is_asked_on_loopback() {
        let asked = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(asked("[::]:1"), "[::1]:1");
        assert_eq!(asked("192.0.2.1:80"), "192.0.2.1:80");
    }
}
