//! `wattribute run`.
use crate::config::Config;
/// Runs.
/// # Errors
/// None.
pub fn run(_config: Config) -> anyhow::Result<()> {
    Ok(())
}
