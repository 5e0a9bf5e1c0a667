//! Image URLs that cannot be used: one fixed sentence for the client, a reason for the log.

use std::sync::atomic::Ordering;

use blip_serve::{config::ImageConfig, error::CaptionError, fetch::Fetcher};
use serde_json::json;
use url::Url;

use crate::support::{ImageServer, Server, parse, png, post, refused_sentence, run};

fn fetcher(flags: &[&str]) -> Fetcher {
    Fetcher::new(&parse::<ImageConfig>(flags)).unwrap()
}

async fn reason(fetcher: &Fetcher, url: &str) -> &'static str {
    match fetcher.fetch(&Url::parse(url).unwrap()).await {
        Err(CaptionError::ImageUrl { reason, .. }) => reason,
        other => panic!("{url}: {other:?}"),
    }
}

#[test]
fn every_failure_has_its_reason_for_the_log() {
    run(async {
        let images = ImageServer::start().await;
        let flags =
            ["--allow-private-networks", "--max-image-bytes=100000", "--fetch-timeout=1", "--fetch-redirects=3"];
        let fetcher = fetcher(&flags);
        for (path, expected) in [
            ("/404", "status"),
            ("/partial", "status"),
            ("/not_modified", "status"),
            ("/encoded", "content_encoding"),
            ("/announced", "too_large"),
            ("/endless", "too_large"),
            ("/short", "transfer"),
            ("/garbage", "transfer"),
            ("/endless_head", "transfer"),
            ("/many_headers", "transfer"),
            ("/slow", "timeout"),
            ("/loop", "too_many_redirects"),
            ("/nowhere", "redirect_location"),
            ("/redirect?http://[", "redirect_location"),
            ("/redirect?file:///etc/passwd", "scheme"),
            ("/redirect?http://user:secret@127.0.0.1/", "credentials"),
        ] {
            assert_eq!(reason(&fetcher, &images.url(path)).await, expected, "{path}");
        }
        assert_eq!(reason(&fetcher, "http://127.0.0.1:1/").await, "connect");
        assert_eq!(reason(&fetcher, "http://no-such-host.invalid/").await, "dns");
    });
}

#[test]
fn a_silent_server_ends_a_fetch_before_its_timeout() {
    run(async {
        let images = ImageServer::start().await;
        let flags = ["--allow-private-networks", "--fetch-connect-timeout=0.5", "--fetch-idle-timeout=0.5"];
        let fetcher = fetcher(&flags);
        assert_eq!(reason(&fetcher, &images.url("/silent")).await, "idle_timeout");
        assert_eq!(reason(&fetcher, &images.url("/stalled")).await, "idle_timeout");
        // The server waits for the end of the request headers and never answers the TLS handshake.
        let tls = images.url("/").replace("http:", "https:");
        assert_eq!(reason(&fetcher, &tls).await, "connect_timeout");
    });
}

#[test]
fn redirects_are_followed_up_to_the_limit() {
    run(async {
        let images = ImageServer::start().await;
        let [none, three] = ["0", "3"].map(|number| {
            let redirects = format!("--fetch-redirects={number}");
            fetcher(&["--allow-private-networks", &redirects])
        });
        for path in ["/redirect?/cat.png", "/nowhere", "/loop"] {
            assert_eq!(reason(&none, &images.url(path)).await, "redirect", "{path}");
        }
        let url = images.url("/redirect?/redirect?/redirect?/cat.png");
        assert_eq!(three.fetch(&Url::parse(&url).unwrap()).await.unwrap(), png());
        let url = images.url("/redirect?/redirect?/redirect?/redirect?/cat.png");
        assert_eq!(reason(&three, &url).await, "too_many_redirects");
    });
}

#[test]
fn every_hop_is_checked_against_hosts_and_ports() {
    run(async {
        let (images, other) = (ImageServer::start().await, ImageServer::start().await);
        let host = "--fetch-hosts=127.0.0.1,*.localhost";
        let port = format!("--fetch-ports={}", Url::parse(&images.url("/")).unwrap().port().unwrap());
        let fetcher = fetcher(&["--allow-private-networks", "--fetch-redirects=1", host, &port]);
        let here = images.url("/redirect?/cat.png");
        assert_eq!(fetcher.fetch(&Url::parse(&here).unwrap()).await.unwrap(), png());
        let elsewhere = images.url("/cat.png").replace("127.0.0.1", "localhost");
        for (target, expected) in [(elsewhere, "host"), (other.url("/cat.png"), "port")] {
            assert_eq!(reason(&fetcher, &target).await, expected);
            assert_eq!(reason(&fetcher, &images.url(&format!("/redirect?{target}"))).await, expected);
        }
    });
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    run(async {
        let images = ImageServer::start().await;
        let url = images.url("/cat.png");
        let default = fetcher(&["--fetch-ports=*"]);
        assert_eq!(reason(&default, &url).await, "private_address");
        assert_eq!(reason(&default, &url.replace("127.0.0.1", "localhost")).await, "private_address");
        let allowed = fetcher(&["--allow-private-networks"]);
        assert_eq!(allowed.fetch(&Url::parse(&url).unwrap()).await.unwrap(), png());
    });
}

#[test]
fn a_proxy_may_have_a_private_address_but_its_targets_may_not() {
    run(async {
        let images = ImageServer::start().await;
        let proxy = format!("--fetch-proxy={}", images.url("/").replace("127.0.0.1", "localhost"));
        let fetcher = fetcher(&[&proxy]);
        let url = Url::parse("http://example.com/cat.png").unwrap();
        assert_eq!(fetcher.fetch(&url).await.unwrap(), png());
        assert_eq!(reason(&fetcher, "http://127.0.0.1/cat.png").await, "private_address");
        assert_eq!(reason(&fetcher, "http://localhost/cat.png").await, "private_name");
        // The image server does not support CONNECT.
        assert_eq!(reason(&fetcher, "https://example.com/cat.png").await, "connect");
    });
}

#[test]
fn a_fetch_waits_for_a_permit() {
    run(async {
        let images = ImageServer::start().await;
        let fetcher = fetcher(&["--allow-private-networks", "--fetch-concurrency=1", "--fetch-timeout=30"]);
        let url = Url::parse(&images.url("/slow")).unwrap();
        let fetch = || {
            let (fetcher, url) = (fetcher.clone(), url.clone());
            tokio::spawn(async move { fetcher.fetch(&url).await })
        };
        let waiting = [fetch(), fetch(), fetch()];
        for number in 1..=3 {
            images.slow_request().await;
            assert_eq!(images.slow_requests.load(Ordering::SeqCst), number);
            images.release();
        }
        for fetch in waiting {
            assert_eq!(fetch.await.unwrap().unwrap(), png());
        }
    });
}

#[test]
fn the_client_gets_one_sentence_for_every_failure() {
    run(async {
        let server = Server::start(&[]).await.address;
        let images = ImageServer::start().await;
        let urls = [
            images.url("/404"),
            images.url("/text"),
            images.url("/empty"),
            images.url("/garbage"),
            images.url("/redirect?file:///etc/passwd"),
            images.url("/redirect?http://10.0.0.1:1/"),
            images.url("/loop"),
            images.url("/short"),
            images.url("/endless_head"),
            "http://no-such-host.invalid/cat.png".to_owned(),
            "http://127.0.0.1:1/cat.png".to_owned(),
            "http://[::1]:1/cat.png".to_owned(),
            "ftp://example.com/cat.png".to_owned(),
            "cat.png".to_owned(),
            "data:image/png;base64,*".to_owned(),
        ];
        for url in urls {
            let input = json!({"name": "img_url", "shape": [1], "datatype": "BYTES", "data": [url]});
            let reply = post(server, "/infer", &[], &json!({ "inputs": [input] }).to_string()).await;
            assert_eq!((reply.status, reply.error()), (400, refused_sentence()), "{url}");
        }
    });
}
