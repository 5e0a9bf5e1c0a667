//! How image URLs are fetched: the same flags for `serve` and `caption`.
//!
//! A value that means nothing fails the start and names its flag. What the settings do is in [`crate::fetch`].

use std::{ffi::OsStr, fmt, net::Ipv6Addr, str::FromStr, time::Duration};

use clap::{Arg, Args, Command, builder::TypedValueParser, error::ErrorKind};
use url::{Host, Url};

use crate::config::seconds;

/// The settings; see `blip-serve serve --help`.
#[derive(Clone, Debug, Args)]
pub struct FetchConfig {
    /// Fetch nothing: images come inside requests only
    #[arg(long, env = "BLIP_NO_FETCH")]
    pub no_fetch: bool,

    /// The only hosts that image URLs may name, separated by commas: names, addresses, *.example.org for all below
    #[arg(long, env = "BLIP_FETCH_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub fetch_hosts: Vec<HostPattern>,

    /// The only ports of image URLs, separated by commas, or * for all; if not set 80,443, with --allow-private-networks *
    #[arg(long, env = "BLIP_FETCH_PORTS", value_name = "PORTS")]
    pub fetch_ports: Option<Ports>,

    /// Redirects that are followed, each checked like the URL itself
    #[arg(long, env = "BLIP_FETCH_REDIRECTS", value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=10))]
    pub fetch_redirects: u8,

    /// Seconds that fetching an image may take, with all waiting and redirects
    #[arg(long, env = "BLIP_FETCH_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = some_seconds)]
    pub fetch_timeout: Duration,

    /// Seconds to look up the name and to connect, TLS included
    #[arg(long, env = "BLIP_FETCH_CONNECT_TIMEOUT", value_name = "SECONDS", default_value = "5", value_parser = some_seconds)]
    pub fetch_connect_timeout: Duration,

    /// Seconds that an image's server may take for the answer's head, and be silent inside its body
    #[arg(long, env = "BLIP_FETCH_IDLE_TIMEOUT", value_name = "SECONDS", default_value = "5", value_parser = some_seconds)]
    pub fetch_idle_timeout: Duration,

    /// Images that are fetched at the same time; the others wait, which --fetch-timeout counts
    #[arg(long, env = "BLIP_FETCH_CONCURRENCY", value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub fetch_concurrency: u16,

    /// HTTP proxy that fetches and looks up names, http://host:port or http://user:password@host:port; those of the environment are ignored
    #[arg(long, env = "BLIP_FETCH_PROXY", value_name = "URL", hide_env_values = true, value_parser = ProxyParser)]
    pub fetch_proxy: Option<ProxyUrl>,
}

/// A host, or everything below a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// A name without trailing dot, or an address.
    Exactly(Host<String>),
    /// `*.` and this name.
    Below(String),
}

/// Ports that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// `*`.
    All,
    /// No others.
    Only(Vec<u16>),
}

/// Where the proxy is, and how to log in there. Never gets into a log.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

#[derive(Clone)]
struct ProxyParser;

impl HostPattern {
    /// Whether this stands for `host`, as the URL parser gives it: lower case, IDNA applied, addresses recognised.
    pub fn matches(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::Exactly(Host::Domain(name)), Host::Domain(host)) => name == without_dot(host),
            (Self::Exactly(address), host) => address == host,
            (Self::Below(name), Host::Domain(host)) => {
                let left = without_dot(host).strip_suffix(name.as_str());
                left.is_some_and(|left| left.len() > 1 && left.ends_with('.'))
            }
            (Self::Below(_), _) => false,
        }
    }
}

impl Ports {
    /// Whether `port` is one of them.
    pub fn contain(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(ports) => ports.contains(&port),
        }
    }
}

impl ProxyUrl {
    /// The whole URL, for the HTTP client only.
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    /// The proxy's name or address.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

/// A name with or without the dot of the DNS root is the same name.
fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn some_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("0 seconds are not enough for anything".into()),
        duration => Ok(duration),
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no host such as example.org, *.example.org or 198.51.100.7");
        let text = text.trim();
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self::Exactly(Host::Ipv6(address)));
        }
        let below = text.strip_prefix("*.");
        let host = Host::parse(below.unwrap_or(text)).map_err(|_| wrong())?;
        match (host, below) {
            (Host::Domain(name), below) => {
                let name = without_dot(&name);
                // The URL standard allows stars and empty labels in hosts.
                if name.contains('*') || name.split('.').any(str::is_empty) {
                    return Err(wrong());
                }
                let exactly = || Self::Exactly(Host::Domain(name.to_owned()));
                Ok(below.map_or_else(exactly, |_| Self::Below(name.to_owned())))
            }
            (address, None) => Ok(Self::Exactly(address)),
            (_, Some(_)) => Err(wrong()),
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
        ports.map(Self::Only).ok_or_else(|| "ports are numbers from 1 to 65535, separated by commas, or *".into())
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
    fn what_only_looks_like_a_host_does_not_match() {
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
    fn values_that_mean_nothing_are_refused() {
        for text in ["", "*", "*.", "a*.org", "*.*.org", "http://a.org", "a.org:80", "a..org", ".", "*.10.0.0.1", "a b"]
        {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
        for text in ["", "0", "65536", "80,", "80;443", "http", "-1", "*,80"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
        assert_eq!("80, 8080".parse(), Ok(Ports::Only(vec![80, 8080])));
        assert_eq!("*".parse(), Ok(Ports::All));
        assert!(some_seconds("0").is_err() && some_seconds("0.0").is_err() && some_seconds("0.1").is_ok());
    }

    #[test]
    fn a_proxy_s_password_is_in_no_text() {
        let parse = |text: &str| ProxyParser.parse_ref(&Command::new("test"), None, OsStr::new(text));
        let proxy = parse("http://user:secret@proxy.example:3128").unwrap();
        assert_eq!((proxy.host(), format!("{proxy:?}").as_str()), ("proxy.example", "***"));
        for text in ["socks5://user:secret@proxy:1080", "user:secret@proxy:3128", "http://user:secret@p/x", "http://"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("--fetch-proxy") && !error.contains("secret"), "{error}");
        }
    }
}
