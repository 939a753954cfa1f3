//! The connections to servers: one store for each bucket or host, and the threads that wait for answers.

use super::super::place::without_secrets;
use crate::error::{Error, Result};
use crate::limits::{
    REMOTE_BACKOFF_MILLIS, REMOTE_CONNECT_SECONDS, REMOTE_REQUESTS, REMOTE_RETRIES, REMOTE_RETRY_SECONDS,
    REMOTE_STALL_SECONDS,
};
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

/// What all requests share.
pub struct Client {
    pub runtime: Runtime,
    /// Requests that may be under way at once.
    pub requests: Arc<Semaphore>,
    stores: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>,
}

/// Where an object is.
#[derive(Clone, Debug)]
pub struct Location {
    pub url: Arc<Path>,
    pub store: Arc<dyn ObjectStore>,
    pub key: Key,
}

/// A URL in its parts.
struct Url<'a> {
    scheme: &'a str,
    /// Host and port, or bucket.
    host: &'a str,
    path: &'a str,
}

static CLIENT: LazyLock<std::result::Result<Client, String>> = LazyLock::new(Client::new);

/// The client; started when it is first wanted.
pub fn client() -> Result<&'static Client> {
    CLIENT.as_ref().map_err(|problem| Error::Usage(problem.clone()))
}

/// Fails if `path` is no URL that can be read.
pub fn check(path: &Path) -> Result<()> {
    Url::parse(path).and_then(|url| url.key(path)).map(|_| ())
}

impl Client {
    fn new() -> std::result::Result<Self, String> {
        // There is one provider of cryptography in the program, but rustls must be told.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("remote").enable_all().build();
        let runtime = runtime.map_err(|e| format!("cannot start the threads that read over the network: {e}"))?;
        let requests = Arc::new(Semaphore::new(REMOTE_REQUESTS));
        Ok(Self { runtime, requests, stores: Mutex::default() })
    }

    /// Where the object at the URL `path` is.
    pub fn locate(&self, path: &Path) -> Result<Location> {
        let url = Url::parse(path)?;
        let key = url.key(path)?;
        let root = format!("{}://{}", url.scheme, url.host);
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&root) {
            return Ok(Location { url: path.into(), store: store.clone(), key });
        }
        // Some clients look for a runtime when they are made.
        let _inside = self.runtime.enter();
        let store = url.store(&root).map_err(|e| Error::Usage(format!("{root}: {e}")))?;
        stores.insert(root, store.clone());
        Ok(Location { url: path.into(), store, key })
    }
}

impl<'a> Url<'a> {
    fn parse(path: &'a Path) -> Result<Self> {
        let bad = |problem: &str| Error::Usage(format!("{}: {problem}", without_secrets(path)));
        let text = path.to_str().ok_or_else(|| bad("is not UTF-8 text"))?;
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("is not a URL"))?;
        if text.contains(['?', '#']) {
            return Err(bad("has a query, which may hold a secret: recipes and reports keep URLs as they are. Sign \
                            requests with credentials in the environment (docs/distributed.md), or fetch the model first"));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            return Err(bad(
                "has a user or password in it: recipes and reports keep URLs as they are. Put credentials \
                            into the environment (docs/distributed.md)",
            ));
        }
        match scheme {
            "s3" | "gs" | "https" => {}
            "http" if std::env::var("TASKVEC_ALLOW_HTTP").is_ok_and(|v| v == "true") => {}
            "http" => {
                return Err(bad("http is neither encrypted nor authenticated; write https://, or set \
                                TASKVEC_ALLOW_HTTP=true if you trust the network"));
            }
            _ => return Err(bad("expected s3://, gs:// or https://")),
        }
        if host.is_empty() || path.trim_matches('/').is_empty() {
            return Err(bad("expected SCHEME://BUCKET-OR-HOST/PATH"));
        }
        Ok(Self { scheme, host, path })
    }

    /// The path as the store knows it. In https it is percent-encoded as everywhere; a key of a bucket is as it is.
    fn key(&self, path: &Path) -> Result<Key> {
        let key = if self.scheme.starts_with("http") { Key::from_url_path(self.path) } else { Key::parse(self.path) };
        key.map_err(|e| Error::Usage(format!("{}: {e}", path.display())))
    }

    fn store(&self, root: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        Ok(match self.scheme {
            "s3" => {
                let builder = AmazonS3Builder::new().with_client_options(options()).with_retry(retry());
                let set = |b: AmazonS3Builder, key, value: String| b.with_config(key, value);
                Arc::new(with_environment("AWS_", builder, set).with_bucket_name(self.host).build()?)
            }
            "gs" => {
                let builder = GoogleCloudStorageBuilder::new().with_client_options(options()).with_retry(retry());
                let set = |b: GoogleCloudStorageBuilder, key, value: String| b.with_config(key, value);
                Arc::new(with_environment("GOOGLE_", builder, set).with_bucket_name(self.host).build()?)
            }
            scheme => {
                let mut options = options().with_allow_http(scheme == "http");
                if let Some(headers) = authorization(self.host) {
                    options = options.with_default_headers(headers);
                }
                Arc::new(HttpBuilder::new().with_url(root).with_client_options(options).with_retry(retry()).build()?)
            }
        })
    }
}

/// Large answers may take long; what matters is that bytes arrive.
fn options() -> ClientOptions {
    ClientOptions::new()
        .with_config(ClientConfigKey::UserAgent, concat!("taskvec/", env!("CARGO_PKG_VERSION")))
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(REMOTE_CONNECT_SECONDS))
        .with_read_timeout(Duration::from_secs(REMOTE_STALL_SECONDS))
}

fn retry() -> RetryConfig {
    let init_backoff = Duration::from_millis(REMOTE_BACKOFF_MILLIS);
    let backoff = BackoffConfig { init_backoff, ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: REMOTE_RETRIES, retry_timeout: Duration::from_secs(REMOTE_RETRY_SECONDS) }
}

/// Settings from environment variables with this prefix, as the tools of the store's provider know them.
fn with_environment<B, K: FromStr>(prefix: &str, builder: B, set: impl Fn(B, K, String) -> B) -> B {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
    };
    let named = std::env::vars_os().filter_map(text).filter(|(n, _)| n.starts_with(&prefix.to_ascii_lowercase()));
    let known = named.filter_map(|(name, value)| Some((K::from_str(&name).ok()?, value)));
    known.fold(builder, |builder, (key, value)| set(builder, key, value))
}

/// The user's token for the Hugging Face hub, for that host alone.
fn authorization(host: &str) -> Option<http::HeaderMap> {
    let token = std::env::var("HF_TOKEN").ok().filter(|t| !t.is_empty() && host == "huggingface.co")?;
    let mut value = http::HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(std::iter::once((http::header::AUTHORIZATION, value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_read_or_may_hold_a_secret_are_refused_without_showing_it() {
        for (url, words) in [
            ("https://host/m?X-Amz-Signature=geheim", "has a query"),
            ("https://user:geheim@host/m", "user or password"),
            ("ftp://host/m", "expected s3://"),
            ("s3://bucket", "BUCKET-OR-HOST/PATH"),
            ("https:///m", "BUCKET-OR-HOST/PATH"),
            ("https://host/a//b", "empty path segment"),
        ] {
            let error = check(Path::new(url)).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(words) && !message.contains("geheim"), "{message}");
            assert_eq!(error.exit_code(), 2);
        }
        check(Path::new("https://host:8080/a%20b/model.safetensors")).unwrap();
    }
}
