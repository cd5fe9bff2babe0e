//! Where the cluster is: the service account of our pod, else a kubeconfig.
//!
//! `kubernetes.kubeconfig`, then a service account (`KUBERNETES_SERVICE_HOST` and the token of our pod), then
//! `KUBECONFIG`, then `~/.kube/config`. The last is there on many machines that are in no cluster, for clusters
//! elsewhere: it is used only once there is a pod on this machine. Files are read anew at each connection, so that a
//! renewed token or certificate is found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// The token of our pod.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Where the cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Around us.
    Pod,
    /// In the kubeconfig at this path.
    File(PathBuf),
    /// In the kubeconfigs that `KUBECONFIG` names.
    Variable,
    /// In the user's own kubeconfig.
    Home(PathBuf),
}

impl Source {
    /// The strongest source.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn find(kubeconfig: Option<&Path>) -> Result<Self, String> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = kubeconfig {
            return Ok(Self::File(path.into()));
        }
        let in_pod = set("KUBERNETES_SERVICE_HOST").is_some();
        if in_pod && Path::new(TOKEN).exists() {
            return Ok(Self::Pod);
        }
        if set("KUBECONFIG").is_some() {
            return Ok(Self::Variable);
        }
        let home = set("HOME").map(|home| Path::new(&home).join(".kube/config")).filter(|path| path.is_file());
        match home {
            Some(path) if !in_pod => Ok(Self::Home(path)),
            _ if in_pod => {
                Err(format!("no token at {TOKEN}; give the pod a service account, or set kubernetes.mode: off"))
            }
            _ => Err("neither in a pod nor with a kubeconfig".into()),
        }
    }

    /// How to reach the API server, read anew.
    pub(super) async fn read(&self) -> Result<kube::Config, String> {
        let mut config = match self {
            Self::Pod => kube::Config::incluster().map_err(|error| chain(&error))?,
            Self::File(path) | Self::Home(path) => load(path, read_file(path)?).await?,
            Self::Variable => {
                let named = std::env::var_os("KUBECONFIG").unwrap_or_default();
                let paths: Vec<PathBuf> = std::env::split_paths(&named).filter(|path| path.exists()).collect();
                let mut files = paths.iter().map(|path| read_file(path));
                let first = files.next().ok_or("KUBECONFIG: no file that it names is there")??;
                let all = files.try_fold(first, |all, next| all.merge(next?).map_err(|error| words(&error)))?;
                load(Path::new("KUBECONFIG"), all).await?
            }
        };
        config.connect_timeout = Some(CONNECT);
        // Our own pace and patience: see `watch`.
        config.default_retry = false;
        Ok(config)
    }
}

fn read_file(path: &Path) -> Result<Kubeconfig, String> {
    Kubeconfig::read_from(path).map_err(|error| format!("{}: {}", path.display(), words(&error)))
}

async fn load(path: &Path, file: Kubeconfig) -> Result<kube::Config, String> {
    if file.clusters.iter().filter_map(|named| named.cluster.as_ref()).any(|cluster| cluster.proxy_url.is_some()) {
        return Err(format!("{}: proxy-url is not supported", path.display()));
    }
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| format!("{}: {}", path.display(), words(&error)))?;
    // From HTTPS_PROXY, which is for the way out of a network: API servers are mostly inside, and NO_PROXY is not known.
    config.proxy_url = None;
    Ok(config)
}

/// What is wrong with a kubeconfig; never what stands in it, which may be a token.
fn words(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(at) => format!("no kubeconfig: line {}, column {}", at.line(), at.column()),
            None => "no kubeconfig".into(),
        },
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        other => chain(other),
    }
}

/// An error with its causes, each once, on one line of bounded length.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    shorten(&text)
}

/// One line of at most 300 characters.
pub(super) fn shorten(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(300).map(clean).collect();
    if text.chars().nth(300).is_some() {
        short.push('…');
    }
    short
}
