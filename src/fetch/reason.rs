//! Why an image could not be fetched: a label for the metric and the log, and a sentence for the user of a command.
//!
//! A client of the service gets neither.

use std::error::Error;

use crate::error::CaptionError;
use crate::fetch::resolver::{PrivateAddress, Unresolvable};

/// Explains a reason to a local user, with the setting that changes it.
pub(crate) fn explain_refusal(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "disabled" => "image URLs are disabled by --no-fetch",
        "host" => "its host is not one of --fetch-hosts",
        "port" => "its port is not one of --fetch-ports",
        "private_address" => "it leads to a private address, see --allow-private-networks",
        "private_name" => "its host name is reserved for private networks, see --allow-private-networks",
        "redirect" => "it is redirected, see --fetch-redirects",
        "too_many_redirects" => "it is redirected more often than --fetch-redirects allows",
        "redirect_downgrade" => "it is redirected from https to http",
        "connect_timeout" => "no connection within --fetch-connect-timeout",
        "idle_timeout" => "its server sent nothing for longer than --fetch-idle-timeout",
        "timeout" => "it took longer than --fetch-timeout",
        "busy" => "too many images were being fetched for the whole of --fetch-timeout, see --fetch-concurrency",
        "too_large" => "the file is larger than --max-image-bytes",
        _ => return None,
    })
}

/// A refusal without a cause.
pub(super) fn refused(reason: &'static str) -> CaptionError {
    CaptionError::ImageUrl { reason, source: None }
}

/// Labels an error of the HTTP client.
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
    // The URL is removed: its path and query may contain a signature.
    CaptionError::ImageUrl { reason, source: Some(error.without_url().into()) }
}

/// The causes of an error, outermost first.
fn causes(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_a_setting_decides_is_explained_with_the_setting() {
        for (reason, setting) in [
            ("disabled", "--no-fetch"),
            ("host", "--fetch-hosts"),
            ("port", "--fetch-ports"),
            ("private_address", "--allow-private-networks"),
            ("private_name", "--allow-private-networks"),
            ("redirect", "--fetch-redirects"),
            ("too_many_redirects", "--fetch-redirects"),
            ("connect_timeout", "--fetch-connect-timeout"),
            ("idle_timeout", "--fetch-idle-timeout"),
            ("timeout", "--fetch-timeout"),
            ("busy", "--fetch-concurrency"),
            ("too_large", "--max-image-bytes"),
        ] {
            let text = explain_refusal(reason).unwrap();
            assert!(text.contains(setting), "{reason}: {text}");
        }
        assert_eq!(explain_refusal("dns"), None);
    }
}
