//! The files of the playground: their headers, and that none is missing.

use std::collections::HashSet;

use crate::support::{Reply, Server, exchange, get, post, run};

/// Files that the text of a file names, as paths of the server.
fn named(text: &str) -> impl Iterator<Item = String> {
    text.split('"').filter_map(|word| {
        let file = word.strip_prefix("playground/").or(word.strip_prefix("./"))?;
        file.contains('.').then(|| format!("/playground/{file}"))
    })
}

fn is_guarded(reply: &Reply) {
    let policy = &reply.headers["content-security-policy"];
    for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.split("; ").any(|one| one == part), "{part}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    assert_eq!(reply.headers["referrer-policy"], "no-referrer");
    assert_eq!(reply.headers["cache-control"], "no-cache");
}

#[test]
fn every_file_that_the_page_names_is_served_without_a_key() {
    run(async {
        let server = Server::start(&["--api-keys=alpha"]).await.address;
        let mut to_read = vec!["/".to_owned()];
        let mut read = HashSet::new();
        while let Some(path) = to_read.pop() {
            let extension = path.rsplit_once('.').map(|(_, extension)| extension);
            // The sample image is not text.
            let method = if extension == Some("jpg") { "HEAD" } else { "GET" };
            let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let reply = exchange(server, &request).await;
            assert_eq!(reply.status, 200, "{path}");
            is_guarded(&reply);
            let content_type = &reply.headers["content-type"];
            let expected = match extension {
                None => "text/html; charset=utf-8",
                Some("css") => "text/css; charset=utf-8",
                Some("js") => "text/javascript; charset=utf-8",
                Some("svg") => "image/svg+xml",
                Some(_) => "image/jpeg",
            };
            assert_eq!(content_type, expected, "{path}");
            // Neither style attributes nor files of other servers; XML namespaces are not addresses.
            assert!(!reply.text.contains(" style=\"") && !reply.text.contains("src=\"http"), "{path}");
            to_read.extend(named(&reply.text).filter(|name| !read.contains(name)));
            read.insert(path);
        }
        assert!(read.len() > 15, "{read:?}");
    });
}

#[test]
fn a_file_that_the_browser_has_is_not_modified() {
    run(async {
        let server = Server::start(&[]).await.address;
        let page = get(server, "/", &[]).await;
        let tag = &page.headers["etag"];
        for known in [tag.clone(), format!("\"x\", {tag}"), tag.trim_start_matches("W/").to_owned(), "*".to_owned()] {
            let reply = get(server, "/", &[&format!("if-none-match: {known}")]).await;
            assert_eq!((reply.status, reply.text.as_str(), &reply.headers["etag"]), (304, "", tag), "{known}");
            is_guarded(&reply);
        }
        let other = get(server, "/playground/app.js", &[&format!("if-none-match: {tag}")]).await;
        assert!(other.status == 200 && other.headers["etag"] != *tag);
    });
}

#[test]
fn head_has_no_body_and_post_is_not_allowed() {
    run(async {
        let server = Server::start(&[]).await;
        let page = get(server.address, "/", &[]).await;
        let head = exchange(server.address, "HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert_eq!((head.status, head.text.as_str(), &head.headers["etag"]), (200, "", &page.headers["etag"]));
        assert_eq!(head.headers["content-length"], page.text.len().to_string());
        let reply = post(server.address, "/", &[], "{}").await;
        assert_eq!((reply.status, reply.error().as_str()), (405, "Method Not Allowed"));
        assert_eq!(get(server.admin, "/", &[]).await.status, 404);
    });
}
