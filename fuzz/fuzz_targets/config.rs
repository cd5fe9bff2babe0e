//! A configuration file of any bytes: taken, with values in their ranges, or refused with the file's name.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use wattribute::config::{Config, Idle, Sources};

fuzz_target!(|bytes: &[u8]| {
    let env: [(String, String); 0] = [];
    match Config::load(Sources { file: Some(("c.yaml".into(), bytes.to_vec())), env, sets: &[] }) {
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
        }
        Ok(loaded) => {
            let config = loaded.config;
            let range = Duration::from_millis(100)..=Duration::from_secs(3600);
            assert!(range.contains(&config.interval.0) && range.contains(&config.export.otlp.interval));
            assert!(config.processes.top >= 1);
            if let Idle::Watts(zones) = &config.attribution.idle {
                assert!(zones.values().all(|watts| watts.is_finite() && *watts >= 0.0));
            }
        }
    }
});
