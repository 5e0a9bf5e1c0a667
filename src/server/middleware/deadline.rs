//! How long a client will wait: the header `x-request-timeout-ms` of REST, `grpc-timeout` of gRPC.
//!
//! `grpc-timeout` is read here and not by tonic, which would answer CANCELLED instead of `DEADLINE_EXCEEDED`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{error::CaptionError, server::middleware::context::Transport};

const REST_HEADER: &str = "x-request-timeout-ms";
/// For the list of headers that web pages may send.
pub(crate) const TIMEOUT_HEADER: HeaderName = HeaderName::from_static(REST_HEADER);
const GRPC_HEADER: &str = "grpc-timeout";

/// What the client asked for, if it did.
pub(crate) fn requested_timeout(wire: Transport, headers: &HeaderMap) -> Result<Option<Duration>, CaptionError> {
    let (name, read, reason): (_, fn(&HeaderValue) -> Option<Duration>, _) = match wire {
        Transport::Rest => (REST_HEADER, milliseconds, "must be a whole number of milliseconds, 1 or more"),
        Transport::Grpc => (GRPC_HEADER, grpc_timeout, "must be at most 8 digits and a unit of H, M, S, m, u, n"),
    };
    let Some(value) = headers.get(name) else { return Ok(None) };
    read(value).map(Some).ok_or_else(|| CaptionError::invalid(name, reason))
}

fn milliseconds(value: &HeaderValue) -> Option<Duration> {
    digits(value.to_str().ok()?, 15).filter(|count| *count > 0).map(Duration::from_millis)
}

fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count = digits(count, 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A number written in decimal digits only (`parse` alone takes a plus sign too).
fn digits(text: &str, most: usize) -> Option<u64> {
    let is_number = text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: Transport, value: &str) -> Result<Option<Duration>, CaptionError> {
        let name = if wire == Transport::Rest { REST_HEADER } else { GRPC_HEADER };
        requested_timeout(wire, &HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
    }

    #[test]
    fn reads_every_unit_of_grpc() {
        for (text, expected) in [
            ("2H", Duration::from_hours(2)),
            ("3M", Duration::from_mins(3)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(Transport::Grpc, text).unwrap(), Some(expected), "{text}");
        }
        assert_eq!(requested_timeout(Transport::Grpc, &HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn names_the_header_that_is_wrong() {
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S"] {
            let text = read(Transport::Grpc, bad).unwrap_err().to_string();
            assert!(text.starts_with("grpc-timeout: "), "{bad}: {text}");
        }
        for bad in ["", "0", "-5", "+5", "1.5", "1s", "9999999999999999"] {
            let text = read(Transport::Rest, bad).unwrap_err().to_string();
            assert!(text.starts_with("x-request-timeout-ms: "), "{bad}: {text}");
        }
        assert_eq!(read(Transport::Rest, "1500").unwrap(), Some(Duration::from_millis(1500)));
    }
}
