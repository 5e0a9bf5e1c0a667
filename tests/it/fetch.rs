//! Image URLs that cannot be used: one sentence outside, a reason inside.

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
        let fetcher = fetcher(&["--allow-private-networks", "--max-image-bytes=100000", "--fetch-timeout=1"]);
        for (path, expected) in [
            ("/404", "status"),
            ("/partial", "status"),
            ("/encoded", "content_encoding"),
            ("/announced", "too_large"),
            ("/endless", "too_large"),
            ("/short", "transfer"),
            ("/garbage", "transfer"),
            ("/slow", "timeout"),
            ("/loop", "too_many_redirects"),
            ("/nowhere", "redirect_location"),
            ("/redirect?file:///etc/passwd", "scheme"),
            ("/redirect?http://user:secret@127.0.0.1/", "credentials"),
        ] {
            assert_eq!(reason(&fetcher, &images.url(path)).await, expected, "{path}");
        }
        assert_eq!(reason(&fetcher, "http://127.0.0.1:1/").await, "connect");
    });
}

#[test]
fn redirects_are_followed_up_to_the_limit() {
    run(async {
        let images = ImageServer::start().await;
        let fetcher = fetcher(&["--allow-private-networks"]);
        let three = images.url("/redirect?/redirect?/redirect?/cat.png");
        assert_eq!(fetcher.fetch(&Url::parse(&three).unwrap()).await.unwrap(), png());
        let four = images.url("/redirect?/redirect?/redirect?/redirect?/cat.png");
        assert_eq!(reason(&fetcher, &four).await, "too_many_redirects");
    });
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    run(async {
        let images = ImageServer::start().await;
        let url = images.url("/cat.png");
        assert_eq!(reason(&fetcher(&[]), &url).await, "private_address");
        assert_eq!(reason(&fetcher(&[]), &url.replace("127.0.0.1", "localhost")).await, "private_address");
        let allowed = fetcher(&["--allow-private-networks"]);
        assert_eq!(allowed.fetch(&Url::parse(&url).unwrap()).await.unwrap(), png());
    });
}

#[test]
fn the_client_reads_one_sentence_whatever_happened() {
    run(async {
        let server = Server::start(&[]).await.address;
        let images = ImageServer::start().await;
        let urls = [
            images.url("/404"),
            images.url("/text"),
            images.url("/empty"),
            images.url("/garbage"),
            images.url("/redirect?file:///etc/passwd"),
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
