//! Which image URLs are allowed, as far as it can be decided before a name is resolved.
//!
//! Every hop is checked here, as the one parsed [`Url`] that the HTTP client then gets: the check and the connection
//! cannot interpret the same text differently.

use std::net::IpAddr;

use url::{Host, Url};

use crate::config::fetch::{FetchConfig, HostPattern, Ports};
use crate::fetch::address::is_global;

/// Default ports of http and https.
const WEB_PORTS: [u16; 2] = [80, 443];

/// Suffixes that IANA and ICANN reserve for private networks. A proxy would resolve them in its own network.
const PRIVATE_SUFFIXES: [&str; 5] = [".localhost", ".local", ".internal", ".home.arpa", ".onion"];

/// The rules for image URLs, from the settings.
#[derive(Debug)]
pub(super) struct Policy {
    is_enabled: bool,
    hosts: Vec<HostPattern>,
    ports: Ports,
    allow_private_networks: bool,
    is_proxied: bool,
}

impl Policy {
    pub(super) fn new(config: &FetchConfig) -> Self {
        // Servers of a private network seldom use port 80.
        let default_ports = || if config.allow_private_networks { Ports::All } else { Ports::Only(WEB_PORTS.to_vec()) };
        Self {
            is_enabled: !config.no_fetch,
            hosts: config.fetch_hosts.clone(),
            ports: config.fetch_ports.clone().unwrap_or_else(default_ports),
            allow_private_networks: config.allow_private_networks,
            is_proxied: config.fetch_proxy.is_some(),
        }
    }

    /// Checks a URL.
    ///
    /// # Errors
    /// The reason why it is not allowed.
    pub(super) fn check(&self, url: &Url) -> Result<(), &'static str> {
        if !self.is_enabled {
            return Err("disabled");
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err("scheme");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials");
        }
        let host = url.host().ok_or("no_host")?;
        if !self.hosts.is_empty() && !self.hosts.iter().any(|pattern| pattern.matches(&host)) {
            return Err("host");
        }
        if !self.allow_private_networks {
            self.check_is_public(&host)?;
        }
        match url.port_or_known_default() {
            Some(port) if self.ports.contains(port) => Ok(()),
            _ => Err("port"),
        }
    }

    /// Checks what the resolver does not check: addresses, and with a proxy also names.
    fn check_is_public(&self, host: &Host<&str>) -> Result<(), &'static str> {
        let address: IpAddr = match host {
            Host::Ipv4(address) => (*address).into(),
            Host::Ipv6(address) => (*address).into(),
            Host::Domain(name) if self.is_proxied && is_private_name(name) => return Err("private_name"),
            Host::Domain(_) => return Ok(()),
        };
        if is_global(address) { Ok(()) } else { Err("private_address") }
    }
}

/// Whether a name is not in the public DNS: `localhost` and every name without a dot, or one of the suffixes.
fn is_private_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.contains('.') || PRIVATE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ImageConfig;

    fn reason(flags: &[&str], url: &str) -> &'static str {
        let policy = Policy::new(&ImageConfig::from_flags(flags).fetch);
        policy.check(&Url::parse(url).unwrap()).err().unwrap_or("allowed")
    }

    #[test]
    fn an_address_is_refused_in_every_notation() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0X7F.0.0.1/",
            "http://0177.0.0.1/",
            "http://0177.0x0.1/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://１２７。０。０。１/",
            "http://①②⑦.0.0.1/",
            "http://0/",
            "http://169.254.169.254/latest/meta-data/",
            "http://2852039166/",
            "http://[::1]/",
            "http://[::]/",
            "http://[0:0:0:0:0:ffff:7f00:1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[64:ff9b:1::a9fe:a9fe]/",
            "https://192.168.1.1:443/",
            "http:\\\\127.0.0.1\\",
            "http:127.0.0.1",
            "http:////127.0.0.1/",
            "http://\t127.0.\n0.1/",
        ] {
            assert_eq!(reason(&[], url), "private_address", "{url}");
        }
    }

    #[test]
    fn a_host_that_is_neither_name_nor_address_is_not_a_url() {
        for text in [
            "http://[fe80::1%25eth0]/",
            "http://[fe80::1%eth0]/",
            "http://127.0.0.1.1/",
            "http://256.0.0.1/",
            "http://4294967296/",
            "http://0x100000000/",
            "http://[127.0.0.1]/",
            "http://127.0.0.1:99999/",
            "http://exa mple.com/",
            "http://127.0.0.1%00.example.com/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn schemes_and_credentials_are_refused() {
        for (url, expected) in [
            ("ftp://example.com/a.png", "scheme"),
            ("file:///etc/passwd", "scheme"),
            ("gopher://127.0.0.1:6379/_INFO", "scheme"),
            ("http://user@example.com/", "credentials"),
            ("http://:secret@example.com/", "credentials"),
            ("http://example.com%40@127.0.0.1/", "credentials"),
            ("http://a:b@c@127.0.0.1/", "credentials"),
            ("http://127.0.0.1\\@example.com/", "private_address"),
            ("http://example.com\\@127.0.0.1/", "allowed"),
        ] {
            assert_eq!(reason(&[], url), expected, "{url}");
        }
    }

    #[test]
    fn only_the_ports_of_http_and_https_are_allowed_unless_set() {
        let cases: [(&[&str], &str, &str); 9] = [
            (&[], "http://example.com/", "allowed"),
            (&[], "http://example.com:443/", "allowed"),
            (&[], "http://example.com:22/", "port"),
            (&[], "https://example.com:8443/", "port"),
            (&[], "http://example.com:0/", "port"),
            (&["--fetch-ports=8443"], "https://example.com:8443/", "allowed"),
            (&["--fetch-ports=8443"], "https://example.com/", "port"),
            (&["--allow-private-networks"], "http://10.0.0.1:9000/", "allowed"),
            (&["--allow-private-networks", "--fetch-ports=80"], "http://10.0.0.1:9000/", "port"),
        ];
        for (flags, url, expected) in cases {
            assert_eq!(reason(flags, url), expected, "{flags:?} {url}");
        }
    }

    #[test]
    fn only_listed_hosts_are_allowed() {
        let hosts = "--fetch-hosts=example.org,*.cdn.example,10.0.0.1";
        for (url, expected) in [
            ("http://example.org/", "allowed"),
            ("http://a.cdn.example/", "allowed"),
            ("http://cdn.example/", "host"),
            ("http://93.184.216.34/", "host"),
            ("http://10.0.0.1/", "private_address"),
        ] {
            assert_eq!(reason(&[hosts], url), expected, "{url}");
        }
        assert_eq!(reason(&["--no-fetch", hosts], "http://example.org/"), "disabled");
    }

    #[test]
    fn names_of_private_networks_are_not_sent_to_a_proxy() {
        let proxy = "--fetch-proxy=http://10.0.0.1:3128";
        for url in ["http://localhost/", "http://metadata.google.internal./", "http://a.localhost/", "http://intranet/"]
        {
            assert_eq!(reason(&[proxy], url), "private_name", "{url}");
            assert_eq!(reason(&[], url), "allowed", "the resolver decides: {url}");
            assert_eq!(reason(&[proxy, "--allow-private-networks"], url), "allowed", "{url}");
        }
        assert_eq!(reason(&[proxy], "http://169.254.169.254/"), "private_address");
        assert_eq!(reason(&[proxy], "http://example.com/"), "allowed");
    }

    #[test]
    fn a_name_is_private_without_a_dot_or_below_a_reserved_suffix() {
        let proxy = "--fetch-proxy=http://10.0.0.1:3128";
        for name in
            ["localhost", "a.localhost", "a.local", "a.b.internal", "a.home.arpa", "a.onion", "a.onion.", "host"]
        {
            assert_eq!(reason(&[proxy], &format!("http://{name}/")), "private_name", "{name}");
        }
        for name in ["a.notlocal", "localhost.example", "internal.example.", "home.arpa.example", "a.onions"] {
            assert_eq!(reason(&[proxy], &format!("http://{name}/")), "allowed", "{name}");
        }
    }

    #[test]
    fn both_ends_of_the_ports_are_checked() {
        for (ports, port, expected) in [
            ("1,65535", 1, "allowed"),
            ("1,65535", 2, "port"),
            ("1,65535", 65535, "allowed"),
            ("1,65535", 65534, "port"),
            ("*", 1, "allowed"),
            ("80", 81, "port"),
            ("80", 79, "port"),
        ] {
            let flag = format!("--fetch-ports={ports}");
            assert_eq!(reason(&[&flag], &format!("http://example.com:{port}/")), expected, "{ports} {port}");
        }
    }

    #[test]
    fn an_address_is_public_up_to_the_edge_of_a_private_block() {
        for (url, expected) in [
            ("http://9.255.255.255/", "allowed"),
            ("http://10.0.0.0/", "private_address"),
            ("http://172.32.0.0/", "allowed"),
            ("http://172.31.255.255/", "private_address"),
            ("http://[2000::]/", "allowed"),
            ("http://[1fff:ffff::]/", "private_address"),
        ] {
            assert_eq!(reason(&[], url), expected, "{url}");
            assert_eq!(reason(&["--allow-private-networks"], url), "allowed", "{url}");
        }
    }
}
