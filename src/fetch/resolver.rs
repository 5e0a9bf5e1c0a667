//! Name resolution for the fetcher: an answer is used only if every address in it is allowed.
//!
//! The HTTP client connects to exactly these addresses, so a name cannot resolve to one address for the check and to
//! another for the connection.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::error::Cause;
use crate::fetch::address::is_global;

/// Maximum number of addresses to try. All are checked, but a thousand addresses must not cause a thousand connections.
const MAX_TRIED: usize = 8;

/// A name with at least one address outside the public Internet.
#[derive(Debug, Error)]
#[error("the name resolves to an address that is not public: {0}")]
pub(super) struct PrivateAddress(SocketAddr);

/// A name that cannot be resolved.
#[derive(Debug, Error)]
#[error("the name cannot be resolved: {0}")]
pub(super) struct Unresolvable(io::Error);

/// Which answers are allowed.
#[derive(Clone, Debug)]
pub(super) enum AddressRule {
    /// Answers with public addresses only.
    Public,
    /// All answers.
    Everything,
    /// Answers for the proxy's name; no other name is resolved here.
    Proxy(Arc<str>),
}

/// The system's resolver, with a check of its answers.
#[derive(Clone, Debug)]
pub(super) struct CheckedResolver {
    reach: AddressRule,
    /// One permit per look-up. The system's resolver cannot be interrupted: an abandoned look-up occupies its thread until
    /// it times out.
    lookups: Arc<Semaphore>,
}

impl CheckedResolver {
    pub(super) fn new(reach: AddressRule, max_lookups: usize) -> Self {
        Self { reach, lookups: Arc::new(Semaphore::new(max_lookups)) }
    }

    async fn look_up(self, name: String) -> Result<Addrs, Cause> {
        if let AddressRule::Proxy(proxy) = &self.reach
            && !name.eq_ignore_ascii_case(proxy)
        {
            return Err(Unresolvable(io::Error::other("the proxy resolves names")).into());
        }
        let permit = self.lookups.acquire_owned().await?;
        // The client replaces port 0 with the URL's port.
        let lookup = move || {
            let _permit = permit;
            (name.as_str(), 0).to_socket_addrs()
        };
        let addresses = spawn_blocking(lookup).await?.map_err(Unresolvable)?;
        if matches!(self.reach, AddressRule::Public) {
            // A private address among public ones is an attack, or a mistake that would fail only sometimes.
            if let Some(private) = addresses.clone().find(|address| !is_global(address.ip())) {
                return Err(PrivateAddress(private).into());
            }
        }
        Ok(Box::new(addresses.take(MAX_TRIED)))
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(self.clone().look_up(name.as_str().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn look_up(reach: AddressRule, name: &str) -> Result<Vec<SocketAddr>, String> {
        let found = CheckedResolver::new(reach, 1).look_up(name.to_owned()).await;
        found.map(Iterator::collect).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_name_with_a_private_address_is_refused() {
        let error = look_up(AddressRule::Public, "localhost").await.unwrap_err();
        assert!(error.contains("not public"), "{error}");
        assert!(!look_up(AddressRule::Everything, "localhost").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn with_a_proxy_only_the_proxy_s_name_is_resolved() {
        let reach = AddressRule::Proxy("localhost".into());
        assert!(!look_up(reach.clone(), "LOCALHOST").await.unwrap().is_empty());
        let error = look_up(reach, "localhost.").await.unwrap_err();
        assert!(error.contains("the proxy resolves names"), "{error}");
    }

    #[tokio::test]
    async fn a_look_up_waits_for_abandoned_ones() {
        let resolver = CheckedResolver::new(AddressRule::Everything, 1);
        let abandoned = resolver.lookups.clone().acquire_owned().await.unwrap();
        let waiting = tokio::spawn(resolver.look_up("localhost".to_owned()));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(abandoned);
        assert!(waiting.await.unwrap().is_ok());
    }
}
