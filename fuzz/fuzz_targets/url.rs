//! The URL of an image: `data:` URIs, and which addresses may be fetched.

#![no_main]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use blip_serve::{caption::ImageSource, config::ImageConfig, fetch::Fetcher, server::fuzzing::image_url};
use blip_serve_fuzz::verdict;
use clap::Parser;
use http::Uri;
use libfuzzer_sys::fuzz_target;
use url::{Host, Url};

/// The fetcher's own flags.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    image: ImageConfig,
}

static PUBLIC: LazyLock<Fetcher> = LazyLock::new(|| fetcher(&["url"]));
static ANY: LazyLock<Fetcher> = LazyLock::new(|| fetcher(&["url", "--allow-private-networks"]));

fn fetcher(flags: &[&str]) -> Fetcher {
    Fetcher::new(&Flags::parse_from(flags).image).expect("a fetcher")
}

fuzz_target!(|text: &[u8]| {
    let Ok(text) = str::from_utf8(text) else { return };
    match image_url(text) {
        Ok(ImageSource::Url(url)) => check(&url),
        Ok(source) => verdict::image(&source),
        Err(error) => verdict::refused(&error),
    }
});

fn check(url: &Url) {
    let (public, any) = (PUBLIC.allows(url), ANY.allows(url));
    assert!(any || !public, "{url} is permitted only without private networks");
    if any {
        assert!(matches!(url.scheme(), "http" | "https"));
        assert!(url.username().is_empty() && url.password().is_none());
    }
    let address: Option<IpAddr> = match url.host() {
        Some(Host::Ipv4(address)) => Some(address.into()),
        Some(Host::Ipv6(address)) => Some(address.into()),
        _ => None,
    };
    if let Some(address) = address {
        assert!(!public || !is_special(address), "{url} is at {address}");
    }
    // The HTTP client parses the text again, and must arrive at the host that was checked.
    if any && let Ok(uri) = url.as_str().parse::<Uri>() {
        assert_eq!(uri.host(), url.host_str());
        assert_eq!(uri.port_u16().or(url.port_or_known_default()), url.port_or_known_default());
    }
}

/// Whether an address, or the IPv4 address in it, is not public by the standard library's classification.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_special_v4(v4),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let is_nat64 = bits >> 32 == 0x0064_ff9b << 64;
            let inside = v6.to_ipv4_mapped().or(is_nat64.then(|| Ipv4Addr::from_bits(bits as u32)));
            inside.map_or_else(|| is_special_v6(v6), is_special_v4)
        }
    }
}

fn is_special_v4(v4: Ipv4Addr) -> bool {
    let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
    v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_documentation()
        || v4.octets()[0] == 0
        || is_shared
}

fn is_special_v6(v6: Ipv6Addr) -> bool {
    let is_6to4 = v6.segments()[0] == 0x2002;
    let is_teredo = v6.segments()[..2] == [0x2001, 0];
    v6.is_loopback()
        || v6.is_unspecified()
        || v6.is_multicast()
        || v6.is_unique_local()
        || v6.is_unicast_link_local()
        || is_6to4
        || is_teredo
}
