//! What a container was started from: the reference of an image, taken apart as the conventions name its parts.

use crate::semconv::attr;

/// `[registry[:port]/]path[:tag][@digest]`: the name and the tag. Without a tag and a digest it is `latest`, as runtimes
/// read it.
pub(super) fn describe(image: &str, add: &mut dyn FnMut(&'static str, &str)) {
    let (tagged, digest) = image.split_once('@').map_or((image, None), |(tagged, digest)| (tagged, Some(digest)));
    let last = tagged.rfind('/').map_or(0, |slash| slash + 1);
    let colon = tagged.get(last..).and_then(|name| name.find(':')).map(|colon| last + colon);
    let name = colon.map_or(tagged, |colon| tagged.get(..colon).unwrap_or(tagged));
    let tag = colon.and_then(|colon| tagged.get(colon + 1..)).or(digest.is_none().then_some("latest"));
    add(attr::CONTAINER_IMAGE_NAME, name);
    tag.filter(|tag| !tag.is_empty()).into_iter().for_each(|tag| add(attr::CONTAINER_IMAGE_TAG, tag));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_from_their_tags() {
        for (image, name, tag) in [
            ("nginx", "nginx", Some("latest")),
            ("nginx:1.25", "nginx", Some("1.25")),
            ("registry:5000/nginx", "registry:5000/nginx", Some("latest")),
            ("registry:5000/a/nginx:1", "registry:5000/a/nginx", Some("1")),
            ("a/b@sha256:abc", "a/b", None),
            ("a/b:2@sha256:abc", "a/b", Some("2")),
            ("a:", "a", None),
        ] {
            let mut found = Vec::new();
            describe(image, &mut |key, value| found.push((key, value.to_owned())));
            let mut expected = vec![("container.image.name", name.to_owned())];
            expected.extend(tag.map(|tag| ("container.image.tag", tag.to_owned())));
            assert_eq!(found, expected, "{image}");
        }
    }
}
