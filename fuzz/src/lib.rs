//! What the fuzz targets share: requests made up from random bytes, and what must hold of every answer.

pub mod bytes_of;
pub mod request;
pub mod search;
pub mod verdict;
pub mod watch;
