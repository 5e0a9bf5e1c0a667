//! Name look-up for the fetcher: an answer is used only if every address in it may be reached.
//!
//! The HTTP client connects to exactly the addresses given here, so a name cannot mean one address to a check and another
//! to the connection.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

use super::address::is_global;

/// A name that leads, wholly or in part, to addresses off the public Internet.
#[derive(Debug, Error)]
#[error("the name resolves to an address that is not public: {0}")]
pub(super) struct PrivateAddress(SocketAddr);

/// A name that cannot be looked up.
#[derive(Debug, Error)]
#[error("the name cannot be resolved: {0}")]
pub(super) struct Unresolvable(std::io::Error);

/// The system's resolver behind the address table.
#[derive(Clone, Copy, Debug)]
pub(super) struct PublicResolver {
    /// Skips the table.
    pub(super) allow_private_networks: bool,
}

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private_networks = self.allow_private_networks;
        Box::pin(async move {
            // Port 0: the client puts the URL's port in.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unresolvable)?;
            let addresses: Vec<SocketAddr> = found.collect();
            // One private address among public ones is an attack, or a mistake that would fail now and then.
            let private = addresses.iter().find(|address| !allow_private_networks && !is_global(address.ip()));
            match private {
                Some(private) => Err(PrivateAddress(*private).into()),
                None => Ok(Box::new(addresses.into_iter()) as Addrs),
            }
        })
    }
}
