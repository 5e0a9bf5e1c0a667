//! Why an image URL gave no image: a label for the counter and the log, and a sentence for whoever runs the command.
//!
//! A client of the service reads neither.

use std::error::Error;

use crate::error::CaptionError;
use crate::fetch::resolver::{PrivateAddress, Unresolvable};

/// What a local user can do about a reason, or what it means.
pub(crate) fn explain_refusal(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "disabled" => "image URLs are switched off by --no-fetch",
        "host" => "its host is not one of --fetch-hosts",
        "port" => "its port is not one of --fetch-ports",
        "private_address" => "it leads to a private address, see --allow-private-networks",
        "private_name" => "its host is a name of private networks, see --allow-private-networks",
        "redirect" => "it is redirected, see --fetch-redirects",
        "too_many_redirects" => "it is redirected more often than --fetch-redirects allows",
        "redirect_downgrade" => "it is redirected from https to http",
        "connect_timeout" => "no connection within --fetch-connect-timeout",
        "idle_timeout" => "its server was silent for longer than --fetch-idle-timeout",
        "timeout" => "it took longer than --fetch-timeout",
        "busy" => "no place was free within --fetch-timeout, see --fetch-concurrency",
        "too_large" => "the file is larger than --max-image-bytes",
        _ => return None,
    })
}

/// An error without a cause.
pub(super) fn refused(reason: &'static str) -> CaptionError {
    CaptionError::ImageUrl { reason, source: None }
}

/// The HTTP client's error with a label.
pub(super) fn failed(error: reqwest::Error) -> CaptionError {
    let is_caused_by = |test: fn(&(dyn Error + 'static)) -> bool| causes(&error).any(test);
    let reason = if is_caused_by(<dyn Error>::is::<PrivateAddress>) {
        "private_address"
    } else if is_caused_by(<dyn Error>::is::<Unresolvable>) {
        "dns"
    } else if error.is_connect() {
        if error.is_timeout() { "connect_timeout" } else { "connect" }
    } else {
        "transfer"
    };
    // The log has the URL's host from elsewhere; its path and query may hold a signature.
    CaptionError::ImageUrl { reason, source: Some(error.without_url().into()) }
}

/// What is behind an error, outermost first.
fn causes(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}
