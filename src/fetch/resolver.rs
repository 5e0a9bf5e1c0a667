//! Name look-up for the fetcher: an answer is used only if every address in it may be reached.
//!
//! The HTTP client connects to exactly the addresses given here, so a name cannot mean one address to a check and another
//! to the connection.

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

/// Addresses of a name that are tried. All are checked, but a name with a thousand must not mean a thousand connections.
const MAX_TRIED: usize = 8;

/// A name that leads, wholly or in part, to addresses off the public Internet.
#[derive(Debug, Error)]
#[error("the name resolves to an address that is not public: {0}")]
pub(super) struct PrivateAddress(SocketAddr);

/// A name that cannot be looked up.
#[derive(Debug, Error)]
#[error("the name cannot be resolved: {0}")]
pub(super) struct Unresolvable(io::Error);

/// Which answers may be used.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    /// Those with public addresses only.
    Public,
    /// All.
    Everything,
    /// Those for the proxy's name. Nothing else is looked up here, even if the HTTP client tried.
    Proxy(Arc<str>),
}

/// The system's resolver behind the address table.
#[derive(Clone, Debug)]
pub(super) struct CheckedResolver {
    reach: Reach,
    /// One permit a look-up. The system's resolver cannot be interrupted: what nobody waits for any more still takes a
    /// thread, until it gives up.
    lookups: Arc<Semaphore>,
}

impl CheckedResolver {
    pub(super) fn new(reach: Reach, max_lookups: usize) -> Self {
        Self { reach, lookups: Arc::new(Semaphore::new(max_lookups)) }
    }

    async fn look_up(self, name: String) -> Result<Addrs, Cause> {
        if let Reach::Proxy(proxy) = &self.reach
            && !name.eq_ignore_ascii_case(proxy)
        {
            return Err(Unresolvable(io::Error::other("names are looked up by the proxy")).into());
        }
        let permit = self.lookups.acquire_owned().await?;
        // Port 0: the client puts the URL's port in.
        let lookup = move || {
            let _permit = permit;
            (name.as_str(), 0).to_socket_addrs()
        };
        let addresses = spawn_blocking(lookup).await?.map_err(Unresolvable)?;
        if matches!(self.reach, Reach::Public) {
            // One private address among public ones is an attack, or a mistake that would fail now and then.
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

    async fn look_up(reach: Reach, name: &str) -> Result<Vec<SocketAddr>, String> {
        let found = CheckedResolver::new(reach, 1).look_up(name.to_owned()).await;
        found.map(Iterator::collect).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused_when_it_is_resolved() {
        let error = look_up(Reach::Public, "localhost").await.unwrap_err();
        assert!(error.contains("not public"), "{error}");
        assert!(!look_up(Reach::Everything, "localhost").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn with_a_proxy_only_its_own_name_is_looked_up() {
        let reach = Reach::Proxy("localhost".into());
        assert!(!look_up(reach.clone(), "LOCALHOST").await.unwrap().is_empty());
        let error = look_up(reach, "localhost.").await.unwrap_err();
        assert!(error.contains("by the proxy"), "{error}");
    }

    #[tokio::test]
    async fn a_look_up_waits_for_those_that_were_given_up() {
        let resolver = CheckedResolver::new(Reach::Everything, 1);
        let given_up = resolver.lookups.clone().acquire_owned().await.unwrap();
        let waiting = tokio::spawn(resolver.look_up("localhost".to_owned()));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(given_up);
        assert!(waiting.await.unwrap().is_ok());
    }
}
