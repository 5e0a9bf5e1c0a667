//! Sockets: listening, TLS, connections and their time limits, and reloading of certificates and keys.

pub(crate) mod connection;
pub(crate) mod idle;
pub(crate) mod listener;
pub(crate) mod reload;
pub(crate) mod tls;
