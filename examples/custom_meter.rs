//! A meter of one's own: anything that tells watts or counts joules becomes a zone beside those that were found.
//!
//!     cargo run --example custom_meter -- /sys/class/power_supply/BAT0/power_now
//!
//! The meter here reads a file that holds a power in whole microwatts, as many sysfs files do. It says what it covers
//! (a processor package), so its energy enters the sum and the estimator stands back.

#![allow(clippy::print_stdout)] // an example talks to the person who runs it

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use wattribute::agent::Agent;
use wattribute::clock::{self, Timestamp};
use wattribute::config::Config;
use wattribute::export::stdout;
use wattribute::host::{Host, read_file};
use wattribute::meter::{Domain, Meter, Reading, Value, Why, Zone, sysfs};
use wattribute::unit::Microwatts;

/// A file with a power in µW.
struct PowerFile {
    path: String,
    zones: [Arc<Zone>; 1],
}

impl PowerFile {
    fn new(path: &str) -> Self {
        let zone = Zone {
            power_max: Microwatts::from_watts(500.0), // above this a reading is refused
            path: path.into(),
            // The domain says what part it plays: a package enters the sum.
            ..Zone::new("bench", "bench:supply", Domain::Package)
        };
        Self { path: path.into(), zones: [Arc::new(zone)] }
    }
}

impl Meter for PowerFile {
    fn zones(&self) -> &[Arc<Zone>] {
        &self.zones
    }

    fn read(&mut self, _: &Host, now: Timestamp, out: &mut [Reading]) {
        let value = match read_file(self.path.as_ref(), 4096).map(|bytes| sysfs::parse(&bytes)) {
            Ok(Some(microwatts)) => Value::Power(Microwatts(microwatts)),
            Ok(None) => Value::Missing(Why::Malformed),
            Err(_) => Value::Missing(Why::Gone), // never an error: this zone has no reading, the others have theirs
        };
        out[0] = Reading { at: now, value };
    }
}

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/sys/class/power_supply/BAT0/power_now".into());
    let config = Config::default();
    let host = Host::live(&config.host)?;
    let mut agent = Agent::new(host, config, clock::now());
    agent.add_meter(Box::new(PowerFile::new(&path)));
    agent.step(clock::now());
    for _ in 0..3 {
        sleep(Duration::from_secs(1));
        agent.step(clock::now());
    }
    for book in &agent.snapshot().zones {
        println!("{}: {} as {}", book.zone.id, book.state.as_str(), book.zone.role.as_str());
    }
    println!("{}", stdout::summary(&agent.snapshot(), 10));
    Ok(())
}
