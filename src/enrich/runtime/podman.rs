//! What podman keeps of its containers: the two lists in `<storage>/<driver>-containers/`.
//!
//! They belong to containers/storage (`containers.go` there), which writes them by a rename: `containers.json`, and
//! `volatile-containers.json` for those that are not to survive a crash, which is what `podman run --rm` makes. An entry
//! has the id, names, the image's id, and metadata of podman's own, which are JSON in a string and name the image as
//! podman resolved it. CRI-O and buildah keep theirs in the same lists. Only root may read them; the storage of a
//! rootless podman is in its user's home.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::found::{Found, read};

/// The largest list that is read: some 20,000 containers.
const SIZE_MAX: u64 = 16 << 20;
/// The storage drivers that podman has.
const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];
/// Those that survive a crash, and those that need not.
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

#[derive(Deserialize)]
struct Container {
    id: String,
    names: Option<Vec<String>>,
    image: Option<String>,
    metadata: Option<String>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<String>,
    #[serde(rename = "image-name")]
    image_name: Option<String>,
}

/// All containers of a storage, by id.
#[derive(Default)]
pub(super) struct Containers(HashMap<String, Found>);

impl Containers {
    /// Reads every list; what is wrong with one is said besides, and does not cost the others.
    pub(super) fn read(root: &Path) -> (Self, Option<String>) {
        let (mut all, mut wrong) = (HashMap::new(), None);
        for driver in DRIVERS {
            let directory = root.join(format!("{driver}-containers"));
            for list in LISTS {
                let path = directory.join(list);
                let strange = || format!("{}: not what podman writes there", path.display());
                match read(&path, SIZE_MAX, &directory) {
                    Ok(None) => {}
                    Ok(Some(bytes)) => match parse(&bytes) {
                        Some(found) => all.extend(found.into_iter().map(|found| (found.id.clone(), found))),
                        None => wrong = wrong.or_else(|| Some(strange())),
                    },
                    Err(what) => wrong = wrong.or(Some(what)),
                }
            }
        }
        (Self(all), wrong)
    }

    /// The container with this id, or the only one whose id begins so.
    pub(super) fn get(&self, id: &str) -> Option<&Found> {
        self.0.get(id).or_else(|| {
            let mut alike = self.0.values().filter(|found| found.id.starts_with(id));
            alike.next().filter(|_| alike.next().is_none())
        })
    }
}

/// What a list says: those of its containers that have a name or an image.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Vec<Found>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let listed: Option<Vec<Container>> = serde_json::from_slice(bytes).ok()?;
    let found = listed.unwrap_or_default().into_iter().filter_map(|container| {
        let Container { id, names, image, metadata } = container;
        // What others than podman put there need not be JSON.
        let metadata = metadata.and_then(|text| serde_json::from_str::<Metadata>(&text).ok()).unwrap_or_default();
        let name = names.and_then(|names| names.into_iter().next()).or(metadata.name);
        Found::new(id, name, metadata.image_name, image.as_deref())
    });
    Some(found.collect())
}
