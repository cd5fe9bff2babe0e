//! A cgroup path, walked down component by component as the agent does it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wattribute::workload::{Kind, Verdict, classify};

fuzz_target!(|text: &str| {
    let mut path = String::new();
    let mut around = Kind::Node;
    for part in text.split('/').filter(|part| !part.is_empty()).take(64) {
        path.push('/');
        path.push_str(part);
        let Verdict::Begins(found) = classify(&path, around) else { continue };
        assert!(!found.is_empty(), "{path:?}: something begins, but nothing does");
        for identity in &found {
            let kind = identity.id.kind();
            assert!(!matches!(kind, Kind::Node | Kind::Kernel | Kind::Process), "{path:?}: no cgroup is a {kind:?}");
            assert!(!identity.name.is_empty(), "{path:?}: {:?} has no name", identity.id);
            let id = identity.id.to_string();
            assert!(id.len() > kind.as_str().len() + 1, "{path:?}: {id:?} names nothing");
            around = kind;
        }
    }
});
