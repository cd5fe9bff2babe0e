//! What docker keeps of a container: `<data root>/containers/<id>/config.v2.json`.
//!
//! The daemon writes the file when the container is created, so before it has a cgroup, anew at every change, and by a
//! rename, so never half (moby, `daemon/container/container.go`). Of a few KiB we need the id, the name (with a slash
//! before it), the image as whoever started it wrote it, and the image's id. The directories above are open to root
//! only. A daemon with `userns-remap` has its data root one directory deeper, a rootless one in its user's home.

use std::path::Path;

use serde::Deserialize;

use super::found::{Found, read};

/// The largest file that is read. Labels and environment make some of them large.
const SIZE_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct Container {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Name")]
    name: Option<String>,
    #[serde(rename = "Image")]
    image_id: Option<String>,
    #[serde(rename = "Config")]
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "Image")]
    image: Option<String>,
}

/// Reads the file of the container `id`; none: docker does not know it.
///
/// # Errors
/// Why the file cannot be read or understood, with its path.
pub(super) fn look(root: &Path, id: &str) -> Result<Option<Found>, String> {
    let containers = root.join("containers");
    let path = containers.join(id).join("config.v2.json");
    let Some(bytes) = read(&path, SIZE_MAX, &containers)? else { return Ok(None) };
    match parse(&bytes) {
        Some(found) if found.id == id => Ok(Some(found)),
        _ => Err(format!("{}: not what docker writes there", path.display())),
    }
}

/// What a `config.v2.json` says.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Found> {
    let Container { id, name, image_id, config } = serde_json::from_slice(bytes).ok()?;
    let name = name.map(|name| name.strip_prefix('/').map(str::to_owned).unwrap_or(name));
    Found::new(id, name, config.and_then(|config| config.image), image_id.as_deref())
}
