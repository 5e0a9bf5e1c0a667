//! Health, metadata, unknown routes, keys and headers of the REST side.

use serde_json::json;

use crate::support::{ALIAS, Server, get, model, post, run};

#[test]
fn health_and_metadata_have_the_bodies_that_clients_read() {
    run(async {
        let server = Server::start(&[]).await.address;
        let m = model();
        let tensor = |name: &str| json!({"name": name, "datatype": "BYTES", "shape": [-1, 1]});
        let token_ids = json!({"name": "token_ids", "datatype": "INT64", "shape": [-1, -1]});
        let score = json!({"name": "score", "datatype": "FP32", "shape": [-1, 1]});
        let metadata = json!({
            "name": m, "versions": ["1"], "platform": "onnx_onnxv1",
            "inputs": [tensor("img_url"), tensor("text"), tensor("image")],
            "outputs": [tensor("generated_output"), token_ids, score, tensor("finish_reason")],
        });
        let extensions = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];
        let this = json!({"name": m, "version": env!("CARGO_PKG_VERSION"), "extensions": extensions});
        for (path, body) in [
            ("/v2/health/live".to_owned(), json!({"live": true})),
            ("/v2/health/ready?x".to_owned(), json!({"ready": true})),
            (format!("/v2/models/{m}/ready"), json!({"name": m, "ready": true})),
            (format!("/v2/models/{ALIAS}/versions/1/ready"), json!({"name": m, "ready": true})),
            (format!("/v2/models/{m}"), metadata.clone()),
            (format!("/v2/models/{m}/versions/1"), metadata),
            ("/v2".to_owned(), this.clone()),
            ("/v2/".to_owned(), this),
        ] {
            let reply = get(server, &path, &[]).await;
            assert_eq!((reply.status, reply.json()), (200, body), "{path}");
        }
        let named = Server::start(&["--server-name=front"]).await.address;
        assert_eq!(get(named, "/v2", &[]).await.json()["name"], "front");
    });
}

#[test]
fn an_unknown_route_or_model_is_a_json_error() {
    run(async {
        let server = Server::start(&[]).await.address;
        let m = model();
        for (path, status, error) in [
            ("/nothing".to_owned(), 404, "Not Found".to_owned()),
            ("/v2/models/none".into(), 404, "Request for unknown model: 'none' is not found".into()),
            ("/v2/models/none/ready".into(), 404, "Request for unknown model: 'none' is not found".into()),
            (
                format!("/v2/models/{m}/versions/7"),
                404,
                format!("Request for unknown model: '{m}' version 7 is not found"),
            ),
            (
                format!("/v2/models/{m}/versions/x"),
                404,
                format!("Request for unknown model: '{m}' version x is not found"),
            ),
            ("/v2/models/%ff".into(), 404, "Not Found".into()),
            ("/infer".into(), 405, "Method Not Allowed".into()),
        ] {
            let reply = get(server, &path, &[]).await;
            assert_eq!((reply.status, reply.error()), (status, error), "{path}");
        }
        assert_eq!(get(server, "/infer", &[]).await.headers["allow"], "POST");
        let reply = post(server, "/v2/health/live", &[], "{}").await;
        assert_eq!((reply.status, reply.error().as_str()), (405, "Method Not Allowed"));
        let reply = post(server, "/v2/models/none/infer", &[], "{}").await;
        assert_eq!((reply.status, reply.error().as_str()), (404, "Request for unknown model: 'none' is not found"));
    });
}

#[test]
fn malformed_bodies_are_a_400_without_texts_of_libraries() {
    run(async {
        let server = Server::start(&[]).await.address;
        for (body, start) in [
            ("", "body: not valid JSON"),
            ("{\"inputs\": [", "body: not valid JSON"),
            ("{\"inputs\": []} trailing", "body: not valid JSON"),
            (&"[".repeat(60_000), "body: not valid JSON, or nested too deeply"),
            (&format!("[{}0]", "0,".repeat(100_000)), "body: more than 65536 JSON values"),
        ] {
            let reply = post(server, "/infer", &["content-type: text/plain"], body).await;
            assert!(reply.status == 400 && reply.error().starts_with(start), "{reply:?}");
        }
        let reply = post(server, "/infer", &["content-encoding: br"], "{}").await;
        assert_eq!((reply.status, reply.headers["accept-encoding"].as_str()), (415, "gzip, deflate"));
        let reply = post(server, "/infer", &["content-encoding: gzip"], "{}").await;
        assert!(reply.status == 400 && reply.error().starts_with("body: "), "{reply:?}");
        for length in ["3", "-1", "x", ""] {
            let reply = post(server, "/infer", &[&format!("inference-header-content-length: {length}")], "{}").await;
            assert!(reply.status == 400 && reply.error().starts_with("inference-header-content-length: "), "{reply:?}");
        }
    });
}

#[test]
fn every_route_but_health_requires_a_key() {
    run(async {
        let server = Server::start(&["--api-keys=alpha,beta"]).await.address;
        for (path, status) in [("/v2/health/live", 200), ("/v2/health/ready", 200), ("/v2", 401), ("/nothing", 401)] {
            assert_eq!(get(server, path, &[]).await.status, status, "{path}");
        }
        for (header, status) in [
            ("authorization: Bearer alpha", 400),
            ("authorization: bearer beta", 400),
            ("authorization: Bearer gamma", 401),
            ("authorization: Bearer ", 401),
            ("authorization: Basic alpha", 401),
            ("authorization: alpha", 401),
            ("x-key: alpha", 401),
        ] {
            let reply = post(server, "/infer", &[header], "{}").await;
            assert_eq!(reply.status, status, "{header}");
            assert_eq!(reply.headers.contains_key("www-authenticate"), status == 401);
        }
        let refused = post(server, "/infer", &[], &"x".repeat(5_000_000)).await;
        assert!(refused.status == 401 && refused.error().contains("API key"), "a large body must not lose the answer");
    });
}

#[test]
fn the_administrators_port_has_health_and_metrics_only() {
    run(async {
        let server = Server::start(&["--api-keys=alpha"]).await;
        assert_eq!(get(server.admin, "/v2/health/live", &[]).await.json(), json!({"live": true}));
        assert_eq!(get(server.admin, &format!("/v2/models/{}/ready", model()), &[]).await.status, 200);
        let key = &["authorization: Bearer alpha"];
        assert_eq!(get(server.admin, "/v2", key).await.status, 404);
        assert_eq!(post(server.admin, "/infer", key, "{}").await.status, 404);
    });
}

#[test]
fn a_request_id_is_returned_or_generated() {
    run(async {
        let server = Server::start(&[]).await.address;
        assert_eq!(get(server, "/v2", &["x-request-id: abc"]).await.headers["x-request-id"], "abc");
        for odd in ["x-request-id: ", "x-request-id: two words", "accept: */*"] {
            assert_eq!(get(server, "/nothing", &[odd]).await.headers["x-request-id"].len(), 32, "{odd}");
        }
    });
}
