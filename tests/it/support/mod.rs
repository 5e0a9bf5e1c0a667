//! What every test needs: one loaded model, servers on free ports, plain clients.

mod http;
mod image_server;

use std::{
    env,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use ::http::Uri;
use blip_serve::{
    blip::Runtime,
    captioner::Captioner,
    config::catalogue::{Catalogue, ModelEntry},
    config::{ImageConfig, ServerArgs},
    error::Cause,
    observability::prometheus::Metrics,
    registry::{Registry, Shared},
    server::{ControlSignals, Sockets, serve},
};
use clap::{Args, Command, FromArgMatches};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    net::TcpListener,
    runtime,
    sync::{Notify, oneshot},
    task::{JoinHandle, yield_now},
    time::timeout,
};

pub(crate) use self::{
    http::{Reply, chunked_post, connect, exchange, get, post, read_reply},
    image_server::{ImageServer, png},
};

/// Messages and clients of `blip.v1`.
#[allow(clippy::pedantic, missing_docs, unreachable_pub)]
pub(crate) mod pb {
    tonic::include_proto!("blip.v1");
}

/// Messages and clients of `grpc.health.v1`.
#[allow(clippy::pedantic, missing_docs, unreachable_pub)]
pub(crate) mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// hyper's client, not tonic's, whose feature would have most libraries built twice.
pub(crate) type GrpcClient = Client<HttpConnector, tonic::body::Body>;

/// Longest run of one test.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Alias of the model under test.
pub(crate) const ALIAS: &str = "scenes_0123abcd";

/// Fetch settings of the captioner.
const FETCH_FLAGS: [&str; 3] = ["--allow-private-networks", "--fetch-timeout=5", "--fetch-redirects=3"];

/// One runtime for all tests: the HTTP client of the captioner keeps connections between them.
static RUNTIME: LazyLock<runtime::Runtime> =
    LazyLock::new(|| runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// ONNX Runtime, loaded once in a process.
pub(crate) static LIBRARY: LazyLock<Runtime> = LazyLock::new(|| Runtime::load(None).unwrap());

/// The captioner of all tests, so that the model is loaded once.
static CAPTIONER: LazyLock<Captioner> = LazyLock::new(|| {
    let shared = Shared::for_cli(LIBRARY.clone()).unwrap();
    let registry = RUNTIME.handle().block_on(async { Registry::load(&catalogue(), shared).await.unwrap() });
    Captioner::new(registry, &parse::<ImageConfig>(&FETCH_FLAGS)).unwrap()
});

/// Runs a test on the shared runtime, with a timeout.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    // Outside the runtime, as loading blocks on it.
    LazyLock::force(&CAPTIONER);
    RUNTIME.block_on(async { timeout(TEST_TIMEOUT, test).await.expect("the test hangs") })
}

/// A server in the process of the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The administrators' port.
    pub(crate) admin: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server with these flags and waits until it is ready.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let (server, load) = Self::start_loading(flags).await;
        load.send(()).unwrap();
        while get(server.address, "/v2/health/ready", &[]).await.status != 200 {
            yield_now().await;
        }
        server
    }

    /// Starts a server whose model is loaded when the sender is used.
    pub(crate) async fn start_loading(flags: &[&str]) -> (Self, oneshot::Sender<()>) {
        let main = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, admin_address) = (main.local_addr().unwrap(), admin.local_addr().unwrap());
        let (shutdown, stop) = oneshot::channel::<()>();
        let (load, loaded) = oneshot::channel::<()>();
        let images: ImageConfig = parse(&["--max-image-bytes=2000000"]);
        let config = parse::<ServerArgs>(flags).resolve(&images, model()).unwrap();
        let task = tokio::spawn(async move {
            let stop = async {
                // The server of a test that ended keeps running.
                if stop.await.is_err() {
                    std::future::pending::<()>().await;
                }
                Duration::ZERO
            };
            let captioner = async { Ok::<_, Cause>(loaded.await.map(|()| CAPTIONER.clone())?) };
            let signals = ControlSignals { shutdown: stop, reload: Arc::new(Notify::new()) };
            serve(Sockets { main, admin: Some(admin) }, config, Metrics::new().unwrap(), captioner, signals)
                .await
                .unwrap();
        });
        (Self { address, admin: admin_address, shutdown: Some(shutdown), task }, load)
    }

    /// A gRPC client, made by the `with_origin` of a stub.
    pub(crate) fn grpc<T>(&self, with_origin: impl FnOnce(GrpcClient, Uri) -> T) -> T {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        with_origin(client, format!("http://{}", self.address).parse().unwrap())
    }

    /// Requests the shutdown.
    pub(crate) fn shut_down(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has stopped.
    pub(crate) async fn stopped(self) {
        self.task.await.unwrap();
    }
}

/// The name of the model under test.
pub(crate) fn model() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| CAPTIONER.registry().resolve(None, None).unwrap().name.clone());
    &NAME
}

/// The error of every image URL that cannot be used.
pub(crate) fn refused_sentence() -> String {
    format!("img_url: {}", blip_serve::error::IMAGE_URL_REFUSED)
}

/// Parses settings as the command line does.
pub(crate) fn parse<T: Args + FromArgMatches>(flags: &[&str]) -> T {
    let command = T::augment_args(Command::new("test").no_binary_name(true));
    T::from_arg_matches(&command.get_matches_from(flags)).unwrap()
}

fn catalogue() -> Catalogue {
    // Without caches a repeated request is computed anew: the tests that compare two surfaces compare two computations.
    let entry = ModelEntry {
        aliases: vec![ALIAS.to_owned()],
        threads: 2,
        caption_cache_bytes: 0,
        image_cache_bytes: 0,
        single_flight: false,
        ..ModelEntry::from_folder(&bundle())
    };
    Catalogue { default: entry.name.clone(), models: vec![entry] }
}

/// The embedded model, or another bundle to test with.
#[allow(clippy::disallowed_methods, reason = "a test has no command line of its own")]
pub(crate) fn bundle() -> PathBuf {
    let embedded = || concat!(env!("CARGO_MANIFEST_DIR"), "/models/scenes").into();
    env::var_os("BLIP_TEST_BUNDLE").map_or_else(embedded, PathBuf::from)
}
