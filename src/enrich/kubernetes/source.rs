//! Where the cluster is: the service account of our pod, else a kubeconfig.
//!
//! `kubernetes.kubeconfig`, then a service account (`KUBERNETES_SERVICE_HOST` and the token of our pod), then
//! `KUBECONFIG`, then `~/.kube/config`. The last is there on many machines that are in no cluster, for clusters
//! elsewhere: it is used only once there is a pod on this machine. Files are read anew at each connection, so that a
//! renewed token or certificate is found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};

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
        let options = KubeConfigOptions::default();
        let load = |kubeconfig: Kubeconfig| kube::Config::from_custom_kubeconfig(kubeconfig, &options);
        let shown = |path: &Path, error: &dyn std::error::Error| format!("{}: {}", path.display(), chain(error));
        let mut config = match self {
            Self::Pod => kube::Config::incluster().map_err(|error| chain(&error))?,
            Self::File(path) | Self::Home(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| shown(path, &error))?;
                load(file).await.map_err(|error| shown(path, &error))?
            }
            Self::Variable => {
                let wrong = |error: &dyn std::error::Error| format!("KUBECONFIG: {}", chain(error));
                let files = Kubeconfig::from_env().map_err(|error| wrong(&error))?;
                let files = files.ok_or("KUBECONFIG: no file that it names is there")?;
                load(files).await.map_err(|error| wrong(&error))?
            }
        };
        config.connect_timeout = Some(CONNECT);
        // Our own pace and patience: see `watch`.
        config.default_retry = false;
        Ok(config)
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
