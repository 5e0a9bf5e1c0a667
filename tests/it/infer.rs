//! The request of the template, and the form of inference requests and responses.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{ALIAS, ImageServer, Reply, Server, model, png, post, refused_sentence, run};

/// The template's request, byte for byte but for the address of the image.
const TEMPLATE_BODY: &str = r#"{
                "inputs": [
                    {
                    "name": "img_url",
                    "shape": [1],
                    "data": ["https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg"],
                    "datatype": "BYTES"
                    },
                    {
                    "name": "text",
                    "optional": true,
                    "shape": [1],
                    "data": ["a photography of"],
                    "datatype": "BYTES"
                    }
                ]
                }"#;

struct Setup {
    server: Server,
    images: ImageServer,
}

impl Setup {
    async fn start() -> Self {
        Self { server: Server::start(&[]).await, images: ImageServer::start().await }
    }

    async fn infer(&self, body: &Value) -> Reply {
        post(self.server.address, "/infer", &[], &body.to_string()).await
    }

    /// Each body gets a 400 whose text starts so.
    async fn refuses<const N: usize>(&self, rows: [(Value, String); N]) {
        for (body, start) in rows {
            let reply = self.infer(&body).await;
            assert_eq!(reply.status, 400, "{start}");
            assert!(reply.error().starts_with(&start), "{} / {start}", reply.error());
        }
    }

    /// The image as an input, with one more member of the request.
    fn with(&self, key: &str, value: Value) -> Value {
        let mut body = json!({"inputs": [input("img_url", &json!([self.images.url("/cat.png")]))]});
        body[key] = value;
        body
    }
}

fn input(name: &str, data: &Value) -> Value {
    json!({"name": name, "shape": [data.as_array().unwrap().len()], "datatype": "BYTES", "data": data})
}

#[test]
fn the_request_of_the_template_gets_the_response_of_the_template() {
    run(async {
        let setup = Setup::start().await;
        let demo = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg";
        let body = TEMPLATE_BODY.replace(demo, &setup.images.url("/cat.png"));
        let mut captions = vec![];
        for path in [
            "/infer".to_owned(),
            format!("/v2/models/{}/infer", model()),
            format!("/v2/models/{}/versions/1/infer?x=y", model()),
            format!("/v2/models/{ALIAS}/versions/1/infer"),
        ] {
            let reply = post(setup.server.address, &path, &["authorization: Bearer whatever"], &body).await;
            let caption = reply.captions().pop().unwrap();
            let expected = format!(
                r#"{{"model_name":"{}","model_version":"1","outputs":[{{"name":"generated_output","datatype":"BYTES","shape":[1],"data":[{}]}}]}}"#,
                model(),
                json!(caption),
            );
            assert_eq!(reply.text, expected);
            assert!(caption.starts_with("a photography of"), "{caption}");
            captions.push(caption);
        }
        captions.dedup();
        assert_eq!(captions.len(), 1);
    });
}

#[test]
fn an_image_has_the_same_caption_as_a_url_a_redirect_a_data_url_or_base64() {
    run(async {
        let setup = Setup::start().await;
        let file = STANDARD.encode(png());
        let mut captions = vec![];
        for (name, data) in [
            ("img_url", setup.images.url("/cat.png")),
            ("image_url", setup.images.url("/mislabelled")),
            ("img_url", setup.images.url("/redirect?/cat.png")),
            ("img_url", format!("data:image/png;base64,{file}")),
            ("image", file.clone()),
        ] {
            captions.extend(setup.infer(&json!({"inputs": [input(name, &json!([data]))]})).await.captions());
        }
        assert_eq!(captions.len(), 5);
        captions.dedup();
        assert_eq!(captions.len(), 1, "{captions:?}");
    });
}

#[test]
fn several_images_are_answered_in_order_and_in_the_rank_of_the_request() {
    run(async {
        let setup = Setup::start().await;
        let url = setup.images.url("/cat.png");
        let images = input("img_url", &json!([url, url, url]));
        let alone = setup.infer(&json!({"inputs": [images]})).await;
        assert_eq!(alone.json()["outputs"][0]["shape"], json!([3]));
        let texts = input("prompt", &json!(["a", "", "the"]));
        let with_texts = setup.infer(&json!({"inputs": [images, texts]})).await.captions();
        assert!(with_texts[0].starts_with('a') && with_texts[2].starts_with("the"), "{with_texts:?}");
        assert_eq!(with_texts[1], alone.captions()[1]);
        let one_text = setup.infer(&json!({"inputs": [images, input("text", &json!(["the"]))]})).await.captions();
        assert_eq!(one_text, vec![with_texts[2].clone(); 3]);
        for data in [json!([[url], [url]]), json!([url, url])] {
            let column = json!({"name": "img_url", "shape": [2, 1], "datatype": "BYTES", "data": data});
            let reply = setup.infer(&json!({"inputs": [column]})).await;
            assert_eq!(reply.json()["outputs"][0]["shape"], json!([2, 1]));
            assert_eq!(reply.captions(), alone.captions()[..2]);
        }
    });
}

#[test]
fn parameters_may_be_inputs_or_parameters_of_the_request() {
    run(async {
        let setup = Setup::start().await;
        let parameter = |name: &str, datatype: &str, value: Value| json!({"name": name, "shape": [1], "datatype": datatype, "data": [value]});
        let mut inputs = setup.with("id", json!("7"))["inputs"].clone();
        let list = inputs.as_array_mut().unwrap();
        list.push(parameter("num_beams", "INT64", json!(3)));
        list.push(parameter("num_return_sequences", "UINT8", json!(2)));
        list.push(parameter("early_stopping", "BYTES", json!("never")));
        list.push(parameter("length_penalty", "FP32", json!(0.5)));
        list.push(parameter("max_new_tokens", "INT32", json!(4)));
        let as_inputs = setup.infer(&json!({"id": "7", "inputs": inputs})).await;
        assert!(as_inputs.text.starts_with(r#"{"id":"7","model_name":"#), "{}", as_inputs.text);
        assert_eq!(as_inputs.json()["outputs"][0]["shape"], json!([2]));
        let parameters = json!({
            "num_beams": 3.0, "num_return_sequences": 2, "early_stopping": "never", "length_penalty": 0.5,
            "max_new_tokens": 4, "triton_x": 1, "priority": 2, "binary_data_output": false,
        });
        let at_request = setup.infer(&setup.with("parameters", parameters)).await;
        assert_eq!(at_request.captions(), as_inputs.captions());
    });
}

#[test]
fn requested_outputs_are_returned_with_the_caption_first() {
    run(async {
        let setup = Setup::start().await;
        let requested = json!([{"name": "score"}, {"name": "finish_reason"}, {"name": "generated_output"}]);
        let outputs = setup.infer(&setup.with("outputs", requested)).await.json()["outputs"].clone();
        assert_eq!(outputs[0]["name"], "generated_output");
        assert_eq!(outputs[1]["name"], "score");
        assert!(outputs[1]["datatype"] == "FP32" && outputs[1]["data"][0].as_f64().unwrap() < 0.0, "{outputs}");
        assert!(["eos", "length"].contains(&outputs[2]["data"][0].as_str().unwrap()), "{outputs}");
        let score = setup.infer(&setup.with("outputs", json!([{"name": "score"}]))).await.json()["outputs"].clone();
        assert_eq!(score, json!([outputs[1]]));
    });
}

#[test]
fn a_wrong_tensor_is_a_400_that_names_its_field() {
    run(async {
        let setup = Setup::start().await;
        let m = model();
        let tensor = |shape: Value, datatype: &str, data: Value| json!({"inputs": [{"name": "img_url", "shape": shape, "datatype": datatype, "data": data}]});
        let expects = format!("inference input 'img_url' data-type is 'FP32', but model '{m}' expects 'BYTES'");
        let rows = [
            (tensor(json!([1]), "FP32", json!([1.5])), format!("inputs[0].datatype: {expects}")),
            (tensor(json!([2]), "BYTES", json!(["x"])), "inputs[0].data: has 1 elements".to_owned()),
            (tensor(json!([-1]), "BYTES", json!(["x"])), "inputs[0].shape: must be".to_owned()),
            (tensor(json!([1, 2]), "BYTES", json!(["x", "y"])), "inputs[0].shape: unexpected shape [1, 2]".to_owned()),
            (
                tensor(json!([33]), "BYTES", json!(vec!["x"; 33])),
                "inputs[0].data: has 33 elements, more than".to_owned(),
            ),
            (json!({"inputs": [input("nope", &json!(["x"]))]}), {
                format!("inputs[0].name: unexpected inference input 'nope' for model '{m}'")
            }),
            (setup.with("outputs", json!([{"name": "bad"}])), {
                format!("outputs[0].name: unexpected inference output 'bad' for model '{m}'")
            }),
            (json!([]), "body: must be an object".to_owned()),
        ];
        setup.refuses(rows).await;
    });
}

#[test]
fn a_wrong_combination_or_value_is_a_400_that_names_its_field() {
    run(async {
        let setup = Setup::start().await;
        let good = STANDARD.encode(png());
        let image = input("image", &json!([good]));
        let and = |other: Value| json!({ "inputs": [image, other] });
        let beams = |value: Value| json!({"inputs": [image], "parameters": {"num_beams": value}});
        let urls = json!([setup.images.url("/cat.png"), setup.images.url("/404"), setup.images.url("/text")]);
        let sentence = refused_sentence();
        let rows = [
            (json!({"inputs": []}), "img_url: missing required input 'img_url'"),
            (and(image.clone()), "inputs[1].name: 'image' is given twice"),
            (and(input("img_url", &json!(["http://x/"]))), "img_url: only one of img_url and image"),
            (and(input("text", &json!(["a", "b"]))), "text: has 2 elements"),
            (and(input("text", &json!(["x".repeat(20_000)]))), "text: must be at most 16384 bytes"),
            (beams(json!("5")), "num_beams: must be an integer"),
            (beams(json!(5.5)), "num_beams: must be an integer"),
            (beams(json!(0)), "num_beams: "),
            (json!({"inputs": [image], "parameters": {"beams": 5}}), "parameters.beams: unknown parameter"),
            (json!({"inputs": [input("image", &json!(["?"]))]}), "image: is not valid base64"),
            (json!({"inputs": [input("image", &json!(["dGV4dA=="]))]}), "image: not an image"),
            (json!({"inputs": [input("image", &json!([good, "dGV4dA=="]))]}), "image[1]: not an image"),
            (json!({"inputs": [input("img_url", &json!(["ftp://x/"]))]}), &sentence),
            (
                json!({"inputs": [input("img_url", &urls)]}),
                "img_url[1]: the image could not be fetched from this URL; img_url[2]: ",
            ),
        ];
        setup.refuses(rows.map(|(body, start)| (body, start.to_owned()))).await;
    });
}
