//! `coca serve`: a page on this machine to try a model with pictures of one's own. One request is answered at a time; what
//! comes while some are waiting is turned away, too large or broken files get a message, and nothing of it ends the server.

mod demo;
mod index;
#[cfg(test)]
mod tests;

pub use demo::Demo;

use crate::cli::ServeArgs;
use crate::{Error, Result};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Largest upload, in bytes.
const MOST_BYTES: usize = 32 << 20;
/// Uploads that are held at once, the one that is answered included.
const MOST_WAITING: usize = 8;
/// Time for an upload to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// Labels of a request.
const MOST_LABELS: usize = 1000;

/// The page may load what comes from here, and pictures that it made itself.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; form-action 'none'";

/// Bytes of a label.
const MOST_LABEL_BYTES: usize = 1024;

/// What the handlers share.
struct Shared {
    demo: Mutex<Demo>,
    waiting: Arc<Semaphore>,
    /// The answer to what the model is, which waits for nobody.
    about: String,
}

impl Shared {
    fn new(demo: Demo) -> Result<Arc<Shared>> {
        let about = serde_json::to_string(&demo.about()).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Arc::new(Shared { demo: Mutex::new(demo), waiting: Arc::new(Semaphore::new(MOST_WAITING)), about }))
    }
}

/// An error as the page shows it.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, [(CONTENT_TYPE, "application/json")], serde_json::json!({ "error": self.1 }).to_string())
            .into_response()
    }
}

type Answer = std::result::Result<Response, Refusal>;

/// Serves until the process is ended.
///
/// # Errors
/// Model or images cannot be opened, or the address cannot be bound.
pub fn run(args: &ServeArgs) -> Result<()> {
    let demo = Demo::open(&args.model, args.images.as_deref(), &mut |text| say(text))?;
    let address = SocketAddr::new(args.host, args.port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("the server's threads", error))?;
    runtime.block_on(async {
        let listener = listen(address).await?;
        let bound = listener.local_addr().map_err(|error| Error::io(address.to_string(), error))?;
        say(&format!("open http://{bound} in a browser; Ctrl-C ends it"));
        serve(listener, demo).await
    })
}

/// A line on stdout; a reader that has gone is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::AddrInUse { " (choose another one with --port)" } else { "" };
        Error::invalid(format!("{address}: {error}{hint}"))
    })
}

/// Answers what comes to a listener.
async fn serve(listener: TcpListener, demo: Demo) -> Result<()> {
    let address = listener.local_addr().map_err(|error| Error::io("the server's socket", error))?;
    let shared = Shared::new(demo)?;
    let file = |kind: &'static str, text: &'static str| get(move || async move { ([(CONTENT_TYPE, kind)], text) });
    let router = Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("page/page.html")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/page.js", file("text/javascript; charset=utf-8", include_str!("page/page.js")))
        .route("/model", get(about))
        .route("/captions", post(captions))
        .route("/labels", post(labels))
        .route("/nearest", post(nearest))
        .route("/attention", post(attention))
        .with_state(shared)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn(headers))
        .layer(from_fn_with_state(address.ip(), only_this_host));
    axum::serve(listener, router).await.map_err(|error| Error::io("the server", error))
}

/// Headers of every answer.
async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// On a loopback address, refuses names that are not this machine's: a page elsewhere could have its own name lead here.
async fn only_this_host(State(bound): State<IpAddr>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // An IPv6 address stands in brackets.
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if bound.is_loopback() && name != "localhost" && !address.is_ok_and(|address| address.is_loopback()) {
        return Refusal(StatusCode::FORBIDDEN, format!("'{host}' is not this machine: open localhost")).into_response();
    }
    next.run(request).await
}

async fn about(State(shared): State<Arc<Shared>>) -> Response {
    ([(CONTENT_TYPE, "application/json")], shared.about.clone()).into_response()
}

async fn captions(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    upload(shared, request, Demo::captions).await
}

async fn nearest(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    upload(shared, request, Demo::nearest).await
}

async fn attention(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    upload(shared, request, Demo::attention).await
}

/// The labels are the lines before the first blank one; what follows is the picture.
async fn labels(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    upload(shared, request, |demo, body| {
        let end = body.windows(2).position(|pair| pair == b"\n\n");
        let (lines, picture) = end.map_or((&[][..], body), |end| (&body[..end], &body[end + 2..]));
        let lines = std::str::from_utf8(lines).map_err(|_| Error::invalid("the labels are not UTF-8"))?;
        let labels: Vec<&str> = lines.lines().map(str::trim).filter(|label| !label.is_empty()).collect();
        if labels.is_empty() || labels.len() > MOST_LABELS {
            return Err(Error::invalid(format!("1 to {MOST_LABELS} labels are wanted, got {}", labels.len())));
        }
        if let Some(long) = labels.iter().position(|label| label.len() > MOST_LABEL_BYTES) {
            let (number, bytes) = (long + 1, labels[long].len());
            return Err(Error::invalid(format!("label {number} has {bytes} bytes, {MOST_LABEL_BYTES} are allowed")));
        }
        demo.labels(picture, &labels)
    })
    .await
}

/// Takes an upload and answers it, on a thread that may block.
async fn upload<T: Serialize + Send + 'static>(
    shared: Arc<Shared>,
    request: Request,
    answer: impl FnOnce(&mut Demo, &[u8]) -> Result<T> + Send + 'static,
) -> Answer {
    let Ok(place) = shared.waiting.clone().try_acquire_owned() else {
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "too many pictures at once: try again".into()));
    };
    let too_large = || {
        let most = MOST_BYTES >> 20;
        Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("the file is larger than {most} MiB"))
    };
    let announced =
        request.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MOST_BYTES as u64) {
        return Err(too_large());
    }
    let body = match tokio::time::timeout(PATIENCE, to_bytes(request.into_body(), MOST_BYTES)).await {
        Ok(Ok(body)) => body,
        // The limit was passed, or the connection ended, which nobody hears.
        Ok(Err(_)) => return Err(too_large()),
        Err(_) => return Err(Refusal(StatusCode::REQUEST_TIMEOUT, "the picture took too long to arrive".into())),
    };
    let asked = tokio::task::spawn_blocking(move || {
        // The place is taken as long as the picture is held, also when nobody waits for the answer any more.
        let (_place, body) = (place, body);
        // After a panic the programs are as good as before: each request writes all that it reads.
        answer(&mut shared.demo.lock().unwrap_or_else(PoisonError::into_inner), &body)
    });
    let internal = |text: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, text);
    match asked.await {
        Ok(Ok(answer)) => {
            let text = serde_json::to_string(&answer).map_err(|error| internal(error.to_string()))?;
            Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
        }
        Ok(Err(error)) => Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())),
        Err(_) => Err(internal("this picture was too much; the server goes on".into())),
    }
}
