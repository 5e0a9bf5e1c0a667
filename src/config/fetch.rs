//! Settings for fetching image URLs: the same for `serve` and `caption`. What they do is in `fetch`.

use std::{ffi::OsStr, fmt, net::Ipv6Addr, str::FromStr, time::Duration};

use clap::{Arg, Args, Command, builder::TypedValueParser, error::ErrorKind, value_parser};
use url::{Host, Url};

use crate::config::parse::positive_seconds;

/// The settings; see `blip-serve serve --help`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Fetching")]
pub struct FetchConfig {
    /// Refuse image URLs: images must be sent inside the request
    #[arg(long, env = "BLIP_NO_FETCH")]
    pub no_fetch: bool,

    /// Allow image URLs to reach loopback and private addresses
    #[arg(long, env = "BLIP_ALLOW_PRIVATE_NETWORKS")]
    pub allow_private_networks: bool,

    /// Hosts that image URLs may use, separated by commas: names, addresses, or *.example.org for all subdomains;
    /// defaults to every host
    #[arg(long, env = "BLIP_FETCH_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub fetch_hosts: Vec<HostPattern>,

    /// Ports that image URLs may use, separated by commas, or * for all; defaults to 80,443, or to * with
    /// --allow-private-networks
    #[arg(long, env = "BLIP_FETCH_PORTS", value_name = "PORTS")]
    pub fetch_ports: Option<Ports>,

    /// Maximum number of redirects to follow; each target is checked like the original URL
    #[arg(long, env = "BLIP_FETCH_REDIRECTS", value_name = "NUMBER", default_value_t = 0, value_parser = value_parser!(u8).range(..=10))]
    pub fetch_redirects: u8,

    /// Seconds for fetching an image, including all waiting and redirects
    #[arg(long, env = "BLIP_FETCH_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = positive_seconds)]
    pub fetch_timeout: Duration,

    /// Seconds to resolve the name and to connect, including TLS
    #[arg(long, env = "BLIP_FETCH_CONNECT_TIMEOUT", value_name = "SECONDS", default_value = "5", value_parser = positive_seconds)]
    pub fetch_connect_timeout: Duration,

    /// Seconds that an image server may send nothing, before the response headers or inside the body
    #[arg(long, env = "BLIP_FETCH_IDLE_TIMEOUT", value_name = "SECONDS", default_value = "5", value_parser = positive_seconds)]
    pub fetch_idle_timeout: Duration,

    /// Maximum number of concurrent fetches; further ones wait, which counts towards --fetch-timeout
    #[arg(long, env = "BLIP_FETCH_CONCURRENCY", value_name = "NUMBER", default_value_t = 32, value_parser = value_parser!(u16).range(1..=4096))]
    pub fetch_concurrency: u16,

    /// HTTP proxy that fetches and resolves names, http://host:port or http://user:password@host:port; proxy variables
    /// of the environment are ignored
    #[arg(long, env = "BLIP_FETCH_PROXY", value_name = "URL", hide_env_values = true, value_parser = ProxyParser)]
    pub fetch_proxy: Option<ProxyUrl>,
}

/// A host, or all subdomains of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// One host: a name without trailing dot, or an address.
    Exact(Host<String>),
    /// All subdomains of this name: `*.` and the name.
    Subdomains(String),
}

/// The ports that image URLs may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// `*`: every port.
    All,
    /// Only these.
    Only(Vec<u16>),
}

/// The URL of the proxy, which may contain a password; it is never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

#[derive(Clone)]
struct ProxyParser;

impl HostPattern {
    /// Whether `host` matches; it comes from the URL parser: lower case, IDNA applied, addresses recognised.
    pub fn matches(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::Exact(Host::Domain(name)), Host::Domain(host)) => name == without_dot(host),
            (Self::Exact(address), host) => address == host,
            (Self::Subdomains(name), Host::Domain(host)) => {
                let left = without_dot(host).strip_suffix(name.as_str());
                left.is_some_and(|left| left.len() > 1 && left.ends_with('.'))
            }
            (Self::Subdomains(_), _) => false,
        }
    }
}

impl Ports {
    /// Whether `port` is allowed.
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(ports) => ports.contains(&port),
        }
    }
}

impl ProxyUrl {
    /// The whole URL with its password, for the HTTP client only.
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    /// The proxy's name or address.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

/// Strips the dot of the DNS root: a name with and without it is the same name.
fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("'{text}' is not a valid host such as example.org, *.example.org or 198.51.100.7");
        let text = text.trim();
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self::Exact(Host::Ipv6(address)));
        }
        let parent = text.strip_prefix("*.");
        let host = Host::parse(parent.unwrap_or(text)).map_err(|_| invalid())?;
        match (host, parent) {
            (Host::Domain(name), parent) => {
                let name = without_dot(&name);
                // The URL standard allows stars and empty labels in hosts.
                if name.contains('*') || name.split('.').any(str::is_empty) {
                    return Err(invalid());
                }
                let exact = || Self::Exact(Host::Domain(name.to_owned()));
                Ok(parent.map_or_else(exact, |_| Self::Subdomains(name.to_owned())))
            }
            (address, None) => Ok(Self::Exact(address)),
            (_, Some(_)) => Err(invalid()),
        }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        let port = |text: &str| text.trim().parse().ok().filter(|port| *port != 0);
        let ports: Option<Vec<u16>> = text.split(',').map(port).collect();
        ports.map(Self::Only).ok_or_else(|| "must be port numbers from 1 to 65535, separated by commas, or *".into())
    }
}

impl TypedValueParser for ProxyParser {
    type Value = ProxyUrl;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<ProxyUrl, clap::Error> {
        let url = value.to_str().and_then(|text| Url::parse(text).ok());
        let is_bare = |url: &Url| matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && is_bare(url));
        // clap's own text would quote the value, which may hold a password.
        let message = "invalid value for '--fetch-proxy': it must be a URL such as http://proxy.example.org:3128\n";
        url.map(ProxyUrl).ok_or_else(|| clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command))
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, url: &str) -> bool {
        let url = Url::parse(url).unwrap();
        pattern.parse::<HostPattern>().unwrap().matches(&url.host().unwrap())
    }

    #[test]
    fn a_host_is_compared_as_the_url_parser_reads_it() {
        for (pattern, url) in [
            ("example.org", "http://EXAMPLE.org:81/"),
            ("Example.ORG.", "http://example.org/"),
            ("example.org", "http://example.org./"),
            ("example.org", "http://ex%61mple.org/"),
            ("bücher.example", "http://xn--bcher-kva.example/"),
            ("xn--bcher-kva.example", "http://BÜCHER.example/"),
            ("*.example.org", "http://a.example.org/"),
            ("*.example.org", "http://a.b.Example.org./"),
            ("93.184.216.34", "http://0x5db8d822/"),
            ("2606:2800:220:1::1", "http://[2606:2800:220:1:0:0:0:1]/"),
            ("[2606:2800:220:1::1]", "http://[2606:2800:220:1::1]/"),
        ] {
            assert!(matches(pattern, url), "{pattern} {url}");
        }
    }

    #[test]
    fn a_host_that_only_looks_similar_does_not_match() {
        for (pattern, url) in [
            ("example.org", "http://a.example.org/"),
            ("example.org", "http://example.org.evil.example/"),
            ("example.org", "http://evilexample.org/"),
            ("example.org", "http://example.org../"),
            ("example.org", "http://example.org@evil.example/"),
            ("example.org", "http://evil.example\\@example.org/"),
            ("example.org", "http://evil.example#example.org"),
            ("*.example.org", "http://example.org/"),
            ("*.example.org", "http://.example.org/"),
            ("*.example.org", "http://evilexample.org/"),
            ("*.example.org", "http://a.example.org.evil.example/"),
            ("93.184.216.34", "http://[::ffff:93.184.216.34]/"),
            ("93.184.216.34", "http://93.184.216.35/"),
        ] {
            assert!(!matches(pattern, url), "{pattern} {url}");
        }
    }

    #[test]
    fn invalid_values_are_refused() {
        for text in ["", "*", "*.", "a*.org", "*.*.org", "http://a.org", "a.org:80", "a..org", ".", "*.10.0.0.1", "a b"]
        {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
        for text in ["", "0", "65536", "80,", "80;443", "http", "-1", "*,80"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
        assert_eq!("80, 8080".parse(), Ok(Ports::Only(vec![80, 8080])));
        assert_eq!("*".parse(), Ok(Ports::All));
    }

    #[test]
    fn the_password_of_a_proxy_is_never_shown() {
        let parse = |text: &str| ProxyParser.parse_ref(&Command::new("test"), None, OsStr::new(text));
        let proxy = parse("http://user:secret@proxy.example:3128").unwrap();
        assert_eq!((proxy.host(), format!("{proxy:?}").as_str()), ("proxy.example", "***"));
        for text in ["socks5://user:secret@proxy:1080", "user:secret@proxy:3128", "http://user:secret@p/x", "http://"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("--fetch-proxy") && !error.contains("secret"), "{error}");
        }
    }
}
