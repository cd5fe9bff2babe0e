//! What the file of a runtime says of one container, and what of it is taken.
//!
//! Whole ids, and texts that can be a name: not empty, not longer than any is, without control characters, since they
//! are shown in terminals. An image that is called by its own id has no name; its id alone would read as one.

use std::io::ErrorKind;
use std::path::Path;

use crate::enrich::image;
use crate::host::read_file;
use crate::semconv::attr;
use crate::workload::docker::{is_hex, is_id};
use crate::workload::{Attribute, Names};

/// The longest name or reference that is taken, in bytes.
pub(super) const TEXT_MAX: usize = 1024;

/// What a runtime keeps of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its full id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The reference of its image.
    pub image: Option<String>,
}

impl Found {
    /// None if `id` is no id, or neither name nor image is usable.
    pub(super) fn new(id: String, name: Option<String>, image: Option<String>, image_id: Option<&str>) -> Option<Self> {
        let usable = |text: &String| !text.is_empty() && text.len() <= TEXT_MAX && !text.contains(char::is_control);
        let name = name.filter(usable);
        let image = image.filter(|image| usable(image) && !is_image_id(image, image_id.unwrap_or_default()));
        (is_id(&id) && (name.is_some() || image.is_some())).then_some(Self { id, name, image })
    }

    /// As the workload's names.
    pub(super) fn names(&self, runtime: &str) -> Names {
        let mut attributes: Vec<Attribute> = Vec::new();
        let mut add = |key: &'static str, value: &str| attributes.push((key.into(), value.to_owned()));
        add(attr::CONTAINER_RUNTIME_NAME, runtime);
        self.name.iter().for_each(|name| add(attr::CONTAINER_NAME, name));
        self.image.iter().for_each(|image| image::describe(image, &mut add));
        Names { name: self.name.clone().unwrap_or_default(), attributes, ..Names::default() }
    }
}

/// Whether `image` is (the beginning of) the id of the image that it stands for. Less than four digits are rather a name.
fn is_image_id(image: &str, id: &str) -> bool {
    let bare = |text| str::strip_prefix(text, "sha256:");
    bare(image).is_some_and(is_hex) || (image.len() >= 4 && is_hex(image) && bare(id).unwrap_or(id).starts_with(image))
}

/// Reads a file of at most `limit` bytes; none: there is none. `directory` is named where we may not enter it.
pub(super) fn read(path: &Path, limit: u64, directory: &Path) -> Result<Option<Vec<u8>>, String> {
    match read_file(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
            ErrorKind::PermissionDenied => {
                let directory = directory.display();
                let advice = "containers keep their id; run as root, or grant CAP_DAC_READ_SEARCH";
                Err(format!("{directory}: permission denied: {advice}"))
            }
            _ => Err(format!("{}: {error}", path.display())),
        },
    }
}
