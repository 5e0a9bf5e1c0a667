//! Sockets: listening, TLS, connections and their time limits, and reloading on SIGHUP.

pub(crate) mod activity;
pub(crate) mod connection;
pub(crate) mod listener;
pub(crate) mod reload;
pub(crate) mod tls;
